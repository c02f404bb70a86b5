"""Reads a drawn picture back and judges it against the requested scene.

Template matching on our own glyphs and shapes; its accuracy on true renderings is printed with
every score. A shape is searched for, not assumed, and stray ink counts as wrong.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .grammar import CELL, COLOURS, KINDS, LETTERS, PLACES, SIZES, Scene, Shape, Word, centre
from .render import glyph, shape_mask

FAR = 50.0  # RGB distance from the ground that counts as ink
STRAY = 0.015  # share of pixels that may be ink outside of all items
NEAR = 9.0  # pixels between a shape's centre and its place
SHIFTS = range(-3, 4)
ALIKE = 0.6  # correlation with a letter's template, overlap with a shape's
RIM = 4  # pixels around a line of letters in which ink is the line's

Verdict = dict[str, bool | float | None]


def nearest_colour(rgb: np.ndarray) -> str:
    """The palette name closest to an RGB value."""
    return min(COLOURS, key=lambda name: float(np.linalg.norm(rgb - np.array(COLOURS[name]))))


@dataclass(frozen=True)
class Reading:
    """The correct facts of a picture: the ground, each item in the scene's order, no stray ink.

    A word's facts: letters (number right), words (all of them), word_colour. A shape's: kind,
    colour, place, size.
    """

    ground: bool
    items: list[dict[str, bool | int]]
    stray: bool


def ground_and_ink(picture: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """[H,W,3] -> the ground's colour [3] (median of the border), pixels far from it [H,W]."""
    p = picture.astype(np.float32)
    border = np.concatenate([e.reshape(-1, 3) for e in (p[:3], p[-3:], p[:, :3], p[:, -3:])])
    ground = np.median(border, axis=0)
    return ground, np.linalg.norm(p - ground, axis=2) > FAR


def look(picture: np.ndarray, scene: Scene, kinds: Sequence[str] = KINDS) -> Reading:
    """uint8 [H,W,3] against a scene, item by item. kinds: of shapes that it may show."""
    p = picture.astype(np.float32)
    ground, ink = ground_and_ink(p)
    items: list[dict[str, bool | int]] = []
    for item in scene.items:
        if isinstance(item, Word):
            letters, coloured = read_word(p, item, ground)
            whole = letters == len(item.text)
            items.append({"letters": letters, "words": whole, "word_colour": coloured})
        else:
            facts = _read_shape(p, ink, item, scene, kinds)
            items.append(dict(zip(("kind", "colour", "place", "size"), facts)))
    return Reading(nearest_colour(ground) == scene.ground, items, _stray(ink, scene) <= STRAY)


def read(picture: np.ndarray, scene: Scene, kinds: Sequence[str] = KINDS) -> Verdict:
    """uint8 [H,W,3] -> verdicts: ground, words, letters (share), word_colour, kind, colour, place,
    size, stray, all. None where the scene has no such item.
    """
    reading = look(picture, scene, kinds)
    verdict: Verdict = {"ground": reading.ground}
    lines = [item for item in scene.items if isinstance(item, Word)]
    for key in ("words", "letters", "word_colour", "kind", "colour", "place", "size"):
        facts = [item[key] for item in reading.items if key in item]
        verdict[key] = all(facts) if facts else None
        if facts and key == "letters":
            verdict[key] = facts[0] / len(lines[0].text)
    verdict["stray"] = reading.stray
    verdict["all"] = all(v for k, v in verdict.items() if v is not None and k != "letters")
    return verdict


def score(
    pictures: Sequence[np.ndarray], scenes: Sequence[Scene], kinds: Sequence[str] = KINDS
) -> dict[str, float]:
    """Rates over all pictures that have the item."""
    verdicts = [read(p, s, kinds) for p, s in zip(pictures, scenes)]
    rates = {}
    for key in verdicts[0]:
        values = [float(value) for v in verdicts if (value := v[key]) is not None]
        rates[key] = float(np.mean(values)) if values else float("nan")
    return rates


def read_word(p: np.ndarray, word: Word, ground: np.ndarray) -> tuple[int, bool]:
    """(letters read right, colour right). The line must be at its place."""
    cells = p[word.y : word.y + CELL[1], word.x : word.x + CELL[0] * len(word.text)]
    base = ground
    if word.plate:  # the plate's own colour, visible in the line's margins
        base = np.median(
            np.concatenate([cells[:3].reshape(-1, 3), cells[-3:].reshape(-1, 3)]), axis=0
        )
        if nearest_colour(base) != word.plate:
            return 0, False
    distance = np.linalg.norm(cells - base, axis=2)
    strong = distance >= max(FAR, float(np.quantile(distance, 0.93)) * 0.8)
    if not strong.any():
        return 0, False
    colour = np.median(cells[strong], axis=0)
    along = colour - base
    level = ((cells - base) @ along / float(along @ along)).clip(0, 1)
    right = 0
    for i, letter in enumerate(word.text):
        right += best_letter(level[:, i * CELL[0] : (i + 1) * CELL[0]])[0] == letter
    return right, nearest_colour(colour) == word.colour


_TEMPLATES: np.ndarray | None = None


