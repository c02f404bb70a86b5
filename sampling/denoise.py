"""The Euler loop of a flow-matching model, as a pure function with hooks.

x starts as noise at sigma = 1; each step x += (s_next - s) * v. State is float32 whatever the
network computes in (reference: FlowMatchEulerDiscreteScheduler.step). When inpainting, the part
that is kept is put back after each step, at that step's noise level.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass

from torch import Tensor

from .guidance import guide

Velocity = Callable[[Tensor, int], tuple[Tensor, Tensor | None]]
"""(x [B,S,64] float32, step) -> velocities [B,S,64] float32 of the positive and the negative
prompt; None in place of the negative: no guidance."""
Asks = Generator[tuple[Tensor, int], tuple[Tensor, Tensor | None], Tensor]
"""A loop that stops for each velocity that it needs: yields (x, step), gets what Velocity returns,
and returns the denoised latents."""


@dataclass(frozen=True)
class Step:
    """One finished step, for callbacks: x is the new state, x0 the predicted clean latents."""

    index: int
    total: int
    sigma: float
    x: Tensor
    x0: Tensor


@dataclass(frozen=True)
class KeptRegion:
    """The kept part of an inpainted image (reference: QwenImageInpaintPipeline).

    picture, noise and mask [n,S,64] packed; mask 1 = inpainted, 0 = kept; between: mixed.
    """

    picture: Tensor
    noise: Tensor
    mask: Tensor

    def put_back(self, x: Tensor, sigma: float) -> Tensor:
        """x with the kept part put back, at this noise level."""
        noised = sigma * self.noise + (1 - sigma) * self.picture
        return (1 - self.mask) * noised + self.mask * x


def euler(
    velocity: Velocity,
    x: Tensor,
    sigmas: Tensor,
    cfg: float = 1.0,
    on_step: Callable[[Step], None] | None = None,
    kept_region: KeptRegion | None = None,
    rescale: bool = True,
) -> Tensor:
    """x [B,S,64] packed, normalised -> the denoised latents.

    `on_step` may raise to interrupt. cfg, rescale: see `guide`.
    """
    loop = euler_asking(x, sigmas, cfg, on_step, kept_region, rescale)
    try:
        asked = next(loop)
        while True:
            asked = loop.send(velocity(*asked))
    except StopIteration as end:
        latents: Tensor = end.value
        return latents


def euler_asking(
    x: Tensor,
    sigmas: Tensor,
    cfg: float = 1.0,
    on_step: Callable[[Step], None] | None = None,
    kept_region: KeptRegion | None = None,
    rescale: bool = True,
) -> Asks:
    """The loop of `euler`, for whoever computes the velocities of several loops together."""
    total = len(sigmas) - 1
    for i in range(total):
        sigma = sigmas[i].item()
        v, negative = yield x, i
        if negative is not None:
            v = guide(v, negative, cfg, rescale)
        x0 = x - sigma * v
        x = x + (sigmas[i + 1] - sigmas[i]).to(x.device) * v
        if kept_region is not None:
            x = kept_region.put_back(x, sigmas[i + 1].item())
        if on_step is not None:
            on_step(Step(i, total, sigma, x, x0))
    return x
