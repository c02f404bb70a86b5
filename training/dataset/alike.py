"""Pictures that look the same though their bytes differ: saved again in another format or quality,
or at another size.

They are compared by the means of a few hundred parts (files/images.py: look), which another
encoding changes by a few levels of 255; pictures that differ in anything larger than a letter of
small print are further apart.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ...files.images import LOOK
from .pictures import Picture

# Levels of 255 by which a copy may differ: in each part, in each of 4 x 4 larger ones, in the mean.
# Measured of JPEG at quality 50, WebP at 75, half the size and a turned photo: 9, 2.3 and 0.5.
_PART, _LARGE, _MEAN = 10, 3, 1
_COARSE = 4


def alike(pictures: Sequence[Picture]) -> dict[int, int]:
    """Index of a picture -> that of the first one that looks the same, of those with other bytes.
    Copies with the same bytes count as one.
    """
    first: dict[str, int] = {}
    for index, picture in enumerate(pictures):
        if picture.look:
            first.setdefault(picture.digest, index)
    same: dict[int, int] = {}
    groups: dict[bytes, int] = {}  # of exactly equal looks only the first is compared
    for index in first.values():
        one = groups.setdefault(pictures[index].look, index)
        if one != index and _same_shape(pictures[one], pictures[index]):
            same[index] = one
    indices = [index for index in first.values() if index not in same]
    for index, one in _near(pictures, indices):
        same[index] = min(one, same.get(index, one))
    return {index: _end(same, index) for index in sorted(same)}


def _near(pictures: Sequence[Picture], indices: Sequence[int]) -> list[tuple[int, int]]:
    """Pairs (later, earlier) of pictures whose every part is near."""
    if len(indices) < 2:
        return []
    looks = np.frombuffer(b"".join(pictures[i].look for i in indices), np.uint8)
    fine = looks.reshape(len(indices), -1).astype(np.int16)
    side = LOOK // _COARSE
    parts = fine.reshape(-1, _COARSE, side, _COARSE, side, 4).mean(axis=(2, 4), dtype=np.float32)
    coarse = parts.reshape(len(indices), -1)
    means = coarse.mean(axis=1)
    order = np.argsort(means, kind="stable")
    ends = np.searchsorted(means[order], means[order] + _MEAN, side="right")
    pairs = []
    for place, end in enumerate(ends):
        own, others = order[place], order[place + 1 : end]
        others = others[np.abs(coarse[others] - coarse[own]).max(axis=1, initial=0) <= _LARGE]
        apart = np.abs(fine[others] - fine[own])
        near = (apart.max(axis=1, initial=0) <= _PART) & (apart.mean(axis=1) <= _MEAN)
        for other in others[near]:
            earlier, later = sorted((indices[own], indices[other]))
            if _same_shape(pictures[earlier], pictures[later]):
                pairs.append((later, earlier))
    return pairs


def _same_shape(one: Picture, other: Picture) -> bool:
    """True where the aspect ratios are those of copies, up to a pixel of the smaller one."""
    a, b = one.size[0] * other.size[1], other.size[0] * one.size[1]
    return abs(a - b) <= max(*one.size, *other.size)


def _end(same: dict[int, int], index: int) -> int:
    while index in same:
        index = same[index]
    return index
