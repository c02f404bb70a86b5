"""`inkstone draw` against diffusers' QwenImagePipeline: same folder, same CPU seed, float32."""

import numpy as np
import pytest
from PIL import Image

from inkstone.headless.cli.main import main
from inkstone.loaders.formats.safetensors import SafetensorsFile

from ..support import tiny
from ..support.oracle import measured
from ..support.slow import slow_where

SHORT, PROMPT = "cat", "a red cat on a mat, and a prompt that is longer than the dropped head"
LONG = " ".join([PROMPT] * 5)
BLURRY = "blurry, low quality, a longer negative prompt"
GRID = (304, 208)  # a latent grid of 26 x 38
EVEN, ODD, WIDE = "even", "odd layers, three heads", "five layers, one wide head"
CASES = [
    # shape, prompt, width x height, steps, cfg, negative, batch
    (EVEN, PROMPT, (96, 64), 4, 4.0, " ", 1),
    (EVEN, SHORT, (64, 64), 3, 1.0, None, 3),
    (EVEN, LONG, GRID, 2, 4.0, SHORT, 1),
    (ODD, SHORT, GRID, 3, 4.0, "", 1),
    (ODD, PROMPT, (80, 112), 4, 2.5, BLURRY, 3),
    (ODD, LONG, (80, 112), 3, 1.0, None, 1),
    (WIDE, PROMPT, (112, 80), 5, 4.0, " ", 3),
    (WIDE, SHORT, GRID, 2, 1.0, None, 1),
    (WIDE, LONG, (112, 80), 3, 4.0, "", 3),
]


def check(got, want, pictures, files):
    error = measured(got, want)
    print(f"latents {error:.1e} relative")
    assert error < 1e-4, f"latents differ by {error:.2e} relative"
    for k, file in enumerate(files):
        seen = np.asarray(Image.open(file)).astype(float) / 255
        worst = np.abs(seen - pictures[k].numpy()).max()
        print(f"picture {k}: at most {worst * 255:.2f} of 255")
        assert worst <= 1 / 255 + 1e-6, f"picture {k} differs by {worst * 255:.2f}/255"


@pytest.mark.slow
@pytest.mark.parametrize(
    "case",
    slow_where(lambda case: case[2] == GRID or case[-1] > 1, CASES),
    ids=lambda c: f"{c[0]} {len(c[1])} {c[2][0]}x{c[2][1]} cfg{c[4]:g} b{c[6]}",
)
def test_draw_equals_diffusers(case, tmp_path):
    shape, prompt, (width, height), steps, cfg, negative, batch = case
    pipe = tiny.pipeline(shape)
    folder = tiny.save(pipe, tmp_path / "model")
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


@pytest.mark.slow
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
