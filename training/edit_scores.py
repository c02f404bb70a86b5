"""Scores edits: is what was asked done, and is everything else as it was?

The reader's own accuracy (true renderings of the targets) is printed beside every score. "rest"
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
from torch import Tensor

from ..loaders.arch.family import Preset
from ..loaders.models.bundle import Bundle
from ..loaders.models.load import load_all
from ..sampling.geometry import token_grid
from ..sampling.request import Request
from ..sampling.sampler import denoise
from ..sampling.schedule import sigmas
from .edits import SHARES, Edit, sample_edit
from .evaluate import SEED
from .grammar import CELL, Scene, Shape, Word
from .reader import STRAY, ground_and_ink, look
from .render import render

_ASKED = {"colour": ("colour", "word_colour"), "word": ("words", "letters")}


def test_edits(count: int) -> list[Edit]:
    """Unseen edits of all kinds and canvases."""
    rng = np.random.default_rng(SEED + 1)
    return [sample_edit(rng, split="test") for _ in range(count)]


def judge(picture: np.ndarray, edit: Edit) -> tuple[bool, bool]:
    """uint8 [H,W,3] -> (the asked change is made, everything else is as it was)."""
    seen = look(picture, edit.target)
    facts = [
        (i, key, bool(value))
        for i, item in enumerate(seen.items)
        for key, value in item.items()
        if key != "letters"
    ]
    if edit.kind == "ground":
        return seen.ground, seen.stray and all(v for _, _, v in facts)
    if edit.kind == "remove":
        return _gone(picture, edit), seen.ground and all(v for _, _, v in facts)
    keys = _ASKED.get(edit.kind)
    asked = [v for i, key, v in facts if i == edit.asked and (keys is None or key in keys)]
    rest = [v for i, key, v in facts if i != edit.asked or (keys is not None and key not in keys)]
    return all(asked), seen.ground and seen.stray and all(rest)


def _gone(picture: np.ndarray, edit: Edit) -> bool:
    """No ink where the removed item stood, but that of the items that stay."""
    _, ink = ground_and_ink(picture)
    for item in edit.target.items:
        ink[_box(item)] = False
    (removed,) = set(edit.source.items) - set(edit.target.items)
    return bool(ink[_box(removed)].mean() <= STRAY)


def _box(item: Shape | Word) -> tuple[slice, slice]:
    if isinstance(item, Shape):
        r = item.diameter // 2 + 8
        y, x, h, w = item.y - r, item.x - r, 2 * r, 2 * r
    else:
        y, x, h, w = item.y - 8, item.x - 12, CELL[1] + 16, CELL[0] * len(item.text) + 24
    return slice(max(0, y), y + h), slice(max(0, x), x + w)


def moved(picture: np.ndarray, before: np.ndarray, edit: Edit) -> float | None:
    """Mean absolute difference outside of what was asked; None where the whole ground changes."""
    if edit.kind == "ground":
        return None
    free = np.ones(picture.shape[:2], bool)
    for item in set(edit.source.items) ^ set(edit.target.items):
        free[_box(item)] = False
    return float(np.abs(picture.astype(float) - before.astype(float))[free].mean())


def _pixels(picture: Tensor) -> np.ndarray:
    return (picture * 255).round().to(torch.uint8).numpy()


def _encoded(models: Bundle, scene: Scene) -> Tensor:
    return models.vae.encode(torch.from_numpy(render(scene)).float()[None] / 255)


def edited(models: Bundle, edits: Sequence[Edit], preset: Preset) -> list[np.ndarray]:
    """Pictures of all edits; edit k is drawn with seed k."""
    template = models.model.edit
    pictures = []
    for seed, edit in enumerate(edits):
        width, height = edit.source.width, edit.source.height
        _, rows, columns = token_grid(width, height)
        table = sigmas(models.model.schedule, preset.steps, rows * columns)
        source = torch.from_numpy(render(edit.source)).float() / 255
        texts = [
            models.text_encoder.encode_edit(text, [source], template)
            for text in (edit.text, preset.negative)
        ]
        reference = (models.vae.encode(source[None]),)
        request = Request(width, height, table, seed, 1, preset.cfg, references=reference)
        latent = denoise(models.model, texts[0], texts[1] if preset.cfg > 1 else None, request)
        pictures.append(_pixels(models.vae.decode(latent)[0]))
    return pictures


def report(folder: Path, count: int) -> str:
    """A table: by kind of edit, and all; reader on true renderings beside the model's settings.
    A model that does not edit has no table, and it is said.
    """
    models, edits = load_all(folder), test_edits(count)
    if models.model.edit is None:
        return f"{folder}: this model has no edits."
    preset = models.model.preset(1)
    before = [_pixels(models.vae.decode(_encoded(models, e.source))[0]) for e in edits]
    rows = {"true renderings (the reader's own accuracy)": [render(e.target) for e in edits]}
    for name, setting in (("standard", preset), ("more steps", replace(preset, steps=20))):
        said = f"{name}: {setting.steps} steps, CFG {setting.cfg:g}"
        rows[said] = edited(models, edits, setting)
    kinds = [*SHARES]
    lines = ["| pictures | asked | rest | both | moved | " + " | ".join(kinds) + " |"]
    lines.append("|---" * (5 + len(kinds)) + "|")
    for said, pictures in rows.items():
        verdicts = [judge(p, e) for p, e in zip(pictures, edits)]
        far = [moved(p, b, e) for p, b, e in zip(pictures, before, edits)]
        cells = [_rate(verdicts, lambda v: v[0]), _rate(verdicts, lambda v: v[1])]
        cells += [_rate(verdicts, all), f"{np.mean([f for f in far if f is not None]):.2f}"]
        for kind in kinds:
            own = [v for v, e in zip(verdicts, edits) if e.kind == kind]
            cells.append(f"{_rate(own, lambda v: v[0])} / {_rate(own, lambda v: v[1])}")
        lines.append(f"| {said} | " + " | ".join(cells) + " |")
    lines.append(f"\n{count} unseen edits (seed {SEED + 1}); percent right, by kind asked / rest.")
    return "\n".join(lines)


def _rate(verdicts: list[tuple[bool, bool]], right: Callable[[tuple[bool, bool]], bool]) -> str:
    return f"{100 * np.mean([right(v) for v in verdicts]):.1f}" if verdicts else "-"
