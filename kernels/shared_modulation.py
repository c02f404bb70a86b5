"""The modulation table of Qwen-Image-2.1: one projection serves all blocks, and nothing is shifted.

Text and references have the rows of t = 0 in every step, so that they do not depend on the step;
only the target's tokens see the timestep. All modulation weights together are 1.4 % of the model:
the table frees little memory, but it is the same interface as that of the first family
(modulation.py). Reference: diffusers `QwenImage21Transformer2DModel`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from .adaln import Row
from .modulation import NONE, Branches, Weights, embedded, project, timestep_embedding

SHARED = "modulation.1"
PARTS = 4  # scale1, gate1, scale2, gate2
_LAYERS = tuple(f"time_text_embed.timestep_embedder.linear_{i}" for i in (1, 2))


@dataclass(frozen=True)
class SharedRows:
    """Modulation of every block: 1 around the attention, 2 around the feed-forward. [n,D] each."""

    scale1: Row
    gate1: Row  # after tanh
    scale2: Row
    gate2: Row

    @classmethod
    def of(cls, table: Tensor) -> SharedRows:
        """table [n,4,D]."""
        return cls(*map(Row, table.unbind(1)))


@dataclass(frozen=True)
class SharedModulation:
    """Rows for n sigmas.

    target [n,4,D] and prefix [1,4,D] (t = 0) hold scale1, tanh(gate1), scale2, tanh(gate2); out
    [n,1,D] holds the scale of the final norm, which only the target goes through.
    """

    target: Tensor
    prefix: Tensor
    out: Tensor

    def step(self, index: int) -> SharedModulation:
        """The rows of one sigma (n = 1)."""
        pick = slice(index, index + 1)
        return SharedModulation(self.target[pick], self.prefix, self.out[pick])

    def rows(self, index: Tensor) -> SharedModulation:
        """The rows of several sigmas, one for each row of a batch."""
        return SharedModulation(self.target[index], self.prefix, self.out[index])


def shared_modulation(
    weights: Weights, sigma: Tensor, dtype: torch.dtype = torch.float32, branches: Branches = NONE
) -> SharedModulation:
    """All modulation rows for sigma [n] (float32, on the device of the result).

    branches: LoRAs, by the names of their layers.
    """
    return shared_rows(weights, shared_time(weights, sigma, branches), dtype, branches)


def shared_time(weights: Weights, sigma: Tensor, branches: Branches = NONE) -> Tensor:
    """sigma [n] -> embedded timesteps [n+1,D] float32, the last one of t = 0."""
    levels = torch.cat([sigma.float(), sigma.new_zeros(1, dtype=torch.float32)])
    sinusoids = timestep_embedding(levels, thousand_first=True)
    return embedded(weights, sinusoids, branches, biased=False)


def shared_rows(
    weights: Weights, time: Tensor, dtype: torch.dtype = torch.float32, branches: Branches = NONE
) -> SharedModulation:
    """All modulation rows for embedded timesteps [n+1,D] float32, the last one of t = 0."""
    act = F.silu(time)
    rows = project(weights, SHARED, act, PARTS, branches, biased=False)
    rows[:, 1::2] = rows[:, 1::2].tanh()
    out = project(weights, "norm_out.linear", act[:-1], 1, branches, biased=False)
    rows, out = rows.to(dtype), out.to(dtype)
    return SharedModulation(rows[:-1], rows[-1:], out)


def shared_table_bytes(width: int, sigmas: int, dtype: torch.dtype) -> int:
    """Bytes of the table for this many sigmas."""
    return ((sigmas + 1) * PARTS + sigmas) * width * dtype.itemsize


def shared_keys() -> list[str]:
    """Key names that the table reads (and the resident network does not hold)."""
    return [f"{name}.weight" for name in (*_LAYERS, SHARED, "norm_out.linear")]