def _templates() -> np.ndarray:
    """[letters * shifts, cell] glyphs in all shifts, centred and normalised."""
    global _TEMPLATES
    if _TEMPLATES is None:
        rows = []
        for letter in LETTERS:
            for dy in SHIFTS:
                for dx in SHIFTS:
                    t = np.roll(glyph(letter), (dy, dx), (0, 1)).ravel()
                    t = t - t.mean()
                    rows.append(t / np.linalg.norm(t))
        _TEMPLATES = np.stack(rows)
    return _TEMPLATES


def best_letter(level: np.ndarray) -> tuple[str, float]:
    """The letter of a cell [32,16] in 0..1 and its correlation; "" below ALIKE."""
    x = level.ravel() - level.mean()
    length = np.linalg.norm(x)
    if length < 1e-3:
        return "", 0.0
    scores = _templates() @ (x / length)
    best = int(scores.argmax())
    letter = LETTERS[best // len(SHIFTS) ** 2] if scores[best] > ALIKE else ""
    return letter, float(scores[best])


def _window(shape: Shape, scene: Scene) -> tuple[slice, slice]:
    """The window to search: the whole canvas, one half when there are two shapes, or the part
    without the line of a word.
    """
    h, w = scene.height, scene.width
    words = [item for item in scene.items if isinstance(item, Word)]
    if words:  # a line's soft rim belongs to the line, as in _stray
        top, bottom = words[0].y - RIM, words[0].y + CELL[1] + RIM
        return (slice(bottom, h) if words[0].y < shape.y else slice(0, top)), slice(0, w)
    if len(scene.items) == 1:
        return slice(0, h), slice(0, w)
    halves = {"left": (0, w // 2), "right": (w // 2, w), "top": (0, h // 2), "bottom": (h // 2, h)}
    half = slice(*halves[shape.place])
    return (slice(0, h), half) if shape.place in ("left", "right") else (half, slice(0, w))


def _read_shape(
    p: np.ndarray, ink: np.ndarray, shape: Shape, scene: Scene, kinds: Sequence[str]
) -> tuple[bool, bool, bool, bool]:
    """(kind, colour, place, size) right."""
    rows, columns = _window(shape, scene)
    mask = ink[rows, columns]
    ys, xs = extent(mask.sum(1)), extent(mask.sum(0))
    if ys is None or xs is None:
        return False, False, False, False
    box = mask[ys[0] : ys[1], xs[0] : xs[1]]
    if min(box.shape) < 8:
        return False, False, False, False
    inside = p[rows, columns][ys[0] : ys[1], xs[0] : xs[1]][box]
    colour = nearest_colour(np.median(inside, axis=0))
    y, x = rows.start + sum(ys) / 2, columns.start + sum(xs) / 2
    size = min(SIZES, key=lambda name: abs(SIZES[name] - max(box.shape)))
    at_place = _place(shape, scene, x, y)
    return kind_of(box, kinds) == shape.kind, colour == shape.colour, at_place, size == shape.size


def extent(ink: np.ndarray) -> tuple[int, int] | None:
    """First and last line that hold more than a speck, of the ink in each line."""
    lines = np.flatnonzero(ink >= 2)
    return (int(lines[0]), int(lines[-1]) + 1) if len(lines) else None


def kind_of(box: np.ndarray, kinds: Sequence[str] = KINDS) -> str:
    """The kind whose mask, stretched to the box, overlaps best; "" below ALIKE."""
    best = ("", ALIKE)
    for kind in kinds:
        template = shape_mask(kind, 64) > 0.5
        template = template[template.any(1)][:, template.any(0)]
        ys = (np.arange(box.shape[0]) + 0.5) * template.shape[0] / box.shape[0]
        xs = (np.arange(box.shape[1]) + 0.5) * template.shape[1] / box.shape[1]
        stretched = template[ys.astype(int)][:, xs.astype(int)]
        overlap = (stretched & box).sum() / max(1, (stretched | box).sum())
        if overlap > best[1]:
            best = (kind, float(overlap))
    return best[0]


def _place(shape: Shape, scene: Scene, x: float, y: float) -> bool:
    """Near its place, and (alone on the canvas) nearer to it than to the other places."""
    off = np.hypot(x - shape.x, y - shape.y)
    if len(scene.items) > 1:
        return bool(off <= NEAR)
    others = [centre(p, scene.width, scene.height, shape.diameter) for p in PLACES]
    return bool(off <= NEAR and off <= min(np.hypot(x - a, y - b) for a, b in others) + 1e-6)


def _stray(ink: np.ndarray, scene: Scene) -> float:
    """Share of pixels that are ink outside of every item's box (4 px of margin)."""
    free = np.ones_like(ink)
    for item in scene.items:
        if isinstance(item, Shape):
            r = item.diameter // 2 + 4
            y, x, h, w = item.y - r, item.x - r, 2 * r, 2 * r
        else:
            y, x, h, w = item.y - 2, item.x - 6, CELL[1] + 4, CELL[0] * len(item.text) + 12
        free[max(0, y) : max(0, y + h), max(0, x) : max(0, x + w)] = False
    return float((ink & free).mean())
