"""Draws a scene: antialiased masks of shapes and letters, cached, blended over the ground."""

from __future__ import annotations

import functools
import math

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from .grammar import CELL, COLOURS, Scene, Shape, Word

_OVER = 4  # supersampling of masks
_LETTER = (14, 24)  # most width and height of a letter inside its cell


@functools.cache
def glyph(letter: str) -> np.ndarray:
    """Mask [32,16] float32 in 0..1 of a letter centred in its cell (Pillow's own font,
    emboldened).
    """
    font = ImageFont.load_default(size=96)
    big = Image.new("L", (192, 192))
    draw = ImageDraw.Draw(big)
    draw.text((40, 30), letter, fill=255, font=font, stroke_width=4)
    box = _ink_box(big)
    if letter == "0":  # a slash, so that it is not an O
        draw.line((box[0] + 14, box[3] - 16, box[2] - 14, box[1] + 16), fill=255, width=11)
    if letter == "I":  # serifs, so that it is neither a 1 nor a bar
        middle = (box[0] + box[2]) // 2
        for y in (box[1], box[3] - 13):
            draw.rectangle((middle - 26, y, middle + 26, y + 13), fill=255)
        box = _ink_box(big)
    cut = big.crop(box)
    height = _LETTER[1]
    width = min(_LETTER[0], max(6, round(cut.width * height / cut.height)))
    cut = cut.resize((width, height), Image.Resampling.LANCZOS)
    cell = np.zeros((CELL[1], CELL[0]), np.float32)
    y, x = (CELL[1] - height) // 2, (CELL[0] - width) // 2
    cell[y : y + height, x : x + width] = np.asarray(cut, np.float32) / 255
    return cell


def _ink_box(image: Image.Image) -> tuple[int, int, int, int]:
    box = image.getbbox()
    assert box is not None  # a letter has ink
    return box


@functools.cache
def shape_mask(kind: str, diameter: int) -> np.ndarray:
    """Mask [d,d] float32 in 0..1 of a shape that fills its box."""
    d = diameter * _OVER
    image = Image.new("L", (d, d))
    draw = ImageDraw.Draw(image)
    if kind == "circle":
        draw.ellipse((0, 0, d - 1, d - 1), fill=255)
    elif kind == "square":
        inset = d // 14
        draw.rectangle((inset, inset, d - 1 - inset, d - 1 - inset), fill=255)
    elif kind == "triangle":
        draw.polygon([(d / 2, 0), (d - 1, d - 1), (0, d - 1)], fill=255)
    elif kind == "hexagon":
        draw.polygon([_corner(i, d / 2) for i in range(6)], fill=255)
    else:
        draw.polygon([_star_point(i, d / 2) for i in range(10)], fill=255)
    small = image.resize((diameter, diameter), Image.Resampling.BOX)
    return np.asarray(small, np.float32) / 255


def _corner(i: int, r: float) -> tuple[float, float]:
    """Of a regular hexagon, one corner at the left and one at the right."""
    angle = math.pi * i / 3
    return r + (r - 0.5) * math.cos(angle), r + (r - 0.5) * math.sin(angle)


def _star_point(i: int, r: float) -> tuple[float, float]:
    radius = r if i % 2 == 0 else 0.45 * r
    angle = math.pi * i / 5
    return r + radius * math.sin(angle), r - radius * math.cos(angle)


def render(scene: Scene) -> np.ndarray:
    """Scene -> uint8 [H,W,3]."""
    picture = np.empty((scene.height, scene.width, 3), np.float32)
    picture[:] = COLOURS[scene.ground]
    for item in scene.items:
        if isinstance(item, Shape):
            _draw_shape(picture, item)
        else:
            _draw_word(picture, item)
    return picture.round().astype(np.uint8)


def _blend(picture: np.ndarray, mask: np.ndarray, x: int, y: int, colour: str) -> None:
    part = picture[y : y + mask.shape[0], x : x + mask.shape[1]]
    part += mask[:, :, None] * (np.asarray(COLOURS[colour], np.float32) - part)


def _draw_shape(picture: np.ndarray, shape: Shape) -> None:
    r = shape.diameter // 2
    _blend(picture, shape_mask(shape.kind, shape.diameter), shape.x - r, shape.y - r, shape.colour)


def _draw_word(picture: np.ndarray, word: Word) -> None:
    if word.plate:
        left = max(0, word.x - 4)
        right = min(picture.shape[1], word.x + CELL[0] * len(word.text) + 4)
        picture[word.y : word.y + CELL[1], left:right] = COLOURS[word.plate]
    for i, letter in enumerate(word.text):
        _blend(picture, glyph(letter), word.x + CELL[0] * i, word.y, word.colour)
