"""Scores of a trained model folder on prompts that training never saw, next to the reader's own
accuracy.

Two settings are scored: the standard one and the few-step one (no CFG). Pictures go through the
same functions as `inkstone draw`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..loaders.arch.family import Preset
from ..loaders.models.bundle import Bundle
from ..loaders.models.diffusion_model import DiffusionModel
from ..loaders.models.load import load_all
from ..loaders.models.text_encoder import TextEncoderModel
from ..loaders.models.vae import VAEModel
from ..sampling.geometry import token_grid
from ..sampling.request import Control, Request
from ..sampling.sampler import denoise
from ..sampling.schedule import sigmas
from . import reader
from .grammar import Scene, prompt, sample
from .render import render

SEED = 4711  # of the test prompts; picture k is drawn with seed k
KEYS = (
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


@dataclass(frozen=True)
class Draft:
    """One picture to draw: its canvas, encoded prompts, settings and seed."""

    scene: Scene  # its size is used
    positive: Tensor
    negative: Tensor
    preset: Preset
    seed: int
    references: tuple[Tensor, ...] = ()
    controls: tuple[Control, ...] = ()


@dataclass(frozen=True)
class Models:
    """The three models of a folder, drawing uint8 pictures [H,W,3]."""

    model: DiffusionModel
    text_encoder: TextEncoderModel
    vae: VAEModel

    @classmethod
    def of(cls, bundle: Bundle) -> Models:
        """The models of a bundle that has all three."""
        assert bundle.text_encoder is not None and bundle.vae is not None  # a folder has all three
        return cls(bundle.model, bundle.text_encoder, bundle.vae)

    def draw(self, draft: Draft) -> np.ndarray:
        """Draws one picture."""
        width, height, preset = draft.scene.width, draft.scene.height, draft.preset
        _, rows, columns = token_grid(width, height)
        request = Request(
            width=width,
            height=height,
            sigmas=sigmas(self.model.schedule, preset.steps, rows * columns),
            seed=draft.seed,
            cfg=preset.cfg,
            references=draft.references,
            controls=draft.controls,
        )
        negative = draft.negative if preset.cfg > 1 else None
        return self.decode(denoise(self.model, draft.positive, negative, request))

    def encode(self, picture: np.ndarray) -> Tensor:
        """A picture -> its latent."""
        return self.vae.encode(torch.from_numpy(picture).float()[None] / 255)

    def decode(self, latent: Tensor) -> np.ndarray:
        """The first picture of a latent."""
        return (self.vae.decode(latent)[0] * 255).round().to(torch.uint8).numpy()

    def round_trip(self, picture: np.ndarray) -> np.ndarray:
        """A picture through the VAE."""
        return self.decode(self.encode(picture))


def test_scenes(count: int) -> list[Scene]:
    """Held-out scenes, all canvases."""
    rng = np.random.default_rng(SEED)
    return [sample(rng, "scenes", None, "test") for _ in range(count)]


def draw_scenes(
    bundle: Bundle, scenes: Sequence[Scene], preset: Preset, first: int = 0
) -> list[np.ndarray]:
    """Draws all scenes from their prompts; seeds count from `first`."""
    models = Models.of(bundle)
    encode = models.text_encoder.encode
    negative = encode(preset.negative).states
    return [
        models.draw(Draft(scene, encode(prompt(scene)).states, negative, preset, seed))
        for seed, scene in enumerate(scenes, first)
    ]


def report(folder: Path, count: int) -> str:
    """A table: reader on true renderings, after a VAE round trip, and the model's two settings."""
    bundle, scenes = load_all(folder), test_scenes(count)
    models, family = Models.of(bundle), bundle.model.family
    renderings = [render(s) for s in scenes]
    rows = {
        "true renderings (the reader's own accuracy)": renderings,
        "true renderings through the VAE": [models.round_trip(p) for p in renderings],
    }
    for name, preset in (("standard", family.preset), ("few steps", family.fast)):
        row = f"{name}: {preset.steps} steps, CFG {preset.cfg:g}"
        rows[row] = draw_scenes(bundle, scenes, preset)
    lines = ["| pictures | " + " | ".join(KEYS) + " |", "|---" * (len(KEYS) + 1) + "|"]
    for name, pictures in rows.items():
        rates = reader.score(pictures, scenes)
        lines.append(f"| {name} | " + " | ".join(f"{100 * rates[k]:.1f}" for k in KEYS) + " |")
    sizes = ", ".join(f"{w}x{h}" for w, h in sorted({(s.width, s.height) for s in scenes}))
    lines.append(f"\n{count} held-out prompts (seed {SEED}), canvases {sizes}; percent right.")
    return "\n".join(lines)
