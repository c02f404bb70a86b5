"""True renderings, on which readers are measured: texts in a font, shapes in known places.

Fonts are those of the system; Pillow's own has ASCII only. Where no font has the characters of a
text, nothing is measured, and the result says so.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..errors import CallError
from ..training.grammar import COLOURS, KINDS
from ..training.render import shape_mask
from .task import Task, WantedThing, is_han

if TYPE_CHECKING:
    from PIL.ImageFont import FreeTypeFont

HEIGHTS = (96, 72, 56, 44, 36, 28, 22)  # pixels of a line's letters, the first that fits
_LATIN = ("DejaVuSans", "NotoSans-Regular", "LiberationSans-Regular", "arial", "Arial", "Verdana")
_HAN = (
    "NotoSansCJK-Regular NotoSansSC-Regular SourceHanSansCN-Regular SourceHanSansSC-Regular "
    "wqy-microhei wqy-zenhei DroidSansFallbackFull DroidSansFallback msyh simhei simsun PingFang "
    "STHeiti uming"
).split()
_SPACING, _MARGIN = 1.5, 0.06  # of a line's height, of a side
_CANVAS = 768  # pixels of a picture of shapes
_SHAPE_COLOURS = ("red", "green", "blue", "yellow", "orange", "purple", "black", "pink")
_PLACES = {"left": (0.2, 0.5), "right": (0.8, 0.5), "top": (0.5, 0.2), "bottom": (0.5, 0.8)}


@dataclass(frozen=True)
class Font:
    """A font file; None: Pillow's own."""

    path: str | None

    def at(self, height: int) -> FreeTypeFont:
        """The font at a size in pixels."""
        return _load(self.path, height)

    def has(self, text: str) -> bool:
        """True where no character is missing: a missing one looks as U+FFFF does, or has no ink."""
        font = self.at(24)
        missing = bytes(font.getmask("\uffff"))
        masks = (font.getmask(c) for c in set(text) if not c.isspace())
        return all(mask.getbbox() is not None and bytes(mask) != missing for mask in masks)


@lru_cache(maxsize=64)
def _load(path: str | None, height: int) -> FreeTypeFont:
    from PIL import ImageFont

    if path is None:
        font = ImageFont.load_default(height)
        assert isinstance(font, ImageFont.FreeTypeFont)  # with a size it is one
        return font
    return ImageFont.truetype(path, height)


def fonts(given: Path | None = None) -> list[Font]:
    """The fonts at hand, the given one first. CallError where that is none."""
    own = [] if given is None else [Font(str(given))]
    try:
        for font in own:
            font.at(24)
    except OSError as error:
        raise CallError(
            f"--font {given}: is no font that can be read ({error}). Name a .ttf or .otf file."
        ) from None
    names = [f"{name}.{end}" for name in (*_LATIN, *_HAN) for end in ("ttf", "ttc", "otf")]
    return [*own, *filter(None, map(_system_font, names)), Font(None)]


@lru_cache(maxsize=256)
def _system_font(name: str) -> Font | None:
    try:
        return Font(str(_load(name, 24).path))  # Pillow looks in the system's folders
    except OSError:
        return None


def render_texts(
    texts: Sequence[str], size: tuple[int, int], at_hand: Sequence[Font]
) -> np.ndarray | None:
    """Black texts on white, each on lines of its own, as large as fits: uint8 [H,W,3]. None where
    no font has all their characters or the smallest size does not fit.
    """
    from PIL import Image, ImageDraw

    font = next((font for font in at_hand if all(map(font.has, texts))), None)
    if font is None:
        return None
    width, height = size
    left, top = round(_MARGIN * width), round(_MARGIN * height)
    for letters in HEIGHTS:
        loaded = font.at(letters)
        lines = [line for text in texts for line in _wrapped(text, loaded, width - 2 * left)]
        step = round(_SPACING * letters)
        widest = max(loaded.getlength(line) for line in lines)
        if len(lines) * step <= height - 2 * top and widest <= width - 2 * left:
            break
    else:
        return None
    image = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(image)
    for number, line in enumerate(lines):
        draw.text((left, top + number * step), line, fill="black", font=loaded)
    return np.asarray(image)


def _wrapped(text: str, font: FreeTypeFont, width: int) -> Iterator[str]:
    """The lines of a text; Chinese breaks anywhere."""
    pieces = list(text) if is_han(text) else [f"{word} " for word in text.split()]
    line = ""
    for piece in pieces:
        if line and font.getlength((line + piece).rstrip()) > width:
            yield line.rstrip()
            line = ""
        line += piece
    if line.strip():
        yield line.rstrip()


def shape_pictures() -> Iterator[tuple[Task, np.ndarray]]:
    """Shapes on white: one to three of a kind in a row, and pairs beside each other."""
    number = 0
    for kind in KINDS:
        for count in (1, 2, 3):
            colour = _SHAPE_COLOURS[number % len(_SHAPE_COLOURS)]
            spots = [((n + 0.5) / count, 0.5) for n in range(count)]
            thing = WantedThing(what=kind, least=count, most=count, colour=colour)
            yield _pictured(number, (thing,), [(kind, colour, spot) for spot in spots])
            number += 1
    for n, kind in enumerate(KINDS):
        other = KINDS[(n + 1) % len(KINDS)]
        for here, there, relation in (("left", "right", "right of"), ("top", "bottom", "below")):
            a, b = _SHAPE_COLOURS[number % 8], _SHAPE_COLOURS[(number + 3) % 8]
            things = (
                WantedThing(what=kind, colour=a, place=here),
                WantedThing(what=other, colour=b, beside=(relation, 0)),
            )
            shapes = [(kind, a, _PLACES[here]), (other, b, _PLACES[there])]
            yield _pictured(number, things, shapes)
            number += 1


def _pictured(
    number: int,
    things: tuple[WantedThing, ...],
    shapes: Sequence[tuple[str, str, tuple[float, float]]],
) -> tuple[Task, np.ndarray]:
    picture = np.full((_CANVAS, _CANVAS, 3), 250, np.float32)
    side = _CANVAS // 4
    for kind, colour, (x, y) in shapes:
        left, top = round(x * _CANVAS - side / 2), round(y * _CANVAS - side / 2)
        mask = shape_mask(kind, side)[..., None]
        part = picture[top : top + side, left : left + side]
        part += mask * (np.array(COLOURS[colour], np.float32) - part)
    task = Task(id=f"shapes-{number:02}", prompt="", things=things, number=number)
    return task, picture.round().astype(np.uint8)
