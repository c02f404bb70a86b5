"""`inkstone draw` against diffusers' QwenImagePipeline: same folder, same CPU seed, float32."""

import numpy as np
import pytest
from PIL import Image

from inkstone.headless.cli import main
from inkstone.loaders.safetensors_file import SafetensorsFile

from . import tiny
from .oracle import relative

CASES = [
    # shape, width x height, steps, cfg, negative, batch
    ("even", (96, 64), 4, 4.0, " ", 1),
    ("even", (64, 64), 3, 1.0, None, 3),
    ("odd layers, three heads", (304, 208), 3, 4.0, "", 1),  # a latent grid of 26 x 38
    (
        "odd layers, three heads",
        (80, 112),
        4,
        2.5,
        "blurry, low quality, a longer negative prompt",
        3,
    ),
    ("five layers, one wide head", (112, 80), 5, 4.0, " ", 3),
]


def check(got, want, pictures, files):
    error = relative(got, want)
    assert error < 1e-4, f"latents differ by {error:.2e} relative"
    for k, file in enumerate(files):
        seen = np.asarray(Image.open(file)).astype(float) / 255
        worst = np.abs(seen - pictures[k].numpy()).max()
        assert worst <= 1 / 255 + 1e-6, f"picture {k} differs by {worst * 255:.2f}/255"


@pytest.mark.parametrize(
    "case", CASES, ids=lambda c: f"{c[0]} {c[1][0]}x{c[1][1]} cfg{c[3]:g} b{c[5]}"
)
def test_draw_equals_diffusers(case, tmp_path):
    shape, (width, height), steps, cfg, negative, batch = case
    pipe = tiny.pipeline(shape)
    folder = tiny.save(pipe, tmp_path / "model")
    prompt = "a red cat on a mat, and a prompt that is longer than the dropped head"
    want, pictures = tiny.reference(
        pipe,
        prompt,
        negative,
        (width, height),
        dict(steps=steps, cfg=cfg),
        [5 + k for k in range(batch)],
    )
    out, latent = tmp_path / "out.png", tmp_path / "latent.safetensors"
    call = ["draw", prompt, "-o", str(out), "--model", str(folder), "--size", f"{width}x{height}"]
    call += ["--steps", str(steps), "--cfg", str(cfg), "--seed", "5", "--batch", str(batch)]
    call += ["--dtype", "float32", "--save-latent", str(latent)]
    call += ["--negative", negative] if negative is not None else []
    assert main(call) == 0
    got = SafetensorsFile(latent).read("samples")
    files = [out] if batch == 1 else [tmp_path / f"out_{k + 1}.png" for k in range(batch)]
    check(got, want, pictures, files)


@pytest.mark.parametrize("shape", ["even", "odd layers, three heads"])
def test_lightning_folder(shape, tmp_path):
    """A merged Lightning folder ships a scheduler of its own; it is honoured."""
    import math

    lightning = dict(
        tiny.SCHEDULER, base_shift=math.log(3), max_shift=math.log(3), shift_terminal=None
    )
    pipe = tiny.pipeline(shape, lightning)
    folder = tiny.save(pipe, tmp_path / "model")
    prompt = "a picture in eight steps without any guidance at all"
    want, pictures = tiny.reference(pipe, prompt, None, (64, 96), dict(steps=8, cfg=1.0), [9])
    out, latent = tmp_path / "out.png", tmp_path / "l.safetensors"
    call = [
        "draw",
        prompt,
        "-o",
        str(out),
        "--model",
        str(folder),
        "--size",
        "64x96",
        "--seed",
        "9",
    ]
    assert main([*call, "--dtype", "float32", "--save-latent", str(latent)]) == 0
    check(SafetensorsFile(latent).read("samples"), want, pictures, [out])
