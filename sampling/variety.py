"""Variety: what makes the pictures of different seeds differ, in the first steps of a run.

Composition is decided in the first steps, and after many words the model decides it nearly alike
from every noise. Two ways around that, off by default:

- noise on the words: their states get noise of the picture's seed. Its size in each channel is the
  channel's own, the median over the words: a few channels and a first word of language models are
  many times larger than all others and would else set the size for all. The negative prompt and
  what controls read of the prompt stay clean.
- no CFG: the steps follow the prompt alone, less strictly and from each noise another way.

Noise of a picture depends on its seed and prompt alone, so a batch equals single pictures.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from .regions import Region, Regional
from .variety_choices import NO_EARLY_CFG, TEXT_NOISE, Variety

log = logging.getLogger(__name__)

_APART = 0x9E3779B97F4A7C15  # from the seed of a picture's own noise; 2**64 over the golden ratio


@dataclass(frozen=True, eq=False)
class Prompt:
    """The states of a prompt [n,L,J] and of its regions; n = 1 or the batch."""

    text: Tensor
    regional: Regional | None = None


def noisy_prompt(prompt: Prompt, variety: Variety, seed: int, batch: int) -> Prompt:
    """The prompt [1,L,J] with noise [batch,L,J], float32 on the CPU: row k has that of seed + k.
    The words of regions are noisy too.
    """
    regions = () if prompt.regional is None else prompt.regional.regions
    texts = [prompt.text, *(region.states for region in regions)]
    rows = [_noisy(texts, variety.text_noise, (seed + k + _APART) % 2**64) for k in range(batch)]
    text, *own = (torch.cat(parts) for parts in zip(*rows, strict=True))
    if prompt.regional is None:
        return Prompt(text)
    parts = tuple(Region(states, r.cells) for states, r in zip(own, regions, strict=True))
    return Prompt(text, replace(prompt.regional, regions=parts))


def _noisy(texts: list[Tensor], amount: float, seed: int) -> list[Tensor]:
    """States [1,L,J] of some prompts with the noise of one picture."""
    generator = torch.Generator().manual_seed(seed)
    return [noisy_states(text, amount, generator) for text in texts]


def noisy_states(text: Tensor, amount: float, generator: torch.Generator) -> Tensor:
    """States [...,L,J] with noise, float32 on the CPU."""
    states = text.float().cpu()
    size = amount * states.abs().median(dim=-2, keepdim=True).values  # [...,1,J]
    return states + size * torch.randn(states.shape, generator=generator)


def log_variety(variety: Variety, steps: int, cfg: float) -> None:
    """Says in how many steps a run has variety, and what has no effect."""
    if variety.text_noise:
        acts = sum(variety.noisy(i, steps) for i in range(steps))
        _say(f"{TEXT_NOISE} {variety.text_noise:g}", variety.noise_steps, acts, steps)
    if variety.no_early_cfg and cfg <= 1:
        log.warning(
            "variety %s has no effect: CFG is %g, so no step has guidance. Use %s, or a CFG above "
            "1 if the model is not a distilled one",
            NO_EARLY_CFG,
            cfg,
            TEXT_NOISE,
        )
    elif variety.no_early_cfg:
        acts = sum(not variety.guided(i, steps) for i in range(steps))
        _say(NO_EARLY_CFG, variety.no_early_cfg, acts, steps)


def _say(name: str, fraction: float, acts: int, steps: int) -> None:
    if acts:
        log.info("variety %s acts in the first %d of %d steps", name, acts, steps)
    else:
        log.warning(
            "variety %s has no effect: the first of %d steps is more than %g of them. Use %.2g or "
            "more",
            name,
            steps,
            fraction,
            1 / steps,
        )
