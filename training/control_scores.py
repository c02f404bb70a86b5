"""Scores a control branch: do the edges of a drawing lie where the map has them?

F of Canny edges within 2 pixels: of the drawing, against those of the picture that the map comes
from. Half of the pictures are scenes of the grammar, half hold shapes at places that no prompt
names. Each is drawn without control too, and the picture through the VAE is the upper limit.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from ..errors import InkstoneError
from ..loaders.arch.family import Family, Preset
from ..loaders.models.bundle import Bundle
from ..loaders.models.control import ControlModel, load_control
from ..loaders.models.load import load_all
from ..sampling.request import Control
from .control_flow import EDGES, OTHERS, MapMaker, free_scene
from .evaluate import SEED, Draft, Models
from .grammar import Scene, prompt, sample
from .render import render

WITHIN = 2  # pixels


def test_scenes(count: int) -> tuple[list[Scene], list[Scene]]:
    """(scenes of the grammar, shapes anywhere), unseen, `count` of each."""
    rng = np.random.default_rng(SEED + 2)
    return (
        [sample(rng, "scenes", None, "test") for _ in range(count)],
        [free_scene(rng, "test") for _ in range(count)],
    )


def edge_score(picture: np.ndarray, true: np.ndarray) -> float:
    """F of the edges of two uint8 pictures [H,W,3]: an edge matches within `WITHIN` pixels."""
    a, b = (torch.from_numpy(EDGES(p)[..., 0] > 127).float()[None, None] for p in (picture, true))
    if not a.any() or not b.any():
        return float(bool(a.any()) == bool(b.any()))
    near = [F.max_pool2d(x, 2 * WITHIN + 1, 1, WITHIN) for x in (a, b)]
    precision = ((a * near[1]).sum() / a.sum()).item()
    recall = ((b * near[0]).sum() / b.sum()).item()
    return 2 * precision * recall / max(1e-9, precision + recall)


def no_prompt(scene: Scene) -> str:
    """The empty prompt: only the map decides."""
    return ""


@dataclass(frozen=True)
class Setting:
    """A row of the table: a preset, the map of a picture, and the prompt of a scene."""

    name: str
    preset: Preset
    map_of: MapMaker = EDGES
    prompt_of: Callable[[Scene], str] = prompt
    controlled: bool = True


def draw_controlled(
    bundle: Bundle,
    branch: ControlModel | None,
    scenes: Sequence[Scene],
    setting: Setting,
    first: int = 0,
) -> list[np.ndarray]:
    """Draws all scenes with the control on their maps; seeds count from `first`."""
    models = Models.of(bundle)
    encode = models.text_encoder.encode
    negative = encode(setting.preset.negative).states
    pictures = []
    for seed, scene in enumerate(scenes, first):
        controls: tuple[Control, ...] = ()
        if branch is not None:
            controls = (Control(branch, models.encode(setting.map_of(render(scene)))),)
        positive = encode(setting.prompt_of(scene)).states
        draft = Draft(scene, positive, negative, setting.preset, seed, controls=controls)
        pictures.append(models.draw(draft))
    return pictures


def settings(family: Family) -> list[Setting]:
    """The rows of the table."""
    preset, fast = family.preset, family.fast
    return [
        Setting("no control", preset, controlled=False),
        Setting("canny", preset),
        Setting("canny", fast),
        *(Setting(name, fast, map_of) for name, map_of in OTHERS.items()),
        Setting("canny, empty prompts", fast, prompt_of=no_prompt),
    ]


def report(folder: Path, count: int, control: Path | None = None) -> str:
    """A table: mean F and the share of pictures at 0.8 and more; `count` scenes of each half.
    A model folder without a control gets a sentence instead.
    """
    if control is None and not (folder / "controlnet").is_dir():
        return f"{folder}: this model has no control."
    bundle, branch = load_all(folder), load_control(control or folder)
    if not isinstance(branch, ControlModel):
        raise InkstoneError(
            f"{control or folder}: expected a control branch, got an in-context LoRA."
        )
    models, halves = Models.of(bundle), test_scenes(count)
    lines = ["| map | scenes: F | at 0.8 | shapes anywhere: F | at 0.8 |", "|---" * 5 + "|"]
    through = [[models.round_trip(render(s)) for s in half] for half in halves]
    lines.append(_line("the picture through the VAE", through, halves))
    for setting in settings(bundle.model.family):
        used = branch if setting.controlled else None
        pictures = [draw_controlled(bundle, used, half, setting) for half in halves]
        name = f"{setting.name}: {setting.preset.steps} steps, CFG {setting.preset.cfg:g}"
        lines.append(_line(name, pictures, halves))
    lines.append(f"\n{count} unseen pictures of each half (seed {SEED + 2}).")
    return "\n".join(lines)


def _line(
    name: str, halves: Sequence[list[np.ndarray]], scenes_of: Sequence[Sequence[Scene]]
) -> str:
    cells = []
    for pictures, scenes in zip(halves, scenes_of):
        scores = [edge_score(p, render(s)) for p, s in zip(pictures, scenes)]
        cells += [f"{np.mean(scores):.3f}", f"{100 * np.mean([f >= 0.8 for f in scores]):.0f} %"]
    return f"| {name} | " + " | ".join(cells) + " |"
