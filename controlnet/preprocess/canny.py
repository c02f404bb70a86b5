"""Canny edges, bit-identical to OpenCV's `Canny(picture, low, high)` of a colour picture.

ControlNets were trained on that: for each pixel the channel with the largest gradient (not grey),
Sobel 3 x 3, |dx| + |dy|, OpenCV's integer arithmetic for directions. Written in torch, so OpenCV is
not required; if it is installed, it is used and takes half the time. Unlike other packs, floats are
rounded to bytes, not truncated.
"""

from __future__ import annotations

import importlib.util

import torch
import torch.nn.functional as F
from torch import Tensor

from .filters import gradient, planes, to_bytes

_TANGENT = 13573  # of 22.5 degrees, times 2 ** 15: OpenCV's
_SHIFT = 15
_SOBEL = (1, 2, 1)
_WEAK, _STRONG = 1, 2


def canny(picture: Tensor, low_threshold: int = 100, high_threshold: int = 200) -> Tensor:
    """[B,H,W,3] 0..1 -> [B,H,W], 1 on edges. A larger picture changes less from pixel to pixel, so
    the same thresholds detect fewer edges in it.
    """
    low, high = sorted((low_threshold, high_threshold))
    if picture.device.type == "cpu" and importlib.util.find_spec("cv2") is not None:
        return torch.stack([_by_opencv(x, low, high) for x in picture.float()])
    return torch.stack([edges(x, low, high) for x in planes(to_bytes(picture)).short()])


def _by_opencv(x: Tensor, low: int, high: int) -> Tensor:
    import cv2

    pixels = cv2.convertScaleAbs(x.contiguous().numpy(), alpha=255)  # to_bytes in one pass
    return torch.from_numpy(cv2.Canny(pixels, low, high)).float().div_(255)


def edges(x: Tensor, low: int, high: int) -> Tensor:
    """The torch version, for one picture: int16 [3,H,W] of 0..255 -> float32 [H,W]."""
    height, width = x.shape[1:]
    size, dx, dy = _strongest(x)
    size = F.pad(size, (1, 1, 1, 1)).flatten()  # so that every pixel has neighbours
    row = width + 2
    places = (size > low).nonzero()[:, 0]
    inner = (places // row - 1) * width + places % row - 1
    places = places[_peaks(size, places, dx.flatten()[inner], dy.flatten()[inner], row)]
    marks = torch.zeros_like(size, dtype=torch.uint8)
    marks[places] = torch.where(size[places] > high, _STRONG, _WEAK).byte()
    _grow(marks, row)
    return (marks.view(height + 2, row)[1:-1, 1:-1] == _STRONG).float()


def _strongest(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """[C,H,W] -> |dx| + |dy|, dx, dy [H,W] of the channel where that is largest, the first of
    equals.
    """
    size = best_dx = best_dy = torch.empty(0)
    for index, channel in enumerate(x[:, None, None]):
        dx, dy = (d[0, 0] for d in gradient(channel, _SOBEL))
        total = dx.abs() + dy.abs()
        if index == 0:
            size, best_dx, best_dy = total, dx, dy
            continue
        larger = total > size
        size = torch.where(larger, total, size)
        best_dx, best_dy = torch.where(larger, dx, best_dx), torch.where(larger, dy, best_dy)
    return size, best_dx, best_dy


def _peaks(size: Tensor, places: Tensor, dx: Tensor, dy: Tensor, row: int) -> Tensor:
    """[n] bool: the `places` that are larger than both neighbours across the edge."""
    across, down = dx.int().abs() * _TANGENT, dy.int().abs() << _SHIFT
    steep = across + (dx.int().abs() << (_SHIFT + 1))  # the tangent of 67.5 degrees is that + 2
    level, upright = down < across, down > steep
    lean = torch.where((dx ^ dy) < 0, row - 1, row + 1)
    step = torch.where(level, 1, torch.where(upright, row, lean))
    here, before, after = (size[places + d * step] for d in (0, -1, 1))
    return (here > before) & torch.where(level | upright, here >= after, here > after)


def _grow(marks: Tensor, row: int) -> None:
    """Makes weak pixels strong that touch a strong one, directly or through other weak ones."""
    around = torch.tensor([-row - 1, -row, -row + 1, -1, 1, row - 1, row, row + 1])
    around = around.to(marks.device)
    front = (marks == _STRONG).nonzero()[:, 0]
    while len(front):
        near = (front[:, None] + around).flatten()
        front = near[marks[near] == _WEAK].unique()
        marks[front] = _STRONG
