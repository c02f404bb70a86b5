"""Scores edits: is the request done, and is everything else as it was?

The reader's own accuracy (true renderings of the targets) is printed with every score. "rest"
counts an edit only when every other fact of the picture is right: ground, all items, no stray ink.
"moved" is the mean distance in 0..255, outside of the changed item's box, to the source as the VAE
gives it back.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from ..loaders.arch.family import Preset
from ..loaders.models.bundle import Bundle
from ..loaders.models.load import load_all
from .edits import SHARES, Edit, sample_edit
from .evaluate import SEED, Draft, Models
from .grammar import CELL, KINDS, Shape, Word
from .reader import STRAY, ground_and_ink, look
from .render import render

_REQUESTED = {"colour": ("colour", "word_colour"), "word": ("words", "letters")}


def test_edits(count: int) -> list[Edit]:
    """Unseen edits of all kinds and canvases."""
    rng = np.random.default_rng(SEED + 1)
    return [sample_edit(rng, split="test") for _ in range(count)]


def judge(picture: np.ndarray, edit: Edit, kinds: Sequence[str] = KINDS) -> tuple[bool, bool]:
    """uint8 [H,W,3] -> (the requested change is done, everything else is as it was). kinds: of
    shapes that it may show.
    """
    reading = look(picture, edit.target, kinds)
    facts = [
        (i, key, bool(value))
        for i, item in enumerate(reading.items)
        for key, value in item.items()
        if key != "letters"
    ]
    if edit.kind == "ground":
        return reading.ground, reading.stray and all(v for _, _, v in facts)
    if edit.kind == "remove":
        return _gone(picture, edit), reading.ground and all(v for _, _, v in facts)
    keys = _REQUESTED.get(edit.kind)
    changed = [v for i, key, v in facts if i == edit.item and (keys is None or key in keys)]
    rest = [v for i, key, v in facts if i != edit.item or (keys is not None and key not in keys)]
    return all(changed), reading.ground and reading.stray and all(rest)


def _gone(picture: np.ndarray, edit: Edit) -> bool:
    """No ink where the removed item was, except that of the items that stay."""
    _, ink = ground_and_ink(picture)
    for item in edit.target.items:
        ink[item_box(item)] = False
    (removed,) = set(edit.source.items) - set(edit.target.items)
    return bool(ink[item_box(removed)].mean() <= STRAY)


def item_box(item: Shape | Word) -> tuple[slice, slice]:
    """Rows and columns around an item with a margin; they may end beyond the canvas."""
    if isinstance(item, Shape):
        r = item.diameter // 2 + 8
        y, x, h, w = item.y - r, item.x - r, 2 * r, 2 * r
    else:
        y, x, h, w = item.y - 8, item.x - 12, CELL[1] + 16, CELL[0] * len(item.text) + 24
    return slice(max(0, y), y + h), slice(max(0, x), x + w)


def moved(picture: np.ndarray, before: np.ndarray, edit: Edit) -> float | None:
    """Mean absolute difference outside of the request; None where the whole ground changes."""
    if edit.kind == "ground":
        return None
    free = np.ones(picture.shape[:2], bool)
    for item in set(edit.source.items) ^ set(edit.target.items):
        free[item_box(item)] = False
    return float(np.abs(picture.astype(float) - before.astype(float))[free].mean())


def draw_edits(
    bundle: Bundle, edits: Sequence[Edit], preset: Preset, first: int = 0
) -> list[np.ndarray]:
    """Draws all edits; seeds count from `first`."""
    models, template = Models.of(bundle), bundle.model.edit
    assert template is not None  # `report` asks
    pictures = []
    for seed, edit in enumerate(edits, first):
        source = render(edit.source)
        image = torch.from_numpy(source).float() / 255
        positive, negative = (
            models.text_encoder.encode_edit(text, [image], template).states
            for text in (edit.text, preset.negative)
        )
        references = (models.encode(source),)
        draft = Draft(edit.source, positive, negative, preset, seed, references)
        pictures.append(models.draw(draft))
    return pictures


def report(folder: Path, count: int) -> str:
    """A table: by kind of edit, and all; the reader on true renderings, and the model's settings.
    A model that cannot edit gets a sentence instead.
    """
    bundle, edits = load_all(folder), test_edits(count)
    if bundle.model.edit is None:
        return f"{folder}: this model has no edits."
    models, preset = Models.of(bundle), bundle.model.preset(1)
    before = [models.round_trip(render(e.source)) for e in edits]
    rows = {"true renderings (the reader's own accuracy)": [render(e.target) for e in edits]}
    for name, setting in (("standard", preset), ("more steps", replace(preset, steps=20))):
        row = f"{name}: {setting.steps} steps, CFG {setting.cfg:g}"
        rows[row] = draw_edits(bundle, edits, setting)
    lines = ["| pictures | asked | rest | both | moved | " + " | ".join(SHARES) + " |"]
    lines.append("|---" * (5 + len(SHARES)) + "|")
    for name, pictures in rows.items():
        lines.append(f"| {name} | " + " | ".join(_cells(pictures, before, edits)) + " |")
    lines.append(f"\n{count} unseen edits (seed {SEED + 1}); percent right, by kind asked / rest.")
    return "\n".join(lines)


def _cells(
    pictures: Sequence[np.ndarray], before: Sequence[np.ndarray], edits: Sequence[Edit]
) -> list[str]:
    """A row of the table, without its name."""
    verdicts = [judge(p, e) for p, e in zip(pictures, edits)]
    distances = [moved(p, b, e) for p, b, e in zip(pictures, before, edits)]
    cells = [_rate(verdicts, lambda v: v[0]), _rate(verdicts, lambda v: v[1])]
    cells += [_rate(verdicts, all), f"{np.mean([d for d in distances if d is not None]):.2f}"]
    for kind in SHARES:
        own = [v for v, e in zip(verdicts, edits) if e.kind == kind]
        cells.append(f"{_rate(own, lambda v: v[0])} / {_rate(own, lambda v: v[1])}")
    return cells


def _rate(verdicts: list[tuple[bool, bool]], right: Callable[[tuple[bool, bool]], bool]) -> str:
    return f"{100 * np.mean([right(v) for v in verdicts]):.1f}" if verdicts else "-"
