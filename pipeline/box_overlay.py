"""Boxes and mask over their picture, to look at: numbered outlines with labels, the mask tinted."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..loaders.models.image_processor import rgb_bytes
from .find_boxes import FoundBox

if TYPE_CHECKING:
    from PIL.ImageDraw import ImageDraw

_TINT = (255, 60, 60)  # of the mask
_TINTED = 0.4  # how much of it
_COLOURS = ((255, 210, 0), (0, 220, 255), (120, 255, 80), (255, 130, 255), (255, 150, 60))
_INK = (0, 0, 0)


def overlay(picture: Tensor, boxes: Sequence[FoundBox], mask: Tensor) -> Tensor:
    """[1,H,W,3] in 0..1. picture: [H,W,C] or [1,H,W,C]; mask: [1,H,W] of the same size."""
    from PIL import Image, ImageDraw

    pixels = rgb_bytes(picture)
    marked = mask[0] > 0
    tint = torch.tensor(_TINT).float()
    pixels[marked] = pixels[marked].float().lerp(tint, _TINTED).round().to(torch.uint8)
    image = Image.fromarray(pixels.numpy())
    draw = ImageDraw.Draw(image)
    for number, box in enumerate(boxes, 1):
        _draw_box(draw, number, box, image.size)
    flat = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8)
    return flat.view(1, *pixels.shape).float().div_(255)


def _draw_box(draw: ImageDraw, number: int, found: FoundBox, size: tuple[int, int]) -> None:
    """An outline inside the box's pixels, and its number and label at its top left corner."""
    from PIL import ImageFont

    unit = max(1, round(min(size) / 300))
    colour = _COLOURS[(number - 1) % len(_COLOURS)]
    box = found.span.touched()
    corners = (box.left, box.top, box.right - 1, box.bottom - 1)
    draw.rectangle(corners, outline=colour, width=2 * unit)
    # the font that comes with Pillow has Latin letters only
    text = f"{number} {found.label}" if found.label.isascii() else str(number)
    font = ImageFont.load_default(size=max(11, 8 * unit))
    left, top, right, bottom = draw.textbbox((0, 0), text, font=font)
    width, height = right - left + 4 * unit, bottom - top + 4 * unit
    x = max(0, min(box.left, size[0] - width))
    y = box.top - height if box.top >= height else box.top
    draw.rectangle((x, y, x + width, y + height), fill=colour)
    draw.text((x + 2 * unit - left, y + 2 * unit - top), text, fill=_INK, font=font)
