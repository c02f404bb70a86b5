"""Aspect buckets: the size at which a picture is learned, and the part of it that is used.

A bucket has about resolution x resolution pixels, never more, and sides that are multiples of the
model's step. A picture is scaled until it covers its bucket and cropped around its middle, so
nothing is distorted. A picture with fewer pixels than the resolution is not enlarged beyond NEAR:
its bucket has the picture's own number of pixels (kohya's and musubi-tuner's `bucket_no_upscale`).
There is one bucket for each width and each height, which keeps the crop to a few percent; where it
does not, because the steps are coarse for the resolution, smaller buckets are tried too.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from ...errors import CallError
from ...sampling.geometry import LARGEST, NEAR, Box, cropped_box

Size = tuple[int, int]
"""(width, height) in pixels."""

MOST_RATIO = 4.0  # of the sides of a bucket
MOST_CROPPED = 0.5  # share of a picture that a bucket may cut off; beyond, it is left out
FEW = 0.04  # share that may be cropped before smaller buckets are tried
LEAST_AREA = 0.7  # of those, of the pixels of the others
LEAST_STEPS = 2  # of a side: smaller pictures are left out


@dataclass(frozen=True)
class Fit:
    """A picture in its bucket."""

    picture: Size
    bucket: Size
    box: Box  # the part of the picture that is used, scaled to the bucket

    @property
    def cropped(self) -> float:
        """The share of the picture's pixels that is not used."""
        return 1 - math.prod(self.box.size) / math.prod(self.picture)


def assign(sizes: Sequence[Size], resolution: int, step: int) -> list[Fit]:
    """The bucket of each picture, which has to have one (see `fault`). step: pixels that sides of
    canvases are multiples of (`LatentSpec.step`). CallError for a resolution that no bucket has.
    """
    check_resolution(resolution, step)
    return [_fit(size, resolution, step) for size in sizes]


def check_resolution(resolution: int, step: int) -> None:
    """Raises CallError unless buckets of this resolution can be made."""
    least = LEAST_STEPS * step
    if not least <= resolution <= LARGEST // int(MOST_RATIO):
        raise CallError(
            f"The resolution is {resolution}: expected {least} to {LARGEST // int(MOST_RATIO)} "
            "pixels, the side of a square bucket. 512, 768 and 1024 are usual."
        )


def fault(size: Size, resolution: int, step: int) -> tuple[str, str] | None:
    """(kind of finding, detail) of a picture that has no bucket; None where it has one."""
    width, height = size
    if min(size) < LEAST_STEPS * step:
        least = LEAST_STEPS * step
        return "small", f"{width}x{height}, expected sides of at least {least} pixels"
    cropped = _fit(size, resolution, step).cropped
    if cropped > MOST_CROPPED:
        return "narrow", f"{width}x{height}, {cropped:.0%} of it would be cropped"
    return None


def is_smaller(fit: Fit, resolution: int) -> bool:
    """True where a picture has too few pixels for the resolution, and is learned at its own."""
    return _target_area(fit.picture, resolution) < resolution**2


def _target_area(size: Size, resolution: int) -> int:
    """Pixels that a bucket may have."""
    own, full = math.prod(size), resolution**2
    return full if own * NEAR**2 >= full else own


@lru_cache(maxsize=1 << 14)
def _fit(size: Size, resolution: int, step: int) -> Fit:
    bucket = _best(size[0] / size[1], _target_area(size, resolution), step)
    return Fit(size, bucket, cropped_box(size, bucket))


def _best(ratio: float, area: int, step: int) -> Size:
    """The bucket that keeps most of a picture; where steps are too coarse for that, one that loses
    least of picture and resolution together.
    """

    def cropped(bucket: Size) -> float:
        own = bucket[0] / bucket[1]
        return round(1 - min(own / ratio, ratio / own), 6)

    def lost(bucket: Size) -> tuple[float, int]:
        pixels = math.prod(bucket)
        return cropped(bucket) + (1 - pixels / area) / 2, -pixels

    best = min(_buckets(area, step), key=lambda bucket: (cropped(bucket), -math.prod(bucket)))
    return best if cropped(best) <= FEW else min(_buckets(area, step, LEAST_AREA), key=lost)


@lru_cache(maxsize=1 << 12)
def _buckets(area: int, step: int, least: float = 1.0) -> tuple[Size, ...]:
    """Buckets of at most `area` pixels: for each width the largest height and the reverse, and
    smaller ones of at least this share of the area.
    """
    longest = math.isqrt(int(area * MOST_RATIO)) // step
    found: dict[Size, None] = {}
    for steps in range(1, longest + 1):
        side = steps * step
        largest = area // side // step
        for other in range(largest, 0, -1):
            size = side, other * step
            if other < largest and math.prod(size) < least * area:
                break
            if max(size) <= MOST_RATIO * min(size):
                found |= {size: None, size[::-1]: None}
    return tuple(found)
