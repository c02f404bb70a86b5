"""Distilled LoRAs: recognized, their schedule, and warnings of runs that do not fit them."""

import json
import logging
import shutil

import pytest
import torch
from PIL import Image

import inkstone
from inkstone.headless.cli.main import main
from inkstone.headless.draw.decide import decide
from inkstone.headless.draw.drawer import Drawer
from inkstone.headless.draw.request import DrawCall
from inkstone.loaders.lora.adapters import Adapter
from inkstone.loaders.lora.file import load_lora
from inkstone.loaders.lora.hints import warn_of_fp8
from inkstone.nodes.sample import Denoise
from inkstone.nodes.schedule import SCHEDULES
from inkstone.sampling.lightning import Distilled, misfit
from inkstone.sampling.request import Request
from inkstone.sampling.sampler import denoise
from inkstone.sampling.schedule import LIGHTNING, LIGHTNING_21, QWEN, TURBO_21, sigmas

from ...support.embedded_loras import embedded_lora, lightning_like

PROMPT = "a red circle on a white background"
LIGHT = "distilled Lightning"


def test_lightning_is_detected_by_its_layout(bundle, tmp_path):
    path = lightning_like(tmp_path / "x.safetensors", bundle)
    assert load_lora(path).distilled == Distilled(
        None, "rank 64 on every layer but modulation, bare names"
    )
    some = {"transformer_blocks.1.attn.to_q"}
    assert load_lora(lightning_like(path, bundle, leave=some)).distilled is None
    assert load_lora(lightning_like(path, bundle, rank=32)).distilled is None
    assert load_lora(embedded_lora(path, bundle)).distilled is None


@pytest.mark.parametrize(
    "stem, steps",
    [
        ("Qwen-Image-Lightning-4steps-V2.0", 4),
        ("Qwen-Image-Edit-2509-Lightning-8steps-V1.0-bf16", 8),
        ("qwen_image_edit_2511_lightning_4steps_v1.0", 4),
        ("Qwen-Image-fp8-e4m3fn-Lightning-4steps-V1.0-fp32", 4),
        ("Wuli-Qwen-Image-2512-Turbo-LoRA-4steps-V1.0", 4),
        ("lightning storm", None),
        ("911-turbo-4steps", None),
        ("qwen-image-lightning-storm-4steps", None),
        ("my Qwen-Image-Lightning-4steps-V2.0 trees", None),
        ("old_distillery_v2", None),
    ],
)
def test_lightning_is_detected_by_the_names_of_the_published_files(stem, steps, bundle, tmp_path):
    path = embedded_lora(tmp_path / f"{stem}.safetensors", bundle)
    want = Distilled(steps, "it has the name of a published one") if steps else None
    assert load_lora(path).distilled == want


@pytest.mark.parametrize(
    "stem, steps, schedule",
    [
        ("Qwen-Image-2.1-Lightning-4steps-V1.0-bf16", 4, LIGHTNING_21),
        ("qwen_image_2.1_turbo_lora_rank178", 8, TURBO_21),
        ("Qwen-Image-2.1-Porsche-911-Turbo", None, None),
        ("qwen-image-2.1-lightning-storm", None, None),
    ],
)
def test_distilled_files_of_2_1_bring_their_schedule(stem, steps, schedule, bundle, tmp_path):
    made = load_lora(embedded_lora(tmp_path / f"{stem}.safetensors", bundle)).distilled
    assert made == (Distilled(steps, "by its name", schedule) if steps else None)


@pytest.mark.parametrize(
    "metadata",
    [
        {"modelspec.title": "Porsche 911 Turbo (930)"},
        {"modelspec.title": "Qwen-Image-Lightning 4steps V2"},
        {"ss_output_name": "old_distillery_v2"},
        {"modelspec.description": "a lightning storm in 8 steps of a staircase"},
        {"comment": "a Turbo LoRA", "modelspec.tags": "distilled"},
    ],
)
def test_prose_in_the_metadata_decides_nothing(metadata, bundle, tmp_path):
    path = embedded_lora(tmp_path / "x.safetensors", bundle, metadata=metadata)
    assert load_lora(path).distilled is None


@pytest.mark.parametrize(
    "steps, run_schedule, run, cfg, words",
    [
        (8, LIGHTNING, 8, 1.0, None),
        (None, LIGHTNING, 4, 1.0, None),
        (8, LIGHTNING, 4, 1.0, "this run has 4 steps"),
        (
            None,
            LIGHTNING,
            20,
            4.0,
            "use 4 or 8 steps, CFG 1, schedule Lightning; this run has 20 steps, CFG 4",
        ),
        (8, QWEN, 8, 1.0, "this run has another schedule"),
        (
            8,
            QWEN,
            50,
            4.0,
            "(8 steps): use 8 steps, CFG 1, schedule Lightning; this run has 50 "
            "steps, CFG 4, another schedule",
        ),
    ],
)
def test_what_does_not_fit_lightning(steps, run_schedule, run, cfg, words):
    sentence = misfit(Distilled(steps, ""), sigmas(run_schedule, run, 4096), cfg)
    assert sentence is None if words is None else words in sentence


def test_sigmas_of_comfyui_simple_are_near_enough():
    """ModelSamplingAuraFlow at shift 3.1 and the scheduler `simple`, as the templates have it."""
    s = torch.linspace(1, 1 / 8, 8, dtype=torch.float64)
    levels = torch.cat([3.1 * s / (1 + 2.1 * s), torch.zeros(1)]).float()
    assert misfit(Distilled(8, ""), levels, 1.0) is None


