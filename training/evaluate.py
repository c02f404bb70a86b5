"""Scores of a trained model folder on prompts that training never saw, with the reader's own
accuracy.

Two settings are scored: the standard one and the few-step one (no CFG). Pictures go through the
same functions as `inkstone draw`.
"""

from __future__ import annotations

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
from . import reader
from .grammar import Scene, prompt, sample
from .render import render

SEED = 4711  # of the test prompts; picture k is drawn with seed k


def test_scenes(count: int) -> list[Scene]:
    """Held-out scenes, all canvases."""
    rng = np.random.default_rng(SEED)
    return [sample(rng, "scenes", None, "test") for _ in range(count)]


def draw_scene(models: Bundle, scene: Scene, preset: Preset, seed: int) -> Tensor:
    """Raw latent of one scene."""
    _, rows, columns = token_grid(scene.width, scene.height)
    table = sigmas(models.model.schedule, preset.steps, rows * columns)
    positive = models.text_encoder.encode(prompt(scene))
    negative = models.text_encoder.encode(preset.negative) if preset.cfg > 1 else None
    request = Request(scene.width, scene.height, table, seed, 1, preset.cfg)
    return denoise(models.model, positive, negative, request)


def drawn(models: Bundle, scenes: list[Scene], preset: Preset) -> list[np.ndarray]:
    """Pictures uint8 [H,W,3] of all scenes."""
    pictures = []
    for seed, scene in enumerate(scenes):
        picture = models.vae.decode(draw_scene(models, scene, preset, seed))[0]
        pictures.append((picture * 255).round().to(torch.uint8).numpy())
    return pictures


def report(folder: Path, count: int) -> str:
    """A table: reader on true renderings, after a VAE round trip, and the model's two settings."""
    models, scenes = load_all(folder), test_scenes(count)
    true = [render(s) for s in scenes]
    tripped = []
    for picture in true:
        x = torch.from_numpy(picture).float()[None] / 255
        back = models.vae.decode(models.vae.encode(x))[0]
        tripped.append((back * 255).round().to(torch.uint8).numpy())
    family = models.model.family
    rows = {
        "true renderings (the reader's own accuracy)": true,
        "true renderings through the VAE": tripped,
    }
    for name, preset in (("standard", family.preset), ("few steps", family.fast)):
        rows[f"{name}: {preset.steps} steps, CFG {preset.cfg:g}"] = drawn(models, scenes, preset)
    keys = (
        "ground",
        "kind",
        "colour",
        "place",
        "size",
        "words",
        "letters",
        "word_colour",
        "stray",
        "all",
    )
    lines = ["| pictures | " + " | ".join(keys) + " |", "|---" * (len(keys) + 1) + "|"]
    for name, pictures in rows.items():
        rates = reader.score(pictures, scenes)
        lines.append(f"| {name} | " + " | ".join(f"{100 * rates[k]:.1f}" for k in keys) + " |")
    sizes = sorted({(s.width, s.height) for s in scenes})
    said = ", ".join(f"{w}x{h}" for w, h in sizes)
    lines.append(f"\n{count} held-out prompts (seed {SEED}), canvases {said}; percent right.")
    return "\n".join(lines)
