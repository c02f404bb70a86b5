"""Line art: everything darker than its surroundings becomes a line, by differences of blurs.

With a file of the lineart generator it is that network (lineart_net.py). Without: copies drawings
and clear outlines well, but in photographs shadows and dark texture become lines too. Known
elsewhere as "lineart standard" and, for `coarse`, XDoG. Difference: the channel that darkens most
decides, not the one that darkens least, which misses the border of red on blue.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .filters import in_bytes, planes, wide_blur
from .lineart_net import lineart_net

_FULL = 127  # the median line's grey
_FLOOR = 16.0  # lower limit of the lines' median, in grey levels
_COARSE = (1.0, 5.0)  # blurs of the two sides of coarse strokes; twice the threshold between,
_SIDE = 512  # in pictures of this shorter side: strokes grow with the picture
_LEAST = (0.5, 2.0)


def lineart(
    picture: Tensor,
    coarse: bool = False,
    gaussian_sigma: float = 6.0,
    intensity_threshold: int = 8,
    model: str = "",
) -> Tensor:
    """[B,H,W,3] 0..1 -> [B,H,W]. coarse: few broad strokes, all of them white. The network ignores
    the other settings.
    """
    if model:
        return in_bytes(lineart_net(picture, model))
    x = planes(picture) * 255
    if coarse:
        scale = min(x.shape[2:]) / _SIDE
        near, far = (wide_blur(x, max(s * scale, low)) for s, low in zip(_COARSE, _LEAST))
        over = (far - near).amax(1) - 2 * intensity_threshold
        return in_bytes((over / 4 + 0.5).clamp(0, 1))  # a ramp of 4 grey levels avoids aliasing
    darker = (wide_blur(x, gaussian_sigma) - x).amax(1).clamp(min=0)
    return in_bytes(torch.stack([_inked(each, intensity_threshold) for each in darker]))


def _inked(darker: Tensor, threshold: float) -> Tensor:
    """Grey levels [H,W] -> 0..1: lines of faint and of strong drawings become equally bright."""
    lines = darker[darker > threshold]
    median = float(lines.median()) if len(lines) else 0.0
    return darker / max(_FLOOR, median) * _FULL / 255
