"""The Train LoRA node: what it writes, what it shows, and that it replaces and starts nothing."""

import json
import shlex
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from inkstone.errors import InkstoneError
from inkstone.host.headless import HeadlessHost, using
from inkstone.loaders.lora.adapters import Adapter
from inkstone.loaders.lora.file import load_lora
from inkstone.loaders.models.load import EMBEDDED_FOLDER, load_all
from inkstone.loaders.models.weight_file import LoadOptions
from inkstone.nodes.train import TrainLora
from inkstone.pipeline.train_choices import DEFAULTS, OPTIONS, TrainSettings
from inkstone.pipeline.train_file import read_settings
from inkstone.training.lora.models import model_files

from ..support.embedded_loras import embedded_lora

USUAL = {
    "name": "hexagon",
    "pictures": "input/hexagons",
    "references": "",
    "steps": 0,
    "rank": 16,
    "lr": 1e-4,
    "resolution": 0,
    "sample_prompts": "",
}


@pytest.fixture(scope="module")
def bundle():
    return load_all(None, LoadOptions(torch.float32, wait=True))


def run(bundle, **changes):
    inputs = {
        "model": bundle.model,
        "text_encoder": bundle.text_encoder,
        "vae": bundle.vae,
        **USUAL,
        **changes,
    }
    done = TrainLora.execute(**inputs)
    return done.args[0], "".join(done.ui.as_dict()["text"])


def written(name="hexagon"):
    return TrainSettings(**read_settings(Path("output") / f"{name}.json"))


def test_the_embedded_model(bundle, place):
    command, text = run(bundle)
    assert command == "inkstone train-lora --settings output/hexagon.json"
    settings = written()
    assert settings == TrainSettings(
        data=Path("input/hexagons"), output=Path("models/loras/hexagon.safetensors")
    )
    assert settings.model is None, "the embedded one needs no file"
    assert command in text and "models/loras/hexagon-checkpoints" in text
    assert [p.name for p in place.rglob("*") if p.is_file()] == ["hexagon.json"], "nothing else"


def test_files_of_models_and_every_widget(bundle, place, tmp_path):
    (place / "models").mkdir()
    far = tmp_path / "disk" / "vae.safetensors"
    model = replace(
        bundle.model,
        family=replace(bundle.model.family, shipped=False),
        path=place / "models" / "diffusion_models" / "q.gguf",
    )
    changed = type(bundle)(
        model,
        replace(bundle.text_encoder, path=place / "models" / "text_encoders" / "t.gguf"),
        replace(bundle.vae, path=far),
    )
    run(
        changed,
        name=" my style.safetensors ",
        pictures=' "C:\\pictures\\of me" ',
        references="/data/before",
        steps=800,
        rank=32,
        lr=5e-5,
        resolution=512,
        sample_prompts="a cat\n\n  a dog, \u732b \n",
    )
    assert written("my style") == TrainSettings(
        data=Path("C:\\pictures\\of me"),
        output=Path("models/loras/my style.safetensors"),
        model=Path("models/diffusion_models/q.gguf"),
        text_encoder=Path("models/text_encoders/t.gguf"),
        vae=far,
        control_dir=(Path("/data/before"),),
        steps=800,
        rank=32,
        lr=5e-5,
        resolution=512,
        sample_prompts=("a cat", "a dog, \u732b"),
    )


def test_a_folder_of_all_three_is_named_once_and_a_variant_is_kept(tiny_folder, place):
    bundle = load_all(tiny_folder("edit-2511"), LoadOptions(torch.float32, wait=True))
    run(bundle)
    settings = written()
    assert settings.model == tiny_folder("edit-2511").absolute()
    assert (settings.text_encoder, settings.vae, settings.variant) == (None, None, "edit-2511")


def test_a_copy_of_the_embedded_model_is_a_model_of_its_own(bundle, place):
    """It may be changed: the shipped one would be trained in its place."""
    shutil.copytree(EMBEDDED_FOLDER, place / "mod")
    run(load_all(place / "mod", LoadOptions(torch.float32, wait=True)))
    settings = written()
    assert settings.model == Path("mod")
    assert (settings.text_encoder, settings.vae, settings.variant) == (None, None, None)
    files = model_files(replace(settings, model=place / "mod"), torch.device("cpu"))
    assert files.vae == files.text_encoder == files.model == place / "mod"


