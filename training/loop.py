"""The loop of every flow stage: AdamW, warm-up, clipping, moving average, checkpoints, resume.

Data of a step come from (seed, stage, step), so a stopped run resumes bit for bit.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence, Sized
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from .checkpoint import EMA, Checkpoint, step_rng, warm_constant_linear

log = logging.getLogger(__name__)

Loss = Callable[[np.random.Generator], tuple[Tensor, int]]
"""The generator of a step -> (loss of its batch, pictures in it)."""


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One stage of training: its length, batch size and learning rate."""

    name: str
    steps: int
    batch: int
    lr: float
    save_every: int


@dataclass(frozen=True, kw_only=True)
class PictureStage(Stage):
    """A stage on encoded pictures: how many there are of each kind."""

    pictures: Mapping[str, int]


@dataclass(frozen=True, kw_only=True)
class MixedStage(PictureStage):
    """A stage whose batches come from one kind at a time, each with its share."""

    share: Mapping[str, float]


class Group(Protocol):
    """Encoded pictures of one size."""

    @property
    def ids(self) -> Sized:
        """Token ids, one entry for each picture."""


AnyGroup = TypeVar("AnyGroup", bound=Group)
AnyStage = TypeVar("AnyStage", bound=Stage)


def pick_kind(rng: np.random.Generator, stage: MixedStage) -> str:
    """A kind of pictures, by share."""
    kinds = list(stage.share)
    return kinds[int(rng.choice(len(kinds), p=list(stage.share.values())))]


def pick_group(rng: np.random.Generator, groups: Sequence[AnyGroup]) -> AnyGroup:
    """A group, by its number of pictures."""
    sizes = np.array([len(group.ids) for group in groups], dtype=float)
    return groups[int(rng.choice(len(groups), p=sizes / sizes.sum()))]


def run_stages(
    model: nn.Module,
    stages: Sequence[AnyStage],
    prepare: Callable[[AnyStage], Loss],
    folder: Path,
    seed: int,
) -> None:
    """Trains all stages, each resumed where it stopped. prepare: encodes a stage's data; a finished
    stage only restores its averaged weights.
    """
    for stage in stages:
        if Checkpoint(folder / f"{stage.name}.safetensors").finished(stage.steps):
            run_loop(model, stage, _no_steps_left, folder, seed)
            continue
        loss_of = prepare(stage)
        log.info("%s: data ready", stage.name)
        run_loop(model, stage, loss_of, folder, seed)


def _no_steps_left(rng: np.random.Generator) -> tuple[Tensor, int]:
    raise RuntimeError("a finished stage takes no steps")


def run_loop(model: nn.Module, stage: Stage, loss_of: Loss, folder: Path, seed: int) -> None:
    """Trains or resumes one stage; the model ends on the averaged weights."""
    ema, file = EMA(model), Checkpoint(folder / f"{stage.name}.safetensors")
    optimiser = torch.optim.AdamW(
        model.parameters(), lr=stage.lr, betas=(0.9, 0.98), weight_decay=0.01, fused=True
    )
    first = file.restore(model, ema, optimiser)
    began, pictures = time.time(), 0
    losses: list[float] = []
    for step in range(first, stage.steps):
        for group in optimiser.param_groups:
            group["lr"] = stage.lr * warm_constant_linear(step, stage.steps)
        loss, size = loss_of(step_rng(seed, stage.name, step))
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        ema.update(model, step)
        losses.append(loss.item())
        pictures += size
        if (step + 1) % 100 == 0:
            rate, mean = pictures / (time.time() - began), np.mean(losses[-100:])
            log.info("%s %d/%d: loss %.3f, %.0f/s", stage.name, step + 1, stage.steps, mean, rate)
        if (step + 1) % stage.save_every == 0 or step + 1 == stage.steps:
            file.save(model, ema, optimiser, step + 1)
    ema.copy_to(model)
