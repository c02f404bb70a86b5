"""A checkpoint of ComfyUI, three models in one file, given once, by every face: the same pixels as
its three parts in files of their own.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import inkstone
from inkstone.errors import InkstoneError
from inkstone.headless.cli.main import main
from inkstone.loaders.formats.file_reader import DiskFile
from inkstone.loaders.formats.safetensors import SafetensorsFile
from inkstone.loaders.models.load import load_all
from inkstone.nodes.load import LoadAll

from ...support import tiny
from ...support.oracle import save_file

pytestmark = pytest.mark.slow

PROMPT = "a red circle"
PARTS = ("transformer", "text_encoder", "vae")
COMFY = ("model.diffusion_model.", "text_encoders.qwen25_7b.transformer.", "vae.")
STARTS = {"comfy": COMFY, "older": (COMFY[0], "cond_stage_model.", "first_stage_model.")}


@pytest.fixture(scope="module")
def parts(tmp_path_factory) -> Path:
    """Each part in a file, the tokenizer next to them."""
    torch.manual_seed(7)
    pipe = tiny.pipeline("heads as published")
    whole = tiny.save(pipe, tmp_path_factory.mktemp("hf") / "model")
    folder = tmp_path_factory.mktemp("parts")
    shutil.copytree(whole / "tokenizer", folder / "tokenizer")
    for part in PARTS:
        state = getattr(pipe, part).state_dict()
        if part == "text_encoder":  # the names of the published files
            names = (("model.language_model.", "model."), ("model.visual.", "visual."))
            state = {_renamed(n, names): t for n, t in state.items()}
        save_file({n: t.contiguous().clone() for n, t in state.items()}, folder / f"{part}.st")
        (folder / f"{part}.st").rename(folder / f"{part}.safetensors")
    return folder


def _renamed(name: str, names: tuple[tuple[str, str], ...]) -> str:
    old, new = next(((o, n) for o, n in names if name.startswith(o)), ("", ""))
    return new + name.removeprefix(old)


def checkpoint(parts: Path, out: Path, starts=COMFY, files=PARTS, packed: bool = False) -> Path:
    """One file of several. packed: the diffusion model in fp8 with scales."""
    tensors = {}
    for part, start in zip(files, starts):
        source = parts / f"{part}.safetensors"
        if packed and part == "transformer":
            source = out.with_name("fp8.safetensors")
            call = ["quantize", str(parts / "transformer.safetensors"), str(source)]
            assert main([*call, "--type", "fp8_scaled"]) == 0
        with SafetensorsFile(source) as file:
            tensors |= {start + name: file.read(name) for name in file.entries}
    save_file(tensors, out)
    if not (out.parent / "tokenizer").exists():
        shutil.copytree(parts / "tokenizer", out.parent / "tokenizer")
    return out


def drawn(*options: object) -> np.ndarray:
    call = ["draw", PROMPT, "--size", "64x64", "--steps", "2", "-o", "x.png", "--quiet"]
    assert main([*call, *map(str, options)]) == 0
    return np.asarray(Image.open("x.png"))


def by_parts(parts: Path, model: Path | None = None) -> np.ndarray:
    model = model or parts / "transformer.safetensors"
    text, vae = (parts / f"{name}.safetensors" for name in PARTS[1:])
    return drawn("--model", model, "--text-encoder", text, "--vae", vae)


@pytest.mark.parametrize("starts", STARTS)
@pytest.mark.parametrize("packed", [False, True], ids=["plain", "fp8"])
def test_a_checkpoint_given_once(starts, packed, parts, place):
    file = checkpoint(parts, place / "all.safetensors", STARTS[starts], packed=packed)
    want = by_parts(parts, place / "fp8.safetensors" if packed else None)
    assert np.array_equal(drawn("--model", file), want)


def test_every_face(parts, place, capsys):
    file = checkpoint(parts, place / "all.safetensors")
    want = by_parts(parts)
    options = {"size": "64x64", "steps": 2}
    (picture,) = inkstone.draw(PROMPT, model=file, **options)
    with inkstone.load(model=file) as models:
        (again,) = models.draw(PROMPT, **options)
    assert np.array_equal(picture, want) and np.array_equal(again, want)
    (place / "j.jsonl").write_text(json.dumps({"prompt": PROMPT, "id": "a", **options}))
    assert main(["batch", "j.jsonl", "--output", "out", "--model", str(file)]) == 0
    assert np.array_equal(np.asarray(Image.open("out/a.png")), want)
    assert main(["plan", str(file)]) == 0 and "text encoder" in capsys.readouterr().out
    assert main(["inspect", "--json", str(file)]) == 0
    roles = [facts["role"] for facts in json.loads(capsys.readouterr().out)]
    assert roles == ["diffusion_model", "text_encoder", "vae"]


def test_the_graph_of_the_picture_runs(parts, place):
    """It has one loader, which finds the file in models/checkpoints."""
    folder = place / "models" / "checkpoints"
    folder.mkdir(parents=True)
    file = checkpoint(parts, folder / "all.safetensors")
    want = drawn("--model", file)
    prompt = json.loads(Image.open("x.png").text["prompt"])
    (loader,) = (node for node in prompt.values() if node["class_type"].startswith("InkstoneLoad"))
    assert (loader["class_type"], loader["inputs"]["folder"]) == (LoadAll.ID, "all.safetensors")
    (place / "g.json").write_text(json.dumps(prompt))
    assert main(["run", "g.json", "--models", "models", "--output", "out"]) == 0
    (saved,) = Path("out").rglob("*.png")
    apart = np.asarray(Image.open(saved)).astype(int) - want
    assert abs(apart).max() <= 1  # Save Image rounds down, as core's does


def test_a_part_of_its_own_comes_first(parts, place):
    """A checkpoint without a VAE, and one whose VAE is not the one that is used."""
    vae = parts / "vae.safetensors"
    two = checkpoint(parts, place / "two.safetensors", files=PARTS[:2])
    assert np.array_equal(drawn("--model", two, "--vae", vae), by_parts(parts))
    assert main(["draw", PROMPT, "--model", str(two)]) == 2
    other = place / "vae.safetensors"
    with SafetensorsFile(vae) as file:
        save_file({name: file.read(name) * 0.5 for name in file.entries}, other)
    own = checkpoint(parts, place / "all.safetensors")
    assert not np.array_equal(drawn("--model", own, "--vae", other), by_parts(parts))
    with pytest.raises(InkstoneError, match="got one without VAE. Load each part"):
        load_all(two)


def test_it_is_opened_once_and_each_model_reads_its_own_tensors(parts, tmp_path, monkeypatch):
    file = checkpoint(parts, tmp_path / "all.safetensors")
    opened, read = [], []
    start, fill = DiskFile.__init__, DiskFile.fill

    def opening(disk, *args):
        opened.append(args[0])
        start(disk, *args)

    def filling(disk, view, at, name):
        read.append(name)
        fill(disk, view, at, name)

    monkeypatch.setattr(DiskFile, "__init__", opening)
    monkeypatch.setattr(DiskFile, "fill", filling)
    bundle = load_all(file)
    assert len(opened) == 2  # to see what is in it, and to load it
    names = [name for name in read if name != "the header"]
    assert len(names) == len(set(names))  # nothing is read for two models
    assert bundle.model.weights_format == "float32"


def test_quantize_says_what_it_leaves_out(parts, place, caplog, capsys):
    file = checkpoint(parts, place / "all.safetensors")
    with caplog.at_level("INFO"):
        assert main(["quantize", str(file), "q.gguf", "--type", "Q8_0"]) == 0
    assert "only the diffusion model is written, not the other" in caplog.text
    args = ("--model", "q.gguf", "--text-encoder", file, "--vae", file)
    alone = ["quantize", str(parts / "transformer.safetensors"), "p.gguf", "--type", "Q8_0"]
    assert main(alone) == 0
    assert np.array_equal(drawn(*args), by_parts(parts, Path("p.gguf")))
