"""Files with unusual paths: a draw takes them as the file system does."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from inkstone.headless.cli.main import main

from .test_edit_draw import mask_file, pixels, save

pytestmark = pytest.mark.slow

PROMPT = "make the star blue"


def drawn(image: str, *options: str) -> np.ndarray:
    call = ["draw", PROMPT, "--image", image, *options, "--steps", "1", "-o", "made.png", "--quiet"]
    assert main(call) == 0
    return np.asarray(Image.open("made.png"))


@pytest.mark.parametrize(
    "name", ["x [output].png", "photo [output]", "photo [input]", "a [b]", "sp ace:co'lon é.png"]
)
def test_names_that_load_image_would_take_apart(place, name):
    save("plain.png", pixels())
    Path(name).write_bytes(Path("plain.png").read_bytes())
    assert np.array_equal(drawn(name), drawn("plain.png"))
    mask_file("mask.png")
    Path(f"{name} [temp]").write_bytes(Path("mask.png").read_bytes())
    masked = drawn(name, "--mask", f"{name} [temp]")
    assert np.array_equal(masked, drawn("plain.png", "--mask", "mask.png"))


def test_up_from_a_linked_folder(place):
    """`link/..` is the parent of the folder that the link leads to."""
    os.makedirs("far/away")
    os.symlink("far/away", "link")
    save("far/it.png", pixels())
    save("it.png", pixels(seed=1))
    assert np.array_equal(drawn("link/../it.png"), drawn("far/it.png"))
    assert np.array_equal(drawn("far/../it.png"), drawn("it.png"))


def test_a_control_leaves_no_preview_behind(place):
    save("it.png", pixels())
    call = ["draw", "a red star", "--control", "canny:it.png", "--steps", "1", "-o", "made.png"]
    assert main([*call, "--quiet"]) == 0
    assert sorted(os.listdir()) == ["it.png", "made.png"]
