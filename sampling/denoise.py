"""The Euler loop of a flow-matching model, as a pure function with hooks.

x starts as noise at sigma = 1; each step x += (s_next - s) * v. State is float32 whatever the
network computes in (reference: FlowMatchEulerDiscreteScheduler.step).
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


def euler(
    velocity: Velocity,
    x: Tensor,
    sigmas: Tensor,
    cfg: float = 1.0,
    on_step: Callable[[Step], None] | None = None,
) -> Tensor:
    """x [B,S,64] packed, normalised -> the denoised latents. cfg > 1 asks for "negative" too.

    `on_step` may raise to interrupt.
    """
    total = len(sigmas) - 1
    for i in range(total):
        sigma = sigmas[i].item()
        v = velocity(x, i, "positive")
        if cfg > 1:
            v = guide(v, velocity(x, i, "negative"), cfg)
        x0 = x - sigma * v
        x = x + (sigmas[i + 1] - sigmas[i]).to(x.device) * v
        if on_step is not None:
            on_step(Step(i, total, sigma, x, x0))
    return x
