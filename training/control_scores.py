"""Scores a control branch: do the edges of a drawing lie where the map has them?

F of Canny edges within 2 pixels: of the drawing, against those of the picture that the map was made
of. Half of the pictures are scenes of the grammar, half hold shapes at places that no prompt names.
Each is drawn without control too, and the picture through the VAE says what can be reached at all.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..loaders.arch.family import Preset
from ..loaders.models.bundle import Bundle
from ..loaders.models.control import ControlModel, load_control
from ..loaders.models.load import load_all
from ..sampling.geometry import token_grid
from ..sampling.request import Control, Request
from ..sampling.sampler import denoise
from ..sampling.schedule import sigmas
from .control_flow import EDGES, OTHERS, free_scene
from .evaluate import SEED
from .grammar import Scene, prompt, sample
from .render import render

WITHIN = 2  # pixels
Map = Callable[[np.ndarray], np.ndarray]


def test_scenes(count: int) -> tuple[list[Scene], list[Scene]]:
    """(scenes of the grammar, shapes anywhere), unseen, `count` of each."""
    rng = np.random.default_rng(SEED + 2)
    return (
        [sample(rng, "scenes", None, "test") for _ in range(count)],
        [free_scene(rng, "test") for _ in range(count)],
    )


def edge_score(picture: np.ndarray, true: np.ndarray) -> float:
    """F of the edges of two uint8 pictures [H,W,3]: each finds its like within `WITHIN` pixels."""
    a, b = (torch.from_numpy(EDGES(p)[..., 0] > 127).float()[None, None] for p in (picture, true))
    if not a.any() or not b.any():
        return float(bool(a.any()) == bool(b.any()))
    near = [F.max_pool2d(x, 2 * WITHIN + 1, 1, WITHIN) for x in (a, b)]
    precision, recall = (
        ((a * near[1]).sum() / a.sum()).item(),
        ((b * near[0]).sum() / b.sum()).item(),
    )
    return 2 * precision * recall / max(1e-9, precision + recall)


def no_words(scene: Scene) -> str:
    """The empty prompt: all is the map's to say."""
    return ""


def drawn(
    models: Bundle,
    branch: ControlModel | None,
    scenes: Sequence[Scene],
    preset: Preset,
    made: Map,
    said: Callable[[Scene], str] = prompt,
) -> list[np.ndarray]:
    """Pictures uint8 [H,W,3] of all scenes, with the control on their maps; seeds count from 0."""
    pictures = []
    negative = models.text_encoder.encode(preset.negative) if preset.cfg > 1 else None
    for seed, scene in enumerate(scenes):
        _, rows, columns = token_grid(scene.width, scene.height)
        table = sigmas(models.model.schedule, preset.steps, rows * columns)
        controls = ()
        if branch is not None:
            seen = torch.from_numpy(made(render(scene))).float()[None] / 255
            controls = (Control(branch, models.vae.encode(seen)),)
        request = Request(scene.width, scene.height, table, seed, 1, preset.cfg, controls=controls)
        positive = models.text_encoder.encode(said(scene))
        latent = denoise(models.model, positive, negative, request)
        pictures.append(pixels(models.vae.decode(latent)[0]))
    return pictures


def pixels(picture: Tensor) -> np.ndarray:
    """[H,W,3] in 0..1 -> uint8."""
    return (picture * 255).round().to(torch.uint8).numpy()


def report(folder: Path, count: int, control: Path | None = None) -> str:
    """A table: mean F and the share of pictures at 0.8 and more; `count` scenes of each half.
    A model folder without a control has no table, and it is said.
    """
    if control is None and not (folder / "controlnet").is_dir():
        return f"{folder}: this model has no control."
    models, branch = load_all(folder), load_control(control or folder)
    halves, preset, fast = test_scenes(count), models.model.family.preset, models.model.family.fast
    rows = [_line("the picture through the VAE", [_through(models, h) for h in halves], halves)]
    for name, used, setting, made, said in (
        ("no control", None, preset, EDGES, prompt),
        ("canny", branch, preset, EDGES, prompt),
        ("canny", branch, fast, EDGES, prompt),
        *((name, branch, fast, made, prompt) for name, made in OTHERS.items()),
        ("canny, empty prompts", branch, fast, EDGES, no_words),
    ):
        found = [drawn(models, used, half, setting, made, said) for half in halves]
        rows.append(_line(f"{name}: {setting.steps} steps, CFG {setting.cfg:g}", found, halves))
    head = ["| map | scenes: F | at 0.8 | shapes anywhere: F | at 0.8 |", "|---" * 5 + "|"]
    said = f"\n{count} unseen pictures of each half (seed {SEED + 2})."
    return "\n".join([*head, *rows, said])


def _through(models: Bundle, scenes: Sequence[Scene]) -> list[np.ndarray]:
    true = (torch.from_numpy(render(s)).float()[None] / 255 for s in scenes)
    return [pixels(models.vae.decode(models.vae.encode(x))[0]) for x in true]


def _line(name: str, found: Sequence[list[np.ndarray]], halves: Sequence[Sequence[Scene]]) -> str:
    cells = []
    for pictures, scenes in zip(found, halves):
        scores = [edge_score(p, render(s)) for p, s in zip(pictures, scenes)]
        cells += [f"{np.mean(scores):.3f}", f"{100 * np.mean([f >= 0.8 for f in scores]):.0f} %"]
    return f"| {name} | " + " | ".join(cells) + " |"
