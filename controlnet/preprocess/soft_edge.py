"""Soft edges: outlines of things, strong ones bright, texture mostly left out.

Without a file: Scharr gradients of three blurs, largest channel, minus their local mean (surround
suppression: in texture every pixel has a gradient, so the mean removes it). On rendered shapes,
textured ones too, it detects the outlines with F 0.96 and more; in photographs it does not
recognize objects. With a HED file it is that network.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .filters import blur, downscale, gradient, in_bytes, planes, quantile, upscale, wide_blur
from .hed import hed

_SCHARR = (3 / 32, 10 / 32, 3 / 32)
_STEPS = (1, 2, 4)
_BLUR = 1.0
_AROUND = 6  # radius of the local mean, in units of the blur
_FAINT = 0.075  # lower limit of a map's white: an edge of 16 grey levels


def soft_edge(picture: Tensor, safe: bool = True, model: str = "") -> Tensor:
    """[B,H,W,3] 0..1 -> [B,H,W]. safe: three levels, so that no shading leaks into the map."""
    if model:
        maps = hed(picture, model)
    else:
        maps = torch.stack([_gradients(x)[0, 0] for x in planes(picture).split(1)])
    return in_bytes(in_steps(maps) if safe else maps)


def in_steps(x: Tensor, steps: int = 2) -> Tensor:
    """0..1 -> 0, 1/2, 1; known as safe_step."""
    return ((x * (steps + 1)).trunc() / steps).clamp(0, 1)


def _gradients(x: Tensor) -> Tensor:
    """One picture [1,3,H,W] -> [1,1,H,W]"""
    total = x.new_zeros(1, 1, *x.shape[2:])
    for step in _STEPS:  # the same filter on pictures 1, 2, 4 times smaller: blurs of 1, 2, 4
        dx, dy = gradient(blur(downscale(x, step), _BLUR), _SCHARR)
        size = (dx.square() + dy.square()).sqrt().amax(1, keepdim=True)
        size -= wide_blur(size, _AROUND * _BLUR)
        total += upscale(size.clamp_(min=0), step, total.shape[2:])
    return (total / max(quantile(total, 0.99), _FAINT)).clamp(0, 1)
