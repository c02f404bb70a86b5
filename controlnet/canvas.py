"""Fits a control picture to the canvas: pixel for pixel if it has the size of the result, scaled
if it has its aspect ratio; any other is cropped, stretched, padded or refused by choice (`FITS`).

Cropping from the middle is what core's node does. The log says what was done.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

from torch import Tensor

from ..errors import InkstoneError
from ..sampling.geometry import (
    CROP,
    FIRST_LATENTS,
    FITS,
    PAD,
    REFUSE,
    Box,
    LatentSpec,
    canvas_near,
    cropped_box,
    inner_box,
    same_ratio,
)
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

    def picture(self, image: Tensor, fit: str = REFUSE) -> Tensor:
        """Control pictures [n,H,W,C] 0..1 -> [n,h,w,3] of the canvas's size. fit: what is done
        with one of another aspect ratio, see FITS.
        """
        if fit not in FITS:
            raise InkstoneError(f"Fit {fit!r} is unknown: expected one of {', '.join(FITS)}.")
        check_picture(image, "The control picture")
        x, size = colour(visible(image)), size_of(image)
        shown = self._shows("control picture", size)
        if shown is None and fit == REFUSE:
            raise InkstoneError(self._refusal("control picture", size))
        if shown is None:
            return self._fitted(refitted(x, self.crop.picture, fit), "whole")
        return self._fitted(x, shown)

    def mask(self, mask: Tensor) -> Tensor:
        """A mask [n,H,W] of any size -> [n,h,w] of the canvas's size, stretched over the picture
        (see sampling/masks.py).
        """
        part = self.crop.box.of(mask_for(mask, self.crop.picture))
        return pad_edges(touched(part, self.lock.work), self.lock.canvas)

    def _shows(self, word: str, size: Size) -> str | None:
        """The area that a control picture of this size shows: whole picture, part or canvas; None
        where its size does not say.
        """
        if size == self.crop.picture:
            return "whole"
        if size in (self.lock.picture, self.lock.work):
            return "part"
        if size == self.lock.canvas:
            return "canvas"
        if self.crop.picture == self.lock.picture:  # no crop: only one reading is possible
            for shown, target in (("canvas", self.lock.canvas), ("part", self.lock.picture)):
                if same_ratio(size, target, _SLACK):
                    log.info("the %s %dx%d is scaled to %dx%d", word, *size, *target)
                    return shown
        return None

    def _refusal(self, word: str, size: Size) -> str:
        (w, h), (width, height) = size, self.crop.picture
        near = canvas_near(w, h, _SLACK)
        other = f", or draw at {near[0]}x{near[1]}" if near else ""
        return (
            f"The {word} is {w}x{h}, the result is {width}x{height}: expected the same size, or "
            f"the same ratio. Make the map from a picture of that size, let it be cropped, "
            f"stretched or padded (fit, --control-fit){other}."
        )

    def _fitted(self, x: Tensor, shown: str) -> Tensor:
        if shown == "canvas":
            return resized(x, self.lock.canvas)
        if shown == "whole":
            x = self.crop.box.of(x)
        return self.lock.to_canvas(resized(x, self.lock.picture))


def refitted(x: Tensor, target: Size, fit: str) -> Tensor:
    """Pictures [n,H,W,C] of another aspect ratio -> [n,h,w,C] of the size `target`."""
    size = size_of(x)
    if fit == CROP:
        box = cropped_box(size, target)
        done = f"the middle of it, {_words(box.size)}, is used (fit: crop)"
        out = resized(box.of(x), target)
    elif fit == PAD:
        box = inner_box(size, target)
        done = f"it is scaled to {_words(box.size)} with black around it (fit: pad)"
        out = x.new_zeros(len(x), target[1], target[0], x.shape[-1])
        box.of(out).copy_(resized(x, box.size))
    else:
        done, out = "it is stretched (fit: stretch)", resized(x, target)
    log.warning("the control picture is %s, the result %s: %s", _words(size), _words(target), done)
    return out


def _words(size: Size) -> str:
    return f"{size[0]}x{size[1]}"


def canvas_of(
    width: int, height: int, place: Lock | Crop | None = None, latents: LatentSpec = FIRST_LATENTS
) -> Canvas:
    """The canvas of a run; place: where the picture lies on it, if the run starts from one."""
    if isinstance(place, Crop):
        return Canvas(place)
    whole = place or lock(width, height, latents=latents)
    return Canvas(Crop(whole.picture, Box(0, 0, *whole.picture), whole))
