"""The optimizer of a LoRA training and its learning rate."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from functools import partial

import torch
from torch import nn

from ...errors import CallError
from ...pipeline.train_choices import TrainSettings

BETAS = (0.9, 0.999)  # of torch, and of every trainer of LoRAs
MOMENTS = {"adamw": 2.0, "adamw8bit": 0.52}  # float32 numbers for each weight


def optimizer_of(settings: TrainSettings, weights: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    """AdamW, fused where torch has that, or the form with moments in 8 bits. Raises CallError where
    bitsandbytes is missing.
    """
    parameters = list(weights)
    if settings.optimizer == "adamw8bit":
        kind = _adamw8bit()
    else:
        fused = all(p.device.type in ("cpu", "cuda") for p in parameters)
        kind = partial(torch.optim.AdamW, fused=fused)
    return kind(parameters, lr=settings.lr, betas=BETAS, weight_decay=settings.weight_decay)


def check_optimizer(settings: TrainSettings) -> None:
    """Raises CallError where the optimizer needs a package that is missing."""
    if settings.optimizer == "adamw8bit":
        _adamw8bit()


def _adamw8bit() -> Callable[..., torch.optim.Optimizer]:
    try:
        from bitsandbytes.optim import AdamW8bit
    except ImportError as error:
        raise CallError(
            f"--optimizer adamw8bit needs bitsandbytes ({error}): pip install bitsandbytes, or use "
            "--optimizer adamw."
        ) from None
    return AdamW8bit


def rate_factor(settings: TrainSettings, step: int, steps: int) -> float:
    """What the learning rate of a step (from 0) is multiplied with: a linear warm-up, then
    constant, half a cosine to 0, or a line to 0.
    """
    warmup = min(settings.warmup, steps)
    if step < warmup:
        return (step + 1) / warmup
    share = (step - warmup) / max(1, steps - warmup)
    if settings.lr_schedule == "cosine":
        return 0.5 * (1 + math.cos(math.pi * share))
    return 1 - share if settings.lr_schedule == "linear" else 1.0


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Sets the learning rate of all parameters."""
    for group in optimizer.param_groups:
        group["lr"] = rate


def limit_gradient(weights: Iterable[nn.Parameter], most: float) -> float:
    """The length of the whole gradient, which is shortened to `most` where it is longer; 0 = it
    never is.
    """
    return float(nn.utils.clip_grad_norm_(list(weights), most or math.inf))
