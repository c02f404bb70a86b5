"""Depth, near is white. With a Depth-Anything V2 file: that network. Without one: a layout guess.

No method without weights sees depth in one picture. The guess says that what is lower in the
picture is nearer, and lets things of one brightness keep together; it helps where a floor or a
landscape fills the picture, and is wrong for ceilings, close-ups and views from above.
"""

from __future__ import annotations

import logging

import torch
from torch import Tensor

from .filters import in_bytes, luma, planes, wide_blur

log = logging.getLogger(__name__)

_REACH = 1 / 16  # how far things keep together, of the shorter side
_EVEN = 0.05**2  # brightness varies by less inside a thing
_PLAIN = 2 / 255  # a picture that varies by less is flat: no layout to guess


def depth(picture: Tensor, model: str = "") -> Tensor:
    """[B,H,W,3] 0..1 -> [B,H,W], each picture's nearest part 1, its farthest 0."""
    if model:
        from .depth_anything import depth_anything

        return in_bytes(stretched(depth_anything(picture, model)))
    log.info("depth without a Depth-Anything V2 file is a guess from the layout of the picture")
    grey = luma(planes(picture))
    height = torch.linspace(0, 1, grey.shape[2], device=grey.device)[:, None]
    guess = _kept_together(height.expand_as(grey), grey)[:, 0]
    flat = grey.amax((1, 2, 3)) - grey.amin((1, 2, 3)) < _PLAIN
    return in_bytes(torch.where(flat[:, None, None], 0.0, stretched(guess)))


def stretched(x: Tensor) -> Tensor:
    """[B,H,W] -> 0..1, each picture by itself; 0 where it does not vary."""
    low, high = x.amin((1, 2), keepdim=True), x.amax((1, 2), keepdim=True)
    return (x - low) / (high - low).clamp(min=1e-6)


def _kept_together(x: Tensor, guide: Tensor) -> Tensor:
    """The guided filter: x [B,1,H,W] as a straight line of `guide` in every neighbourhood."""
    sigma = max(1.0, min(x.shape[2:]) * _REACH)
    mean_x, mean = wide_blur(x, sigma), wide_blur(guide, sigma)
    spread = (wide_blur(guide * guide, sigma) - mean * mean).clamp(min=0)
    slope = (wide_blur(guide * x, sigma) - mean * mean_x) / (spread + _EVEN)
    return wide_blur(slope, sigma) * guide + wide_blur(mean_x - slope * mean, sigma)
