"""The loop of every flow stage: AdamW, warm-up, clipping, moving average, checkpoints, resume.

Data of a step come from (seed, stage, step), so a stopped run goes on bit for bit.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn

from .checkpoint import EMA, Checkpoint, step_rng, warm_constant_linear

log = logging.getLogger(__name__)

Loss = Callable[[np.random.Generator], tuple[Tensor, int]]
"""The generator of a step -> (loss of its batch, pictures in it)."""


class TrainStage(Protocol):
    """What the loop needs of a stage."""

    name: str
    steps: int
    lr: float
    save_every: int


def run_loop(model: nn.Module, stage: TrainStage, loss_of: Loss, folder: Path, seed: int) -> None:
    """Trains or resumes one stage; the model ends on the averaged weights."""
    ema, file = EMA(model), Checkpoint(folder / f"{stage.name}.safetensors")
    optimiser = torch.optim.AdamW(
        model.parameters(), lr=stage.lr, betas=(0.9, 0.98), weight_decay=0.01, fused=True
    )
    first = file.restore(model, ema, optimiser)
    began, seen, losses = time.time(), 0, []
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
        seen += size
        if (step + 1) % 100 == 0:
            rate, mean = seen / (time.time() - began), np.mean(losses[-100:])
            log.info("%s %d/%d: loss %.3f, %.0f/s", stage.name, step + 1, stage.steps, mean, rate)
        if (step + 1) % stage.save_every == 0 or step + 1 == stage.steps:
            file.save(model, ema, optimiser, step + 1)
    with torch.no_grad():
        for name, p in model.named_parameters():
            p.copy_(ema.shadow[name])
