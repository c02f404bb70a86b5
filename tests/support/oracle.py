"""Random weights for parity tests: every tensor non-trivial, so a swapped scale and shift shows."""

import torch
from torch import Tensor, nn


def fill(module: nn.Module) -> nn.Module:
    """Norm weights near 1, biases and other vectors 0.1 std, matrices scaled by fan-in."""
    with torch.no_grad():
        for p in module.parameters():
            flat = p.squeeze().dim() <= 1
            near_one = 1.0 if flat and p.min() == 1 else 0.0
            p.copy_(torch.randn(p.shape) * (0.1 if flat else p[0].numel() ** -0.5) + near_one)
    return module.eval()


def relative(got: Tensor, want: Tensor) -> float:
    """||got - want|| / ||want||."""
    return ((got.double() - want.double()).norm() / want.double().norm()).item()
