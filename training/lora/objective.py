"""What a step asks of the network: rectified flow, as in the Qwen-Image paper.

x = (1 - sigma) data + sigma noise; the network says noise - data. How sigma is drawn, and how much
an error counts at each sigma, are the published choices of trainers (reference: diffusers'
`compute_density_for_timestep_sampling`, `compute_loss_weighting_for_sd3`; the shift is the
schedule's own, as at inference).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ...sampling.schedule import Schedule, shifted
from ...sampling.variety import noisy_states
from ..checkpoint import step_rng
from ..dataset.example import Example

TIMESTEPS = ("logit-normal", "uniform", "mode")
WEIGHTINGS = ("none", "sigma-sqrt", "cosmap")
_LEAST = 1e-3  # sigma-sqrt weighs by 1 / sigma^2
_OF_TEXT, _OF_LAYERS = 0x5EED, 0x1A7E5  # make another seed of that of a picture's noise


@dataclass(frozen=True)
class Objective:
    """How a step is drawn and weighed."""

    timesteps: str = "logit-normal"  # one of TIMESTEPS
    mean: float = 0.0  # of logit-normal
    spread: float = 1.0  # its standard deviation; of mode: its scale, 1.29 is usual
    shift: float | None = None  # None = by resolution, as at inference; 1 = none
    weighting: str = "none"  # one of WEIGHTINGS
    caption_dropout: float = 0.0  # share of examples that are trained without their caption
    caption_noise: float = 0.0  # on the states of a caption, see `noisy_states`
    module_dropout: float = 0.0  # share of layers that are left as they are in a step


@dataclass(frozen=True)
class Draws:
    """The random choices for one example of a step."""

    sigma: float
    noise: int  # seed
    dropped: bool


def draw(
    objective: Objective, schedule: Schedule, seed: int, step: int, tokens: Sequence[int]
) -> list[Draws]:
    """The choices of one optimizer step, for each of its examples in order; tokens: of each one's
    target. They come from (seed, step), so a resumed run draws the same.
    """
    rng = step_rng(seed, "lora", step)
    count = len(tokens)
    normal, uniform = rng.standard_normal(count), rng.random(count)
    drops, seeds = rng.random(count), rng.integers(2**62, size=count)
    return [
        Draws(
            sigma=_sigma(objective, schedule, normal[i], uniform[i], tokens[i]),
            noise=int(seeds[i]),
            dropped=bool(drops[i] < objective.caption_dropout),
        )
        for i in range(count)
    ]


def _sigma(
    objective: Objective, schedule: Schedule, normal: float, uniform: float, tokens: int
) -> float:
    """A noise level in 0..1, shifted, as a float32 number."""
    if objective.timesteps == "logit-normal":
        level = 1 / (1 + math.exp(-(objective.mean + objective.spread * normal)))
    elif objective.timesteps == "mode":
        level = 1 - uniform
        level -= objective.spread * (math.cos(math.pi * uniform / 2) ** 2 - 1 + uniform)
    else:
        level = uniform
    level = shifted(schedule, level, tokens, objective.shift)
    return float(np.float32(min(max(level, 0.0), 1.0)))


def weight_of(objective: Objective, sigma: float) -> float:
    """How much the error at a noise level counts."""
    if objective.weighting == "sigma-sqrt":
        return max(sigma, _LEAST) ** -2
    if objective.weighting == "cosmap":
        return 2 / (math.pi * (1 - 2 * sigma + 2 * sigma**2))
    return 1.0


def noise_of(example: Example, draws: Draws) -> Tensor:
    """[S,C] float32."""
    generator = torch.Generator().manual_seed(draws.noise)
    return torch.randn(example.latents.shape, generator=generator)


def text_of(objective: Objective, example: Example, draws: Draws) -> Tensor:
    """[L,J]: the states of the caption, or of the empty one. Noise on them stands for the sentences
    in which the same words come with other states: few captions are else learned by heart (the idea
    of NEFTune, arXiv 2310.05914, which adds it to a language model's embeddings).
    """
    text = example.dropped if draws.dropped else example.text
    if not objective.caption_noise:
        return text
    generator = torch.Generator().manual_seed(draws.noise ^ _OF_TEXT)
    return noisy_states(text, objective.caption_noise, generator)


def layers_of(objective: Objective, names: Sequence[str], draws: Draws) -> list[str]:
    """The layers that have their changes while these draws go through them, at least one. Where
    some are left out in each step, the others learn to do without them, and all together act more
    than any step asked for (reference: module_dropout of kohya's trainers).
    """
    if not objective.module_dropout:
        return list(names)
    generator = torch.Generator().manual_seed(draws.noise ^ _OF_LAYERS)
    chances = torch.rand(len(names), generator=generator).tolist()
    least = min(objective.module_dropout, max(chances))
    return [name for name, chance in zip(names, chances) if chance >= least]


def loss_of(
    objective: Objective, velocity: Tensor, noise: Tensor, example: Example, sigma: float
) -> Tensor:
    """The weighted mean squared error of a velocity [S,C] float32: one number. Tokens that a mask
    excludes do not count, neither in the sum nor in what it is divided by.
    """
    device = velocity.device
    error = (velocity - (noise - example.latents).to(device)).square().mean(dim=-1)  # [S]
    weight = weight_of(objective, sigma)
    if example.weight is None:
        return weight * error.mean()
    share = example.weight.to(device)
    return weight * (error * share).sum() / share.sum()
