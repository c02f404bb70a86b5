"""Fits a control picture to the canvas: pixel for pixel if it has the size of the result,
scaled if it has its aspect ratio, refused otherwise.

Nothing is cropped or stretched unasked: a map that is shifted against the picture is worse than no
map.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

from torch import Tensor

from ..errors import InkstoneError
from ..sampling.geometry import Box
from ..sampling.inpaint import Crop
from ..sampling.masks import mask_for, touched
from ..sampling.pixel_lock import (
    Lock,
    Size,
    check_picture,
    colour,
    lock,
    pad_edges,
    resized,
    size_of,
    visible,
)

log = logging.getLogger(__name__)

_SLACK = 0.02  # by which two ratios may differ: sides are rounded


@dataclass(frozen=True)
class Canvas:
    """The area that is sampled: a part of a picture (usually all of it) on a canvas."""

    crop: Crop

    @property
    def lock(self) -> Lock:
        """The lock of the part that is sampled."""
        return self.crop.lock

    def picture(self, image: Tensor) -> Tensor:
        """Control pictures [n,H,W,C] 0..1 -> [n,h,w,3] of the canvas's size."""
        check_picture(image, "The control picture")
        return self._fitted(colour(visible(image)), self._shows("control picture", size_of(image)))

    def mask(self, mask: Tensor) -> Tensor:
        """A mask [n,H,W] of any size -> [n,h,w] of the canvas's size, stretched over the picture
        (see sampling/masks.py).
        """
        part = self.crop.box.of(mask_for(mask, self.crop.picture))
        return pad_edges(touched(part, self.lock.work), self.lock.canvas)

    def _shows(self, word: str, size: Size) -> str:
        """The area that a control picture of this size shows: whole picture, part or canvas."""
        if size == self.crop.picture:
            return "whole"
        if size in (self.lock.picture, self.lock.work):
            return "part"
        if size == self.lock.canvas:
            return "canvas"
        if self.crop.picture == self.lock.picture:  # no crop: only one reading is possible
            for shown, target in (("canvas", self.lock.canvas), ("part", self.lock.picture)):
                if _same_ratio(size, target):
                    log.info("the %s %dx%d is scaled to %dx%d", word, *size, *target)
                    return shown
        (w, h), (width, height) = size, self.crop.picture
        raise InkstoneError(
            f"The {word} is {w}x{h}, the result is {width}x{height}: expected the same size, or "
            f"the same ratio. Make the map from a picture of that size, or generate at {w}x{h}."
        )

    def _fitted(self, x: Tensor, shown: str) -> Tensor:
        if shown == "canvas":
            return resized(x, self.lock.canvas)
        if shown == "whole":
            x = self.crop.box.of(x)
        return self.lock.to_canvas(resized(x, self.lock.picture))


def _same_ratio(a: Size, b: Size) -> bool:
    return abs(a[0] * b[1] - a[1] * b[0]) <= _SLACK * max(a[0] * b[1], a[1] * b[0])


def canvas_of(width: int, height: int, place: Lock | Crop | None = None) -> Canvas:
    """The canvas of a run; place: where the picture lies on it, if the run starts from one."""
    if isinstance(place, Crop):
        return Canvas(place)
    whole = place or lock(width, height)
    return Canvas(Crop(whole.picture, Box(0, 0, *whole.picture), whole))
