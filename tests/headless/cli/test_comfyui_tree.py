"""A ComfyUI folder as it is: its models, and the tokenizer that the program itself brings."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from inkstone.headless.cli.main import main
from inkstone.loaders.models.load import EMBEDDED_FOLDER
from inkstone.loaders.models.tokenizer import HOST_FOLDER
from inkstone.nodes.canvas import CUSTOM

PLACES = {
    "transformer": ("diffusion_models", "qwen_image_fp8_e4m3fn.safetensors"),
    "text_encoder": ("text_encoders", "qwen_2.5_vl_7b_fp8_scaled.safetensors"),
    "vae": ("vae", "qwen_image_vae.safetensors"),
}


@pytest.fixture
def tree(tmp_path) -> Path:
    """A ComfyUI folder with the embedded model's files under the names of published ones."""
    root = tmp_path / "ComfyUI"
    shutil.copytree(EMBEDDED_FOLDER / "tokenizer", root / "comfy" / HOST_FOLDER)
    for part, (folder, name) in PLACES.items():
        file = next((EMBEDDED_FOLDER / part).glob("*.safetensors"))
        (root / "models" / folder).mkdir(parents=True)
        shutil.copy(file, root / "models" / folder / name)
        shutil.copy(file.with_name("config.json"), root / "models" / folder / "config.json")
    return root


def named(tree: Path) -> list[str]:
    """The files as `draw` takes them."""
    files = [str(tree / "models" / folder / name) for folder, name in PLACES.values()]
    return ["--model", files[0], "--text-encoder", files[1], "--vae", files[2]]


@pytest.mark.slow
def test_run_and_draw_find_the_tokenizer(tree, place, monkeypatch, capsys):
    names = [name for _, name in PLACES.values()]
    settings = dict(zip(("model", "text_encoder", "vae"), names)) | {"steps": 1}
    titles = ("Load Diffusion Model", "Load Text Encoder", "Load VAE", "Sampler")
    call = ["run", "text_to_image_qwen_image", "--quiet", "--output", "out"]
    for title, (name, value) in zip(titles, settings.items()):
        call += ["--set", f"Inkstone {title}.{name}={value}"]
    size = {"size": CUSTOM, "width": 64, "height": 64}
    for name, value in size.items():
        call += ["--set", f"Inkstone Empty Latent.{name}={value}"]
    assert main([*call, "--models", str(tree / "models")]) == 0, capsys.readouterr().err
    assert list((place / "out").rglob("*.png"))
    drawing = ["draw", "a red circle", "--steps", "1", "--size", "64x64", "--quiet"]
    assert main([*drawing, *named(tree), "-o", str(place / "a.png")]) == 0
    monkeypatch.chdir(tree)
    assert main([*call, "--output", str(place / "b")]) == 0, "models/ of the current folder"
    shutil.rmtree(tree / "comfy")
    assert main([*call, "--output", str(place / "c")]) == 1
    assert "no tokenizer found" in capsys.readouterr().err
