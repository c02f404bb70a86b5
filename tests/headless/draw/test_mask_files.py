"""Mask files: white, white paint on a transparent layer, or what is transparent; by every face."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import inkstone
from inkstone.headless.core_nodes.registry import CORE_NODES
from inkstone.headless.draw.image_traits import PAINT, mask_channel

from ...support.draw_graphs import folders
from .test_edit_draw import pixels
from .test_faces import PROMPT, by_command, check

MARKED = np.zeros((41, 53), bool)
MARKED[10:30, 15:40] = True
GREY = np.where(MARKED, 255, 0).astype(np.uint8)


def layered(colours: np.ndarray, alpha: np.ndarray) -> Image.Image:
    return Image.fromarray(
        np.dstack([np.broadcast_to(colours, (41, 53, 3)), alpha]).astype("uint8")
    )


def paint(hidden: np.ndarray) -> Image.Image:
    """White paint; `hidden`: the colours of the transparent pixels."""
    return layered(np.where(MARKED[..., None], 255, hidden), GREY)


def palette(colours: tuple[int, ...], transparent: int) -> Image.Image:
    """Index 1 where it is marked."""
    picture = Image.fromarray(MARKED.astype(np.uint8), "P")
    picture.putpalette(colours)
    picture.info["transparency"] = transparent
    return picture


FILES: dict[str, tuple[str, Callable[[], Image.Image]]] = {
    "grey": ("red", lambda: Image.fromarray(GREY)),
    "opaque alpha": ("red", lambda: layered(GREY[..., None], np.full_like(GREY, 255))),
    "nearly opaque alpha": ("red", lambda: layered(GREY[..., None], np.full_like(GREY, 254))),
    "paint on black": (PAINT, lambda: paint(np.uint8(0))),
    "paint on white": (PAINT, lambda: paint(np.uint8(255))),
    "paint on anything": (PAINT, lambda: paint(pixels())),
    "paint that is nearly white": (PAINT, lambda: layered(np.uint8(250), GREY)),
    "paint in grey and alpha": (PAINT, lambda: Image.fromarray(np.dstack([GREY, GREY]), "LA")),
    "paint in a palette": (PAINT, lambda: palette((0, 0, 0, 255, 255, 255), 0)),
    "the mask editor's": ("alpha", lambda: layered(pixels(), 255 - GREY)),
    "alpha alone, black": ("alpha", lambda: layered(np.uint8(0), 255 - GREY)),
    "alpha alone, red": ("alpha", lambda: layered(np.uint8([255, 0, 0]), 255 - GREY)),
    "black in grey and alpha": (
        "alpha",
        lambda: Image.fromarray(np.dstack([0 * GREY, 255 - GREY]), "LA"),
    ),
    "a hole in a palette": ("alpha", lambda: palette((200, 60, 60, 255, 255, 255), 1)),
}


def save(name: str) -> Path:
    picture = FILES[name][1]()
    picture.save("m.png", **{k: v for k, v in picture.info.items() if k == "transparency"})
    return Path("m.png")


@pytest.mark.parametrize("name", FILES)
def test_one_rule_for_every_mask_file(name, place, caplog):
    caplog.set_level("INFO")
    path = save(name).resolve()
    how = mask_channel(path)
    assert how == FILES[name][0] and caplog.text.count("23.0 % is") == 1, caplog.text
    channel = "alpha" if how == PAINT else how
    (mask,) = CORE_NODES["LoadImageMask"].execute(str(path), channel).args
    marked = 1 - mask if how == PAINT else mask
    assert torch.equal(marked[0] > 0.5, torch.from_numpy(MARKED))


def test_soft_paint_keeps_its_strength(place):
    ramp = np.linspace(0, 255, 53).astype(np.uint8)[None].repeat(41, 0)
    layered(np.uint8(255), ramp).save("m.png")
    assert mask_channel(Path("m.png")) == PAINT
    layered(ramp[..., None], ramp).save("m.png")  # premultiplied
    assert mask_channel(Path("m.png")) == PAINT
    layered(ramp[..., None] // 2, ramp).save("m.png")  # grey paint is none
    assert mask_channel(Path("m.png")) == "alpha"


@pytest.fixture
def files(place) -> Path:
    folders(place)
    Image.fromarray(pixels()).save("input/a.png")
    return place


@pytest.mark.slow
def test_mask_files_that_mean_the_same_draw_the_same(files):
    options = {"image": "input/a.png", "strength": 0.9, "steps": 2, "seed": 3}
    want = None
    for name in FILES:
        path = save(name)
        _, (made,) = by_command({**options, "mask": str(path)})
        want = made if want is None else want
        assert np.array_equal(made, want), name
        (picture,) = inkstone.draw(PROMPT, mask=FILES[name][1](), **options)
        assert np.array_equal(np.asarray(picture), want), f"{name}, a picture in memory"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["paint on anything", "paint in a palette", "the mask editor's"])
def test_masks_by_every_face(name, files):
    save(name).rename("input/m.png")
    check({"image": "input/a.png", "mask": "input/m.png", "strength": 0.9, "steps": 2, "seed": 3})