@pytest.mark.parametrize("part", ["text_encoder", "vae", "model"])
def test_one_part_of_a_copy(bundle, place, part):
    """Each part is the connected one, whatever the command would take by itself."""
    mixed = replace(bundle, **{part: replace(getattr(bundle, part), path=place / "mod")})
    run(mixed)
    settings = written()
    rest = {"text_encoder", "vae"} if part == "model" else set()
    named = {name for name in ("model", "text_encoder", "vae") if getattr(settings, name)}
    assert named == {part} | rest and getattr(settings, part) == Path("mod")
    assert all(getattr(settings, name) == EMBEDDED_FOLDER for name in rest)


def test_a_home_folder(bundle, place, monkeypatch):
    """Nobody expands ~ in a settings file."""
    for name in ("HOME", "USERPROFILE"):
        monkeypatch.setenv(name, str(place / "home"))
    run(bundle, pictures="~/pics", references=' "~" ')
    settings = written()
    assert settings.data == place / "home" / "pics"
    assert settings.control_dir == (place / "home",)
    with pytest.raises(InkstoneError, match="'~bob/pics' begins with the name of a user.*whole"):
        run(bundle, pictures="~bob/pics", name="other")


def test_a_name_with_spaces_is_quoted(bundle, place):
    command, _ = run(bundle, name="it's mine $(x)")
    assert shlex.split(command)[-1] == "output/it's mine $(x).json"


def test_the_same_settings_are_written_again_and_others_refused(bundle, place):
    first, _ = run(bundle)
    assert run(bundle)[0] == first
    before = (place / "output" / "hexagon.json").read_bytes()
    with pytest.raises(InkstoneError, match="hexagon.json with other settings exists.*replaces no"):
        run(bundle, rank=8)
    assert (place / "output" / "hexagon.json").read_bytes() == before
    (place / "output" / "other.json").write_text("my own notes")
    with pytest.raises(InkstoneError, match="other.json with other settings exists"):
        run(bundle, name="other")
    assert (place / "output" / "other.json").read_text() == "my own notes"
    (place / "output" / "folder.json").mkdir()
    with pytest.raises(InkstoneError, match="exists"):
        run(bundle, name="folder")


@pytest.mark.parametrize("name", ["", "../x", "a/b", "a\\b", ".x", "con", "x" * 240, "a:b", "a\0"])
def test_a_name_stays_in_the_folder(bundle, place, name):
    with pytest.raises(InkstoneError, match="is not a file name.*my-lora"):
        run(bundle, name=name)
    assert not (place / "output").exists()


def test_what_cannot_be_trained_is_refused(bundle, place, tmp_path):
    with pytest.raises(InkstoneError, match="pictures is empty"):
        run(bundle, pictures=' "" ')
    lora = load_lora(embedded_lora(tmp_path / "style.safetensors", bundle))
    adapted = replace(bundle, model=bundle.model.with_loras([Adapter(lora)]))
    with pytest.raises(InkstoneError, match=r"has a LoRA \(style.safetensors\).*the loader"):
        run(adapted)
    with pytest.raises(InkstoneError, match="vae got str"):
        run(bundle, vae="x")
    with pytest.raises(InkstoneError, match="--rank is 5000"):
        run(bundle, rank=5000)


def test_an_output_folder_elsewhere(bundle, place, tmp_path):
    with using(HeadlessHost(output=tmp_path / "far" / "out")):
        command, text = run(bundle)
    assert command == "inkstone train-lora --settings hexagon.json"
    assert "in ComfyUI's output folder" in text
    stored = json.loads((tmp_path / "far" / "out" / "hexagon.json").read_text())
    assert Path(stored["output"]).is_absolute()


def test_widgets_have_the_limits_and_defaults_of_the_settings():
    inputs = {item.id: item for item in TrainLora.define_schema().inputs}
    for name in ("steps", "rank", "lr", "resolution"):
        item, option = inputs[name], OPTIONS[name]
        assert item.default == (DEFAULTS[name] or 0) and item.max <= option.high
        assert item.min == 0 if DEFAULTS[name] is None else item.min >= option.low
