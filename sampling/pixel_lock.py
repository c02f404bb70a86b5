"""The pixel lock: the result has exactly the size of the picture, and nothing has moved.

A picture is padded to the canvas by repeating its last column and row, and the result is cropped:
no pixel is resampled, whatever the size. Only for another working area is it resized, from pixel
centres to pixel centres and back by the same scale, so that even the rounding of the sides cancels.
The reference resizes every picture to about 1 megapixel and returns that size, which people see as
zoom and drift.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import InkstoneError
from .geometry import FIRST_LATENTS, LatentSpec, locked_sizes

TRANSPARENT = 0.5 / 255  # alpha below this is 0 in 8 bits
_ROWS = 256  # of a picture that are checked at a time
Size = tuple[int, int]
"""(width, height) in pixels."""


@dataclass(frozen=True)
class Lock:
    """Position of a picture on its canvas: left and top, at work size; the rest is padding."""

    picture: Size
    work: Size  # the picture's own size, or another at which it is edited
    canvas: Size  # work padded to whole steps of the canvas
    latents: LatentSpec = FIRST_LATENTS  # of the family whose canvas it is

    def to_canvas(self, picture: Tensor) -> Tensor:
        """[B,H,W,C] 0..1 of the picture's size -> [B,H,W,C] of the canvas's size."""
        check_picture(picture)
        _check_size("The picture", picture, self.picture)
        return pad_edges(resized(picture, self.work), self.canvas)

    def from_canvas(self, result: Tensor) -> Tensor:
        """[B,H,W,C] of the canvas's size -> [B,H,W,C] of the picture's size."""
        check_picture(result, "The result")
        _check_size("The result", result, self.canvas)
        width, height = self.work
        return resized(result[:, :height, :width], self.picture).contiguous()


def lock(
    width: int,
    height: int,
    area: int | None = None,
    enlarge: bool = True,
    latents: LatentSpec = FIRST_LATENTS,
) -> Lock:
    """The lock of a picture of any size, edited at its own size (area None) or at about `area`
    pixels.

    enlarge=False: a picture that is smaller than `area` keeps its size. So does one whose sides are
    within 5 % of the target: resampling would cost more than it gains.
    """
    sizes = locked_sizes(width, height, area, enlarge, latents.step)
    return Lock((width, height), *sizes, latents)


def size_of(picture: Tensor) -> Size:
    """(width, height) of [B,H,W,C] or [B,H,W]."""
    return picture.shape[2], picture.shape[1]


def resized(picture: Tensor, size: Size) -> Tensor:
    """[B,H,W,C] -> [B,height,width,C], bicubic; the same tensor if it has that size.

    With alpha, colours count by it: what hides under transparent pixels does not reach the edges of
    what is seen.
    """
    if size_of(picture) == size:
        return picture
    out = picture.new_empty(len(picture), size[1], size[0], picture.shape[-1])
    alpha = picture[..., 3] if picture.shape[-1] == 4 else None
    if alpha is not None and bool((alpha < 1).any()):
        small = _bicubic(alpha, size)  # overshoots at edges as the colours times it do
        out[..., 3] = small.clamp(0, 1)
        for k in range(3):
            seen = _bicubic(picture[..., k] * alpha, size).div_(small.clamp_min(TRANSPARENT))
            hidden = _bicubic(picture[..., k], size)
            out[..., k] = torch.where(small < TRANSPARENT, hidden, seen).clamp_(0, 1)
        return out
    for k in range(picture.shape[-1]):  # one at a time: torch copies what it reads
        out[..., k] = _bicubic(picture[..., k], size).clamp_(0, 1)  # it overshoots at edges
    return out


def _bicubic(x: Tensor, size: Size) -> Tensor:
    """[B,H,W] -> [B,height,width]"""
    shape = size[1], size[0]
    return F.interpolate(x[:, None].float(), shape, mode="bicubic", antialias=True)[:, 0]


def pad_edges(x: Tensor, size: Size) -> Tensor:
    """[B,H,W,...] with its last column and row repeated to the right and below, up to `size`."""
    (width, height), (w, h) = size_of(x), size
    if (width, height) == size:
        return x
    out = x.new_empty(len(x), h, w, *x.shape[3:])
    out[:, :height, :width] = x
    out[:, :height, width:] = x[:, :, -1:]
    out[:, height:] = out[:, height - 1 : height]
    return out


def visible(picture: Tensor) -> Tensor:
    """[B,H,W,C] for the model: what lies under a transparent pixel is white. Programs leave any
    colours there, and two cut-outs that look alike have to give the same result.
    """
    if picture.shape[-1] != 4:
        return picture
    hidden = picture[..., 3:] < TRANSPARENT
    if not hidden.any():
        return picture
    return torch.cat([picture[..., :3].masked_fill(hidden, 1), picture[..., 3:]], -1)


def over_white(picture: Tensor) -> Tensor:
    """[B,H,W,C] -> [B,H,W,1|3]: what is transparent is laid over white."""
    if picture.shape[-1] != 4:
        return picture
    alpha = picture[..., 3:]
    return picture[..., :3] * alpha + (1 - alpha)


def colour(picture: Tensor) -> Tensor:
    """[B,H,W,1|3|4] -> [B,H,W,3]: grey repeated, alpha dropped."""
    return picture.expand(-1, -1, -1, 3) if picture.shape[-1] == 1 else picture[..., :3]


def check_picture(picture: Tensor, name: str = "The picture") -> None:
    """Raises unless it is [B,H,W,C] float 0..1 with 1, 3 or 4 channels and at least one pixel."""
    shape = list(picture.shape)
    if len(shape) != 4 or min(shape) < 1 or shape[-1] not in (1, 3, 4):
        raise InkstoneError(
            f"{name} has shape {shape}: expected [pictures, height, width, channels] with 1 (grey),"
            " 3 (RGB) or 4 (RGBA) channels and at least one pixel."
        )
    if not picture.is_floating_point():
        raise InkstoneError(
            f"{name} has {picture.dtype} values: expected floats from 0 to 1. Divide 8-bit values "
            "by 255, 16-bit values by 65535."
        )
    check_range(name, picture, 0.5)


def check_range(name: str, x: Tensor, slack: float) -> None:
    """Raises unless all values are numbers from 0 to 1; filters may overshoot by `slack`."""
    # some rows at a time: torch copies a view of some channels
    ends = [torch.stack(torch.aminmax(rows)) for item in x for rows in item.split(_ROWS)]
    low, high = (v.item() for v in torch.aminmax(torch.stack(ends)))  # NaN if one value is
    if not (-slack <= low and high <= 1 + slack):
        raise InkstoneError(
            f"{name} has values from {low:g} to {high:g}: expected numbers from 0 to 1. "
            "Check the step before (divide 8-bit values by 255)."
        )


def _check_size(name: str, picture: Tensor, size: Size) -> None:
    actual = size_of(picture)
    if actual != size:
        raise InkstoneError(
            f"{name} is {actual[0]}x{actual[1]}, its pixel lock is for {size[0]}x{size[1]}. Use "
            "the picture and the result that belong to this lock, without resizing."
        )
