"""Sources of edits, rendered from what a set says of them: texts and shapes on a ground."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from ..errors import InkstoneError, shorten
from ..training.grammar import COLOURS as PALETTE
from ..training.grammar import KINDS
from ..training.render import shape_mask

MOST_ITEMS = 20
SIDES = (64, 2048)  # pixels of a side
RGB: Mapping[str, tuple[int, int, int]] = {
    **PALETTE,
    "brown": (120, 72, 30),
    "gray": (128, 128, 128),
}


@dataclass(frozen=True)
class SourceItem:
    """A text or a shape of KINDS, in its colour. box: left, top, width, height as shares."""

    colour: str
    box: tuple[float, float, float, float]
    text: str = ""
    shape: str = ""


@dataclass(frozen=True)
class Source:
    """A picture to edit."""

    width: int
    height: int
    ground: str
    items: tuple[SourceItem, ...]


def check_source(source: Source) -> None:
    """Raises InkstoneError for what cannot be rendered."""
    for side in (source.width, source.height):
        if not SIDES[0] <= side <= SIDES[1]:
            raise InkstoneError(
                f'the "size" of its source has a side of {side}: expected {SIDES[0]} to {SIDES[1]}.'
            )
    for colour in (source.ground, *(item.colour for item in source.items)):
        if colour not in RGB:
            raise InkstoneError(f"a colour of its source is {colour!r}: expected {', '.join(RGB)}.")
    for item in source.items:
        if not item.text.isprintable():
            raise InkstoneError("a text of its source has characters that cannot be drawn.")
        if bool(item.text) == bool(item.shape) or item.shape not in ("", *KINDS):
            raise InkstoneError(
                'an item of its source needs a "text" or a "shape", and that one of '
                f"{', '.join(KINDS)}."
            )
        if not item.text.isascii():
            raise InkstoneError(
                f"the text {shorten(item.text, 40)!r} of its source has characters that are not "
                "in Pillow's own font: use ASCII, or name a picture as its image."
            )


def render_source(source: Source) -> np.ndarray:
    """uint8 [H,W,3]."""
    from PIL import Image, ImageDraw, ImageFont

    image = Image.new("RGB", (source.width, source.height), RGB[source.ground])
    draw = ImageDraw.Draw(image)
    for item in source.items:
        left, top, width, height = _pixels(item.box, source)
        if item.shape:
            side = min(width, height)
            mask = Image.fromarray((shape_mask(item.shape, side) * 255).round().astype(np.uint8))
            corner = left + (width - side) // 2, top + (height - side) // 2
            image.paste(RGB[item.colour], (*corner, corner[0] + side, corner[1] + side), mask)
            continue
        reference = ImageFont.load_default(100)
        x0, y0, x1, y1 = reference.getbbox(item.text)
        size = max(8, int(100 * min(width / (x1 - x0), height / (y1 - y0))))
        middle = left + width / 2, top + height / 2
        font = ImageFont.load_default(size)
        draw.text(middle, item.text, fill=RGB[item.colour], font=font, anchor="mm")
    return np.asarray(image)


def _pixels(box: tuple[float, float, float, float], source: Source) -> tuple[int, int, int, int]:
    left, top, width, height = box
    return (
        round(left * source.width),
        round(top * source.height),
        max(8, round(width * source.width)),
        max(8, round(height * source.height)),
    )
