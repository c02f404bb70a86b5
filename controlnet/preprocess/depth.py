"""Depth, near is white. With a Depth-Anything V2 file: that network. Without one: a layout guess.

No method without weights sees depth in one picture. The guess assumes that lower parts of the
picture are nearer, and keeps areas of one brightness together. It helps if a floor or a landscape
fills the picture, and is wrong for ceilings, close-ups and views from above.
"""

from __future__ import annotations

import logging

import torch
from torch import Tensor

from .depth_anything import depth_anything
from .filters import in_bytes, luma, planes, wide_blur

log = logging.getLogger(__name__)

_REACH = 1 / 16  # radius of the filter, of the shorter side
_EVEN = 0.05**2  # variance of brightness inside one object
_PLAIN = 2 / 255  # a picture that varies by less is flat: no layout to guess


def depth(picture: Tensor, model: str = "") -> Tensor:
    """[B,H,W,3] 0..1 -> [B,H,W], each picture's nearest part 1, its farthest 0."""
    if model:
        return in_bytes(stretch(depth_anything(picture, model)))
    log.info("depth without a Depth-Anything V2 file is guessed from the layout of the picture")
    grey = luma(planes(picture))
    height = torch.linspace(0, 1, grey.shape[2], device=grey.device)[:, None]
    guess = _keep_together(height.expand_as(grey), grey)[:, 0]
    flat = grey.amax((1, 2, 3)) - grey.amin((1, 2, 3)) < _PLAIN
    return in_bytes(torch.where(flat[:, None, None], 0.0, stretch(guess)))


def stretch(x: Tensor) -> Tensor:
    """[B,H,W] -> 0..1, each picture on its own; 0 for a flat picture."""
    low, high = x.amin((1, 2), keepdim=True), x.amax((1, 2), keepdim=True)
    return (x - low) / (high - low).clamp(min=1e-6)


def _keep_together(x: Tensor, guide: Tensor) -> Tensor:
    """The guided filter: x [B,1,H,W] as a linear function of `guide` in every neighbourhood."""
    sigma = max(1.0, min(x.shape[2:]) * _REACH)
    mean_x, mean = wide_blur(x, sigma), wide_blur(guide, sigma)
    spread = (wide_blur(guide * guide, sigma) - mean * mean).clamp(min=0)
    slope = (wide_blur(guide * x, sigma) - mean * mean_x) / (spread + _EVEN)
    return wide_blur(slope, sigma) * guide + wide_blur(mean_x - slope * mean, sigma)
