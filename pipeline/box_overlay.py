"""Boxes and mask over their picture, to look at: numbered outlines with labels, the mask tinted."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..loaders.models.image_processor import rgb_bytes
from ..sampling.geometry import Box
from .find_boxes import FoundBox

if TYPE_CHECKING:
    from PIL.ImageDraw import ImageDraw

_TINT = (255, 60, 60)  # of the mask
_TINTED = 0.4  # how much of it
_COLOURS = ((255, 210, 0), (0, 220, 255), (120, 255, 80), (255, 130, 255), (255, 150, 60))
_INK = (0, 0, 0)
Tags = list[Box]
"""Where labels are."""


def overlay(picture: Tensor, boxes: Sequence[FoundBox], mask: Tensor) -> Tensor:
    """[1,H,W,3] in 0..1. picture: [H,W,C] or [1,H,W,C]; mask: [1,H,W] of the same size."""
    from PIL import Image, ImageDraw

    pixels = rgb_bytes(picture)
    marked = mask[0] > 0
    tint = torch.tensor(_TINT).float()
    pixels[marked] = pixels[marked].float().lerp(tint, _TINTED).round().to(torch.uint8)
    image = Image.fromarray(pixels.numpy())
    draw = ImageDraw.Draw(image)
    tags: Tags = []
    for number, box in enumerate(boxes, 1):
        _draw_box(draw, number, box, tags)
    flat = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8)
    return flat.view(1, *pixels.shape).float().div_(255)


def _draw_box(draw: ImageDraw, number: int, found: FoundBox, tags: Tags) -> None:
    """An outline inside the box's pixels, and its number and label at one of its corners."""
    from PIL import ImageFont

    width, height = draw.im.size
    unit = max(1, round(min(width, height) / 300))
    colour = _COLOURS[(number - 1) % len(_COLOURS)]
    box = found.span.touched()
    draw.rectangle(
        (box.left, box.top, box.right - 1, box.bottom - 1), outline=colour, width=2 * unit
    )
    # the font that comes with Pillow has Latin letters only
    text = f"{number} {found.label}" if found.label.isascii() else str(number)
    font = ImageFont.load_default(size=max(11, 8 * unit))
    left, top, right, bottom = (round(v) for v in draw.textbbox((0, 0), text, font=font))
    size = right - left + 4 * unit, bottom - top + 4 * unit
    place = _place(box, size, (width, height), tags)
    tags.append(place)
    draw.rectangle(place, fill=colour)
    draw.text((place.left + 2 * unit - left, place.top + 2 * unit - top), text, _INK, font)


def _place(box: Box, size: tuple[int, int], picture: tuple[int, int], tags: Tags) -> Box:
    """Where a label of this size covers no other: above the box, in it, or below it."""
    x = max(0, min(box.left, picture[0] - size[0]))
    lowest = max(0, picture[1] - size[1])
    tops = (box.top - size[1], box.top, box.bottom - size[1], box.bottom)
    places = [Box(x, y, x + size[0], y + size[1]) for y in tops if 0 <= y <= lowest]
    free = [place for place in places if not any(_overlap(place, tag) for tag in tags)]
    return [*free, *places, Box(x, 0, x + size[0], size[1])][0]


def _overlap(a: Box, b: Box) -> bool:
    return a.left < b.right and b.left < a.right and a.top < b.bottom and b.top < a.bottom
