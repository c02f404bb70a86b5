"""Filters of the classical methods: bytes, blurs, gradients. Borders repeat the last pixel.

Everything is torch: the pack needs no OpenCV, and a map is the same on every machine.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

LUMA = (0.299, 0.587, 0.114)  # ITU-R 601


def to_bytes(x: Tensor) -> Tensor:
    """Floats 0..1 -> 0..255, rounded (other packs truncate, which turns 30 / 255 * 255 into 29);
    still floats.
    """
    return (x.float() * 255).round_().clamp_(0, 255)


def planes(picture: Tensor) -> Tensor:
    """[B,H,W,C] -> [B,C,H,W], contiguous."""
    return picture.movedim(-1, 1).contiguous()


def _along(x: Tensor, taps: list[float], axis: int) -> Tensor:
    """[B,C,H,W] convolved along one axis (2 or 3)."""
    half = len(taps) // 2
    sides = (half, half, 0, 0) if axis == 3 else (0, 0, half, half)
    b, c, h, w = x.shape
    x = F.pad(x.reshape(b * c, 1, h, w), sides, mode="replicate")
    shape = (1, 1, 1, -1) if axis == 3 else (1, 1, -1, 1)
    return F.conv2d(x, x.new_tensor(taps).view(shape)).view(b, c, h, w)


def blur(x: Tensor, sigma: float) -> Tensor:
    """[B,C,H,W] blurred by a Gaussian, truncated at 4 sigma."""
    reach = max(1, math.ceil(4 * sigma))
    weights = [math.exp(-0.5 * (i / sigma) ** 2) for i in range(-reach, reach + 1)]
    taps = [weight / sum(weights) for weight in weights]
    return _along(_along(x, taps, 3), taps, 2)


def gradient(x: Tensor, smooth: tuple[float, float, float]) -> tuple[Tensor, Tensor]:
    """[B,C,H,W] -> differences to the right and downwards, smoothed across: (1,2,1) is Sobel's,
    (3,10,3) Scharr's.
    """
    x = F.pad(x, (1, 1, 1, 1), mode="replicate")
    side, middle, _ = smooth
    across = x[..., 2:] - x[..., :-2]  # [B,C,H+2,W]
    down = x[..., 2:, :] - x[..., :-2, :]  # [B,C,H,W+2]
    dx = side * (across[..., :-2, :] + across[..., 2:, :]) + middle * across[..., 1:-1, :]
    dy = side * (down[..., :-2] + down[..., 2:]) + middle * down[..., 1:-1]
    return dx, dy


def quantile(x: Tensor, part: float) -> float:
    """The quantile `part` of x, to 1/2048 of its maximum."""
    top = float(x.max())
    if not top > 0:
        return 0.0
    counts = torch.histc(x, 2048, 0, top)
    place = int((counts.cumsum(0) >= part * counts.sum()).nonzero()[0])
    return (place + 1) * top / 2048


def downscale(x: Tensor, step: int) -> Tensor:
    """[B,C,H,W] -> means of squares of step x step; the last ones repeat the border."""
    if step == 1:
        return x
    h, w = x.shape[-2:]
    return F.avg_pool2d(F.pad(x, (0, -w % step, 0, -h % step), mode="replicate"), step)


def upscale(x: Tensor, step: int, size: Sequence[int]) -> Tensor:
    """The inverse of `downscale`: stretched about pixel centres, cropped to (height, width)."""
    if step == 1:
        return x
    return F.interpolate(x, scale_factor=step, mode="bilinear")[..., : size[0], : size[1]]


def wide_blur(x: Tensor, sigma: float) -> Tensor:
    """[B,C,H,W] blurred by roughly a Gaussian, in a time that does not grow with sigma."""
    step = 2 ** max(0, math.floor(math.log2(max(sigma, 1) / 2)))
    if step == 1:
        return blur(x, sigma)
    # a mean over n pixels and linear upscaling blur too: (n^2 - 1) / 12 and n^2 / 6 of variance
    rest = max(sigma**2 - (step**2 - 1) / 12 - step**2 / 6, 0.25)
    return upscale(blur(downscale(x, step), math.sqrt(rest) / step), step, x.shape[-2:])


def luma(x: Tensor) -> Tensor:
    """[B,3,H,W] -> [B,1,H,W]"""
    return (x * x.new_tensor(LUMA).view(1, 3, 1, 1)).sum(1, keepdim=True)


def in_bytes(x: Tensor) -> Tensor:
    """0..1 in steps of 1/255, as a map is saved: nearly black becomes black."""
    return to_bytes(x) / 255
