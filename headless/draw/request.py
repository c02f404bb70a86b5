"""A draw call, and the call with every default filled in."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from .controls import Asked
from .task import Task

if TYPE_CHECKING:
    from ...loaders.models.bundle import Bundle

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class DrawCall:
    """What was asked; None = the model's own preset."""

    prompt: str
    out: Path | None = None
    model: Path | None = None
    text_encoder: Path | None = None
    vae: Path | None = None
    lora: Sequence[tuple[Path, float]] = ()
    size: tuple[int, int] | None = None
    steps: int | None = None
    cfg: float | None = None
    negative: str | None = None
    seed: int = 0
    batch: int = 1
    dtype: str | None = None
    memory: int | None = None
    device: str | None = None
    save_latent: Path | None = None
    fast: bool = False
    image: Sequence[Path] = ()
    mask: Path | None = None
    strength: float | None = None
    layers: int | None = None
    variant: str | None = None
    control: Sequence[Asked] = ()
    control_model: Sequence[Path] = ()


@dataclass(frozen=True)
class Settings:
    """The call with every default filled in."""

    size: tuple[int, int]
    steps: int
    cfg: float
    negative: str
    seed: int
    batch: int
    strength: float = 1.0


def resolve(call: DrawCall, bundle: Bundle, task: Task) -> Settings:
    """Fills in the model's preset; a Lightning LoRA, or a Lightning schedule in the folder, chooses
    the fast one.
    """
    from ...sampling.schedule import LIGHTNING

    family = bundle.model.family
    own = bundle.model.schedule == LIGHTNING and family.schedule != LIGHTNING
    distilled = own and bundle.model.distilled is None
    if distilled:
        log.info(
            "the folder's scheduler is Lightning's: defaults are %d steps, CFG 1", family.fast.steps
        )
    lora = bundle.model.distilled
    few = call.fast or distilled or lora
    preset = family.fast if few else bundle.model.preset(len(task.beside))
    if lora:
        preset = replace(preset, steps=lora.steps or preset.steps, cfg=1.0)
        log.info(
            "a LoRA is %s (%s): defaults are %d steps, CFG 1; --steps and --cfg change them",
            lora.words(),
            lora.why,
            preset.steps,
        )
    return Settings(
        task.size or call.size or preset.size,
        call.steps if call.steps is not None else preset.steps,
        call.cfg if call.cfg is not None else preset.cfg,
        call.negative if call.negative is not None else preset.negative,
        call.seed,
        call.batch,
        task.strength,
    )
