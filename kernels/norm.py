"""The weight of an RMS norm, with the differences that LoRAs make to it."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn


class RMSWeight(nn.Module):
    """The weight of an RMS norm; the module that owns it applies it. Every norm of the networks is
    this class, so differences by LoRAs (`branches`, as those of a linear layer) have one place.
    """

    branches: tuple[Callable[[Tensor, Tensor], Tensor], ...] = ()  # (weight, y) -> y, in order

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))

    def scale(self) -> Tensor:
        """The weight [dim] with all differences; with any, summed in float32."""
        if not self.branches:
            return self.weight
        y = self.weight.float()
        for branch in self.branches:
            y = branch(self.weight, y)
        return y