def test_hint_at_denoise(bundle, tmp_path, caplog):
    path = lightning_like(tmp_path / "x.safetensors", bundle)
    text = bundle.text_encoder.encode(PROMPT).states

    def warnings_at(strength, run_schedule, steps):
        caplog.clear()
        model = bundle.model.with_loras([Adapter(load_lora(path), strength)])
        assert model.schedule == bundle.model.schedule
        denoise(model, text, None, Request(32, 32, sigmas(run_schedule, steps, 4)))
        return [r.message for r in caplog.records if r.levelno == logging.WARNING]

    assert warnings_at(1.0, LIGHTNING, 8) == [] and warnings_at(0.0, QWEN, 9) == []
    (line,) = warnings_at(1.0, QWEN, 9)
    assert f"this LoRA is a {LIGHT} one" in line and "9 steps, another schedule" in line


def test_lightning_says_what_it_is_meant_for_and_changes_nothing(bundle, tmp_path, caplog):
    from dataclasses import replace

    adapter = Adapter(load_lora(lightning_like(tmp_path / "x.safetensors", bundle)))
    base = replace(bundle.model, schedule=QWEN)
    with caplog.at_level(logging.INFO):
        assert base.with_loras([adapter]).schedule == QWEN
        assert "meant for 4 or 8 steps, CFG 1, schedule Lightning" in caplog.text
        assert base.with_loras([Adapter(adapter.lora, 0.0)]).schedule == QWEN
        base.with_loras([adapter, adapter])
        assert "2 distilled LoRAs at once" in caplog.text
        assert "go on top" not in caplog.text
        merged = replace(base, schedule=LIGHTNING, family=replace(base.family, schedule=QWEN))
        merged.with_loras([adapter])
        assert "by its scheduler the model is a merged Lightning one" in caplog.text


@pytest.mark.parametrize(
    "form, warned",
    [
        ("fp8 e4m3 plain + bfloat16", True),
        ("bfloat16+float8_e4m3fn", True),
        ("bfloat16", False),
        ("fp8 e4m3 scaled + float32", False),
        ("Q4_K + Q6_K", False),
    ],
)
def test_unscaled_fp8_under_lightning(form, warned, bundle, tmp_path, caplog):
    adapter = Adapter(load_lora(lightning_like(tmp_path / "x.safetensors", bundle)))
    warn_of_fp8(bundle.model.with_loras([adapter]).adapters, form)
    assert ("grid pattern" in caplog.text) == warned


@pytest.mark.slow
def test_draw_takes_lightning_defaults(place, bundle, capsys, caplog):
    caplog.set_level(logging.INFO)
    path = embedded_lora(place / "Qwen-Image-Lightning-4steps-V1.0.safetensors", bundle)
    call = ["draw", PROMPT, "--size", "32x32", "--json", "--lora", str(path)]
    assert main([*call, "-o", "a.png"]) == 0
    facts = json.loads(capsys.readouterr().out)["call"]
    assert (facts["steps"], facts["cfg"]) == (4, 1.0)
    assert f"a LoRA is a {LIGHT} one (4 steps)" in caplog.text
    assert "defaults are 4 steps, CFG 1" in caplog.text and "this run has" not in caplog.text
    assert schedule_in("a.png") == SCHEDULES[2]
    assert main([*call, "-o", "b.png", "--steps", "3", "--cfg", "2"]) == 0
    facts = json.loads(capsys.readouterr().out)["call"]
    assert (facts["steps"], facts["cfg"]) == (3, 2.0)
    assert "this run has 3 steps, CFG 2" in caplog.text and schedule_in("b.png") == SCHEDULES[0]


def schedule_in(picture):
    """The schedule in the graph that a picture carries."""
    nodes = json.loads(Image.open(picture).text["prompt"]).values()
    (value,) = (n["inputs"]["schedule"] for n in nodes if n["class_type"] == Denoise.ID)
    return value


ASKED = {
    "steps": {"steps": 3},
    "cfg": {"cfg": 1.0},
    "both": {"steps": 4, "cfg": 1.0},
    "schedule": {"schedule": "linear"},
}


@pytest.mark.slow
@pytest.mark.parametrize("asked", ASKED)
def test_a_lora_changes_no_settings_where_one_is_given(asked, bundle, tmp_path):
    """By its name or by its layout: all other settings are those of a LoRA that is plain."""
    named = embedded_lora(tmp_path / "Qwen-Image-Lightning-4steps-V1.0.safetensors", bundle)
    shaped = lightning_like(tmp_path / "x.safetensors", bundle)
    plain = embedded_lora(tmp_path / "plain.safetensors", bundle)
    drawings = []
    for path in (named, shaped, plain):
        call = DrawCall(PROMPT, lora=[(path, 1.0)], **ASKED[asked])
        drawings.append(decide(call, Drawer().load(call)))
    assert drawings[0] == drawings[1] == drawings[2]


@pytest.mark.slow
def test_every_face_keeps_the_settings_that_are_given(place, bundle, capsys):
    """Queue and Python API too: the picture is that of the same LoRA under another name."""
    named = embedded_lora(place / "Qwen-Image-Lightning-4steps-V1.0.safetensors", bundle)
    plain = shutil.copy(named, place / "plain.safetensors")
    values = {"prompt": PROMPT, "size": "32x32", "steps": 3, "seed": 5}
    api, pixels = [], {}
    for name, path in (("named", named), ("plain", plain)):
        api.append(inkstone.draw(**(values | {"lora": str(path)}))[0].tobytes())
        line = values | {"lora": [str(path)], "id": name}
        (place / f"{name}.jsonl").write_text(json.dumps(line) + "\n")
        assert main(["batch", f"{name}.jsonl", "--output", f"{name}.out"]) == 0
        (file,) = (place / f"{name}.out").glob("*.png")
        pixels[name] = Image.open(file).tobytes()
    assert api[0] == api[1] == pixels["named"] == pixels["plain"]
