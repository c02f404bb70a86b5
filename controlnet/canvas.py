"""How a control picture comes onto the canvas: pixel for pixel where it has the size of what is
drawn, scaled where it has its ratio, refused where it has neither.

Nothing is cropped or stretched unasked: a map that lies beside the picture is worse than none.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

from torch import Tensor

from ..errors import InkstoneError
from ..sampling.geometry import Box
from ..sampling.inpaint import Crop
from ..sampling.masks import mask_for
from ..sampling.pixel_lock import (
    Lock,
    Size,
    check_picture,
    colour,
    lock,
    pad_edges,
    resized,
    size_of,
)

log = logging.getLogger(__name__)

_SLACK = 0.02  # by which two ratios may differ: sides are rounded


@dataclass(frozen=True)
class Canvas:
    """What is drawn: a part of a picture (usually all of it) on a canvas."""

    crop: Crop

    @property
    def lock(self) -> Lock:
        """Of the part that is drawn."""
        return self.crop.lock

    def picture(self, given: Tensor) -> Tensor:
        """Control pictures [n,H,W,C] 0..1 -> [n,h,w,3] of the canvas's size."""
        check_picture(given, "The control picture")
        return self._placed(colour(given), self._way("control picture", size_of(given)))

    def mask(self, given: Tensor) -> Tensor:
        """A mask [n,H,W] of any size -> [n,h,w] of the canvas's size, stretched over the picture
        (see sampling/masks.py).
        """
        part = self.crop.box.of(mask_for(given, self.crop.picture))
        return pad_edges(mask_for(part, self.lock.work), self.lock.canvas)

    def _way(self, word: str, size: Size) -> str:
        """Which part of what is drawn a picture of this size shows."""
        if size == self.crop.picture:
            return "whole"
        if size in (self.lock.picture, self.lock.work):
            return "part"
        if size == self.lock.canvas:
            return "canvas"
        if self.crop.picture == self.lock.picture:  # nothing is cut out: there is one reading
            for way, wanted in (("canvas", self.lock.canvas), ("part", self.lock.picture)):
                if _same_ratio(size, wanted):
                    log.info("the %s %dx%d is scaled to %dx%d", word, *size, *wanted)
                    return way
        (w, h), (width, height) = size, self.crop.picture
        raise InkstoneError(
            f"The {word} is {w}x{h}, what is drawn is {width}x{height}: expected the same size, or "
            f"the same ratio. Make the map from a picture of that size, or draw at {w}x{h}."
        )

    def _placed(self, x: Tensor, way: str) -> Tensor:
        if way == "canvas":
            return resized(x, self.lock.canvas)
        if way == "whole":
            x = self.crop.box.of(x)
        return self.lock.to_canvas(resized(x, self.lock.picture))


def _same_ratio(a: Size, b: Size) -> bool:
    return abs(a[0] * b[1] - a[1] * b[0]) <= _SLACK * max(a[0] * b[1], a[1] * b[0])


def canvas_of(width: int, height: int, placed: Lock | Crop | None = None) -> Canvas:
    """The canvas of a drawing; placed: how the picture lies on it, where it starts from one."""
    if isinstance(placed, Crop):
        return Canvas(placed)
    made = placed or lock(width, height)
    return Canvas(Crop(made.picture, Box(0, 0, *made.picture), made))
