"""The Euler loop of a flow-matching model, as a pure function with hooks.

x starts as noise at sigma = 1; each step x += (s_next - s) * v. State is float32 whatever the
network computes in (reference: FlowMatchEulerDiscreteScheduler.step). Where only a part is
repainted, the rest is put back after each step, at that step's noise level.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from .guidance import guide

Velocity = Callable[[Tensor, int, str], Tensor]
"""(x [B,S,64] float32, step, "positive" | "negative") -> velocity [B,S,64] float32."""


@dataclass(frozen=True)
class Step:
    """What a callback sees after a step: x is the new state, x0 the predicted clean latents."""

    index: int
    total: int
    sigma: float
    x: Tensor
    x0: Tensor


@dataclass(frozen=True)
class KeptRegion:
    """A picture of which only a part is drawn anew (reference: QwenImageInpaintPipeline).

    picture, noise and mask [n,S,64] packed; mask 1 = drawn, 0 = stays; between: mixed.
    """

    picture: Tensor
    noise: Tensor
    mask: Tensor

    def back(self, x: Tensor, sigma: float) -> Tensor:
        """x with the part that stays put back, at this noise level."""
        still = sigma * self.noise + (1 - sigma) * self.picture
        return (1 - self.mask) * still + self.mask * x


def euler(
    velocity: Velocity,
    x: Tensor,
    sigmas: Tensor,
    cfg: float = 1.0,
    on_step: Callable[[Step], None] | None = None,
    kept: KeptRegion | None = None,
    rescale: bool = True,
) -> Tensor:
    """x [B,S,64] packed, normalised -> the denoised latents. cfg > 1 asks for "negative" too.

    `on_step` may raise to interrupt. rescale: see `guide`.
    """
    total = len(sigmas) - 1
    for i in range(total):
        sigma = sigmas[i].item()
        v = velocity(x, i, "positive")
        if cfg > 1:
            v = guide(v, velocity(x, i, "negative"), cfg, rescale)
        x0 = x - sigma * v
        x = x + (sigmas[i + 1] - sigmas[i]).to(x.device) * v
        if kept is not None:
            x = kept.back(x, sigmas[i + 1].item())
        if on_step is not None:
            on_step(Step(i, total, sigma, x, x0))
    return x
