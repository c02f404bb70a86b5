"""Reads what the embedded model draws: its words and its shapes, without knowing what was asked.

Its letters are 16 pixels wide and soft, smaller than any OCR is made for, and its own Find in
Picture takes one shape for another. So both are read with the templates of `training/reader.py`.
That checks a picture against its scene; this one searches.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from ..training.grammar import CELL
from ..training.reader import FAR, RIM, best_letter, ground_and_ink, kind_of
from .colours import colour_shares
from .things import Sighting

WORD = "word"  # what it finds beside shapes
_STEP = 16  # pixels between the places of a line
_MOST_LETTERS = 6
_LINE, _SHORT_LINE = 0.7, 0.8  # mean correlation of a line; one or two letters: shapes have 0.78
_SPECK = 40  # pixels of ink that are no shape
_LEAST_SIDE = 8
_MARGIN = 3  # pixels above and below a letter that show its ground


@dataclass(frozen=True)
class _Letters:
    text: str
    score: float  # mean correlation
    colour: np.ndarray


@dataclass(frozen=True)
class _Line(_Letters):
    x: int
    y: int


class EmbeddedReader:
    """A reader of texts and a finder of things in one."""

    name = "templates of the embedded model's letters and shapes"

    def lines(self, picture: np.ndarray) -> list[str]:
        """The word of a picture uint8 [H,W,3], if it has one."""
        line = _line(picture)
        return [line.text] if line else []

    def sightings(self, picture: np.ndarray, what: str) -> list[Sighting]:
        """The shapes of a kind, or the word, with the colour of its letters."""
        line = _line(picture)
        _, ink = ground_and_ink(picture)
        if what == WORD:
            return [_word(picture, line)] if line else []
        if line:
            ink[max(0, line.y - RIM) : line.y + CELL[1] + RIM] = False
        return [
            _sighting(picture, mask)
            for mask in _parts(ink)
            if _is_shape(mask) and _kind(mask) == what
        ]


def _line(picture: np.ndarray) -> _Line | None:
    """The most plausible line of letters: they stand in cells, centred on the canvas. The
    longest wins: a part of a word is a line too.
    """
    p = picture.astype(np.float32)
    height, width = p.shape[:2]
    lines = []
    for y in range(0, height - CELL[1] + 1, _STEP):
        strip = p[y : y + CELL[1]]
        for count in range(1, min(_MOST_LETTERS, width // CELL[0]) + 1):
            x = (width - CELL[0] * count) // 2 // CELL[0] * CELL[0]
            line = _letters(strip, x, count)
            if line is not None:
                lines.append(_Line(line.text, line.score, line.colour, x, y))
    return max(lines, key=lambda line: (len(line.text), line.score), default=None)


def _letters(strip: np.ndarray, x: int, count: int) -> _Letters | None:
    """`count` letters from x on; None where one is none."""
    text = ""
    scores: list[float] = []
    cells = strip[:, x : x + CELL[0] * count]
    base = np.median(
        np.concatenate([cells[:_MARGIN].reshape(-1, 3), cells[-_MARGIN:].reshape(-1, 3)]), axis=0
    )
    distance = np.linalg.norm(cells - base, axis=2)
    strong = distance >= max(FAR, float(np.quantile(distance, 0.93)) * 0.8)
    if not strong.any():
        return None
    colour = np.median(cells[strong], axis=0)
    along = colour - base
    if not along.any():
        return None
    level = ((cells - base) @ along / float(along @ along)).clip(0, 1)
    for n in range(count):
        letter, score = best_letter(level[:, n * CELL[0] : (n + 1) * CELL[0]])
        if not letter:
            return None
        text, scores = text + letter, [*scores, score]
    mean = float(np.mean(scores))
    enough = mean >= (_LINE if count > 2 else _SHORT_LINE)
    return _Letters(text, mean, colour) if enough else None


def _word(picture: np.ndarray, line: _Line) -> Sighting:
    right = line.x + CELL[0] * len(line.text)
    shares = colour_shares(line.colour[None].astype(np.uint8))
    return Sighting(line.x, line.y, right, line.y + CELL[1], shares)


def _is_shape(mask: np.ndarray) -> bool:
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    sides = np.ptp(rows) + 1, np.ptp(columns) + 1
    return bool(mask.sum() >= _SPECK and min(sides) >= _LEAST_SIDE)


def _kind(mask: np.ndarray) -> str:
    return kind_of(mask[mask.any(1)][:, mask.any(0)])


def _sighting(picture: np.ndarray, mask: np.ndarray) -> Sighting:
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return Sighting(
        left=float(columns[0]),
        top=float(rows[0]),
        right=float(columns[-1] + 1),
        bottom=float(rows[-1] + 1),
        colours=colour_shares(picture[mask]),
    )


def _parts(ink: np.ndarray) -> Iterator[np.ndarray]:
    """The connected parts of a mask, as masks."""
    left = ink.copy()
    while left.any():
        part = np.zeros_like(left)
        part[np.unravel_index(int(left.argmax()), left.shape)] = True
        while True:  # grows by a pixel on all sides
            wider = part.copy()
            wider[1:] |= part[:-1]
            wider[:-1] |= part[1:]
            wider[:, 1:] |= part[:, :-1]
            wider[:, :-1] |= part[:, 1:]
            wider &= left
            if (wider == part).all():
                break
            part = wider
        left &= ~part
        yield part
