"""The settings of a LoRA training: limits, and the file that goes from the node to the command."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from inkstone.errors import CallError
from inkstone.pipeline.train_choices import DEFAULTS, FREE, OPTIONS, TrainSettings
from inkstone.pipeline.train_file import as_json, read_settings, settings_from, write_settings

NEEDED = {"data": Path("pictures"), "output": Path("lora.safetensors")}
FULL = {
    "data": Path("a/pictures"),
    "output": Path("b/é.safetensors"),
    "model": Path("m.gguf"),
    "text_encoder": Path("t.gguf"),
    "vae": Path("v"),
    "variant": "edit-2511",
    "control_dir": (Path("before"), Path("scenes")),
    "mask_dir": Path("masks"),
    "cache_dir": Path("cache"),
    "captions": "ask",
    "resolution": 512,
    "reference_resolution": 256,
    "steps": 7,
    "batch": 2,
    "accumulate": 3,
    "lr": 2e-4,
    "lr_schedule": "cosine",
    "warmup": 5,
    "optimizer": "adamw8bit",
    "weight_decay": 0.5,
    "clip": 0.0,
    "kind": "lokr",
    "rank": 4,
    "alpha": 8.0,
    "factor": 4,
    "targets": ("*.attn.*", "*.img_mlp.*"),
    "ranks": (("0-9", 32), ("*.to_q", 0)),
    "timesteps": "uniform",
    "timestep_mean": -1.0,
    "timestep_spread": 0.5,
    "shift": 3.0,
    "weighting": "cosmap",
    "caption_dropout": 0.25,
    "module_dropout": 0.25,
    "caption_noise": 0.5,
    "ema": 0.9,
    "seed": 3,
    "save_every": 11,
    "keep": 2,
    "sample_prompts": ("a cat", "a dog"),
    "sample_every": 12,
    "tensorboard": True,
    "trigger": "xyz",
    "save_dtype": "float32",
    "list_captions": True,
    "dtype": "float32",
    "memory": 12_000_000_000,
    "device": "cpu",
}


def test_all_settings_survive_their_file(tmp_path):
    assert set(FULL) == set(OPTIONS), "a new setting belongs in FULL"
    for name, default in DEFAULTS.items():
        assert FULL[name] != default, f"{name} would survive a file that loses it"
    settings, path = TrainSettings(**FULL), tmp_path / "settings.json"
    write_settings(path, settings)
    assert TrainSettings(**read_settings(path)) == settings
    assert json.loads(path.read_text("utf-8"))["ranks"] == {"0-9": 32, "*.to_q": 0}


def test_the_defaults_survive_too():
    settings = TrainSettings(**NEEDED)
    values = as_json(settings)
    assert TrainSettings(**settings_from(values)) == settings
    assert "steps" not in values and values["rank"] == 16 and values["lr"] == 1e-4
    assert set(FREE) <= set(OPTIONS)


def test_null_is_the_default():
    given = settings_from({"alpha": None, "rank": 8, "lr": 1, "targets": "mlp", "memory": "2GB"})
    assert given == {"rank": 8, "lr": 1.0, "targets": ("mlp",), "memory": 2 * 10**9}


@pytest.mark.parametrize("given, paths", [("a", ["a"]), (["a", "b"], ["a", "b"]), ([], [])])
def test_one_folder_of_references_or_several(given, paths):
    assert settings_from({"control_dir": given}) == {"control_dir": tuple(map(Path, paths))}


@pytest.mark.parametrize(
    "text, words",
    [
        ('{"lr_schedul": "cosine"}', "'lr_schedul' is no setting: did you mean lr_schedule?"),
        ('{"network_dim": 1}', "'network_dim' is no setting: expected data, output, model"),
        ('{"lr": "fast"}', "lr is 'fast': expected a number from 1e-09 to 1."),
        ('{"lr": NaN}', "lr is nan: expected a number"),
        ('{"rank": 4.5}', "rank is 4.5: expected a whole number from 1 to 1024."),
        ('{"rank": true}', "rank is True: expected a whole number"),
        ('{"ema": 1}', "ema is 1: expected a number from 0 to 0.99999."),
        ('{"kind": "loha"}', "kind is 'loha': expected one of lora, lokr, dora."),
        ('{"ranks": {"*": -1}}', "ranks is {'*': -1}: expected ranks of layers from 0 to 1024"),
        ('{"targets": [1]}', "targets is [1]: expected a list of texts."),
        ('{"data": 3}', "data is 3: expected a path."),
        ('{"data": "a\\u0000b"}', "data is 'a\\x00b': expected a path."),
        ('{"tensorboard": 1}', "tensorboard is 1: expected true or false."),
        ('{"data": ""}', "DATA is empty: expected a path."),
        ('{"control_dir": ["a", ""]}', "--control-dir has an empty path: expected folders."),
        ('{"control_dir": [3]}', "control_dir is [3]: expected a list of paths."),
        ('{"dtype": "int8"}', "dtype is 'int8': expected one of float32, bfloat16."),
        ('{"memory": "12GX"}', "memory is '12GX': expected an amount of memory such as '12GB'"),
        ("[1]", "expected a JSON object with settings"),
        ("{", "expected a JSON object with settings"),
        ("[" * 5000, "expected a JSON object with settings"),
    ],
)
def test_a_wrong_file_is_refused_by_name(text, words, tmp_path):
    path = tmp_path / "settings.json"
    path.write_text(text)
    with pytest.raises(CallError) as fault:
        read_settings(path)
    assert words in str(fault.value) and "settings.json" in str(fault.value), str(fault.value)


@pytest.mark.parametrize(
    "change, words",
    [
        ({"lr": 5.0}, "--lr is 5.0: expected a number from 1e-09 to 1."),
        ({"seed": None}, "--seed is None: expected a whole number"),
        ({"output": Path("lora.gguf")}, "--output lora.gguf: a LoRA is a .safetensors file."),
        ({"output": Path("out/lora")}, "Name one, such as lora.safetensors."),
        ({"data": "folder"}, "DATA is 'folder': expected a path."),
        ({"memory": 12}, "--memory is 12: expected an amount of memory such as '12GB', or bytes"),
    ],
)
def test_wrong_values_are_refused_by_their_option(change, words):
    with pytest.raises(CallError) as fault:
        TrainSettings(**NEEDED | change)
    assert words in str(fault.value), str(fault.value)


@pytest.mark.parametrize(
    "change, line",
    [
        ({"factor": 4, "kind": "dora"}, "--factor 4 has no effect: only LoKr has a factor"),
        ({"factor": 4, "kind": "lokr"}, None),
        ({"timestep_mean": 0.5, "timesteps": "mode"}, "timesteps of mode have no mean"),
        ({"timestep_spread": 2.0, "timesteps": "uniform"}, "uniform timesteps have no spread"),
        ({"sample_every": 5}, "there are no --sample-prompts"),
        ({"sample_every": 5, "sample_prompts": ("a",)}, None),
        ({"warmup": 30}, "--warmup 30 is shortened to 20, the steps of the run"),
    ],
)
def test_settings_that_do_nothing_are_said(change, line):
    lines = TrainSettings(**NEEDED | change).without_effect(20)
    assert len(lines) == (line is not None) and all(line in each for each in lines), lines


@pytest.mark.parametrize("ranks", [[["0-2", 8]], [("0-2", 8)], {"0-2": 8}])
def test_ranks_are_pairs_however_they_are_given(ranks):
    settings = TrainSettings(**NEEDED, **settings_from({"ranks": ranks}))
    assert settings.ranks == (("0-2", 8),) and as_json(settings)["ranks"] == {"0-2": 8}


def test_of_repeated_ranks_the_last_counts_in_its_place():
    pairs = (("0-5", 4), ("*mlp*", 2), ("0-5", 8))
    assert TrainSettings(**NEEDED, ranks=pairs).ranks == (("*mlp*", 2), ("0-5", 8))


def test_a_setting_that_is_there_twice_is_refused(tmp_path):
    path = tmp_path / "s.json"
    path.write_text('{"rank": 8, "rank": 16}')
    with pytest.raises(CallError, match="'rank' is there twice"):
        read_settings(path)
    with pytest.raises(CallError, match="device is ''"):
        settings_from({"device": ""})


@pytest.mark.parametrize(
    "pictures, per_step, steps", [(3, 1, 500), (12, 1, 1200), (12, 2, 600), (60, 1, 3000)]
)
def test_the_number_of_steps_follows_the_pictures(pictures, per_step, steps):
    assert TrainSettings(**NEEDED).steps_for(pictures, per_step) == steps
    assert TrainSettings(**NEEDED, steps=9).steps_for(pictures, per_step) == 9
