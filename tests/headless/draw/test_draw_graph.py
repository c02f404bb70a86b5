"""The graph in the PNG of a draw of the embedded model: it draws the same picture."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from inkstone.files.png import read_text_chunks
from inkstone.loaders.formats.safetensors import save_safetensors
from inkstone.loaders.models import load
from inkstone.loaders.models.load import EMBEDDED_FOLDER

from ...support.draw_graphs import check, drawn, folders, kinds
from .test_edit_draw import pixels, save

PROMPT = "a red circle on a white background"


@pytest.fixture
def files(place) -> Path:
    return folders(place)


TEXT = {
    "plain": (),
    "guided": ("--cfg", "2.5", "--negative", "a blue star"),
    "unguided": ("--cfg", "1"),
    "another size": ("--size", "160x96", "--seed", "7"),
    "a size of the list": ("--size", "128x128", "--fast"),
    "in another type": ("--dtype", "bfloat16", "--cfg", "3"),
    "the model by its path": ("--model", str(EMBEDDED_FOLDER)),
    "with other options of the machine": ("--memory", "2GB", "--device", "cpu"),
}


@pytest.mark.slow
@pytest.mark.parametrize("what", TEXT)
def test_text_to_image(what, files):
    made = drawn(PROMPT, *TEXT[what])
    check(made)
    assert kinds("made.png")[0] == "LoadAll"


@pytest.mark.slow
def test_every_picture_of_a_batch_has_its_own_seed(files):
    made = drawn(PROMPT, "--batch", "2", "--seed", str(2**64 - 1), "--size", "96x160")
    assert not np.array_equal(*made.values())
    check(made)
    seeds = [
        next(
            n["inputs"]["seed"]
            for n in json.loads(read_text_chunks(name)["prompt"]).values()
            if "seed" in n["inputs"]
        )
        for name in made
    ]
    assert seeds == [2**64 - 1, 0]


PICTURES = {
    "image to image": ("--image", "input/a.png", "--strength", "0.7", "--cfg", "2"),
    "from a picture with alpha": ("--image", "input/clear.png", "--strength", "0.7"),
    "an edit": ("--image", "input/sub/b.png"),
    "an edit of a picture with alpha": ("--image", "input/clear.png", "--cfg", "2"),
    "an edit on its own canvas": ("--image", "input/clear.png", "--size", "96x160", "--cfg", "2"),
    "inpaint": ("--image", "input/a.png", "--mask", "input/mask.png", "--strength", "0.9"),
    "inpaint with alpha": ("--image", "input/clear.png", "--mask", "input/hole.png"),
}


@pytest.mark.slow
@pytest.mark.parametrize("what", PICTURES)
def test_from_a_picture(what, files):
    check(drawn("make the star green", *PICTURES[what], "--batch", "2", steps=3))
    found = kinds("made_1.png")
    assert ("EncodeEdit" in found) == ("edit" in what) and ("Inpaint" in found) == (
        "inpaint" in what
    )


@pytest.mark.slow
def test_inpaint_of_a_part_of_a_large_picture(files):
    save("input/large.png", pixels(420, 300))
    mask = np.zeros((300, 420), np.uint8)
    mask[200:220, 300:320] = 255
    save("input/there.png", mask)
    check(drawn(PROMPT, "--image", "input/large.png", "--mask", "input/there.png"))


@pytest.mark.slow
def test_a_moving_picture_gives_its_first(files):
    frames = [Image.fromarray(pixels(seed=n)) for n in range(3)]
    frames[0].save("input/moves.webp", save_all=True, append_images=frames[1:], lossless=True)
    clear = [Image.fromarray(pixels(channels=4, seed=n)) for n in range(2)]
    clear[0].save("input/clear.webp", save_all=True, append_images=clear[1:], lossless=True)
    for name in ("moves", "clear"):
        check(drawn(PROMPT, "--image", f"input/{name}.webp", "--strength", "0.8"))
        assert "ImageFromBatch" in kinds("made.png")


@pytest.mark.slow
def test_files_of_their_own(files):
    """Each of the three parts from its own place, ."""
    parts = {}
    for part, kind in (("transformer", "diffusion_models"), ("text_encoder", "text_encoders")):
        parts[part] = f"models/{kind}/own"
        Path(parts[part]).symlink_to(EMBEDDED_FOLDER)
    vae = ("--vae", "models/vae/own")
    Path("models/vae/own").symlink_to(EMBEDDED_FOLDER)
    check(
        drawn(
            PROMPT,
            "--model",
            parts["transformer"],
            "--cfg",
            "1",
            "--text-encoder",
            parts["text_encoder"],
            *vae,
        )
    )
    assert kinds("made.png")[:3] == ["LoadDiffusionModel", "LoadTextEncoder", "LoadVAE"]
    check(drawn(PROMPT, "--cfg", "1", *vae))
    assert kinds("made.png")[:2] == ["LoadAll", "LoadVAE"]


@pytest.mark.slow
def test_int8_is_of_the_diffusion_model_alone(files, monkeypatch):
    monkeypatch.setattr(load, "int8_refusal", lambda *_: "")
    Path("models/vae/own").symlink_to(EMBEDDED_FOLDER)
    call = (PROMPT, "--size", "256x256", "--cfg", "1", "--vae", "models/vae/own")
    made = drawn(*call, "--dtype", "int8")
    check(made)
    text = read_text_chunks("made.png")
    nodes = json.loads(text["prompt"]).values()
    types = [n["inputs"]["dtype"] for n in nodes if n["class_type"].startswith("InkstoneLoad")]
    assert types == ["int8", "auto"]
    assert json.loads(text["inkstone"])["dtype"] == "int8"
    assert not np.array_equal(made["made.png"], drawn(*call)["made.png"])


@pytest.mark.slow
@pytest.mark.parametrize("count", [1, 2, 5])
def test_loras(count, files):
    loras = []
    for n in range(count):
        name = f"models/loras/{'sub/' * (n > 0)}l{n}.safetensors"
        lora_for_embedded(Path(name), n)
        loras += ["--lora", f"{name}:{1.5 - n / 4:g}"]
    made = drawn(PROMPT, *loras, "--cfg", "2")
    check(made)
    assert kinds("made.png").count("LoraLoader") == 1
    plain = drawn(PROMPT, "--cfg", "2")
    assert not np.array_equal(plain["made.png"], made["made.png"])


def lora_for_embedded(path: Path, seed: int) -> None:
    """A random LoRA on some matrices of the embedded model."""
    g = torch.Generator().manual_seed(seed)
    path.parent.mkdir(exist_ok=True)
    state = {}
    for block in range(3):
        for name in ("attn.to_q", "attn.to_v", "attn.to_out.0"):
            key = f"transformer_blocks.{block}.{name}"
            state[f"{key}.lora_A.weight"] = torch.randn(4, 128, generator=g) * 128**-0.5
            state[f"{key}.lora_B.weight"] = torch.randn(128, 4, generator=g) * 0.3
    save_safetensors(path, state, {})


@pytest.mark.slow
def test_the_control_that_ships(files):
    check(drawn(PROMPT, "--control", "canny:input/c.png", "--cfg", "1", steps=4))
    said = read_text_chunks("made.png")["prompt"]
    assert said.count('"embedded (ships with Inkstone)"') == 2
