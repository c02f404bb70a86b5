"""Boxes in a picture -> a mask: the things themselves, cut out at their edges, or the whole boxes.

OpenCV's GrabCut learns the colours inside a box and around it and cuts along the edges between. It
needs OpenCV, no weights. The same picture and boxes give the same mask.
"""

from __future__ import annotations

import importlib.util
import logging
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..errors import InkstoneError
from ..kernels.interrupt import beat
from ..loaders.models.image_processor import rgb_bytes
from ..sampling.geometry import Box
from .find_boxes import FoundBox
from .find_choices import GRABCUT, SHAPES

if TYPE_CHECKING:
    import numpy as np

log = logging.getLogger(__name__)

_STEPS = 4  # GrabCut learns colours and cuts this many times
_SLACK = 0.03  # of a side: the model's boxes are not exact, so the thing may be this much larger
_AROUND = 0.25  # of a side: the ground that is looked at around a box
_LEAST_AROUND = 8  # pixels
_LEAST_SIDE = 6  # pixels of a box in which there are enough colours to learn
_MOST_PIXELS = 1 << 20  # of a part; a larger one is cut at a smaller size: it takes 5 s per 2^20
_CLOSE = 5  # pixels beyond the edge on both sides, in which colours are compared
_CONTRAST = 12  # levels of 255 between two colours that differ clearly at an edge
_LEAST_SHARE = 0.05  # of a box: less is nothing


def mask_of(picture: Tensor, boxes: Sequence[FoundBox], shape: str) -> Tensor:
    """float32 [1,H,W], 1 in every box, or in the thing in it. picture: [H,W,C] or [1,H,W,C]."""
    if shape not in SHAPES:
        raise InkstoneError(
            f"The shape of the mask is {shape!r}: expected one of {', '.join(SHAPES)}."
        )
    pixels = rgb_bytes(picture)
    mask = torch.zeros(1, *pixels.shape[:2])
    cut = shape == GRABCUT
    if cut and importlib.util.find_spec("cv2") is None:
        log.warning(
            "GrabCut needs OpenCV, which is not installed: the mask has whole boxes. Install it "
            "with: pip install opencv-python-headless"
        )
        cut = False
    for number, found in enumerate(boxes):
        beat("boxes", number, len(boxes))
        box = found.span.touched()
        part = _cut(pixels.numpy(), box) if cut else None
        if part is not None:
            region, inside = part
            region.of(mask)[0].masked_fill_(torch.from_numpy(inside), 1)
            continue
        box.of(mask).fill_(1)
        if cut:
            log.warning(
                "GrabCut finds no edge of box %d (%s): its whole box is marked",
                number + 1,
                found.label,
            )
    return mask


def _cut(pixels: np.ndarray, box: Box) -> tuple[Box, np.ndarray] | None:
    """The part of the picture that was looked at and its mask [h,w] bool; None where GrabCut finds
    nothing.
    """
    height, width = pixels.shape[:2]
    longer = max(box.size)
    outer = box.wider(max(_LEAST_AROUND, round(_AROUND * longer)), width, height)
    inner = box.wider(math.ceil(_SLACK * longer), width, height)
    if min(box.size) < _LEAST_SIDE or inner == outer:
        return None
    part = pixels[outer.top : outer.bottom, outer.left : outer.right]
    for oval in (True, False):
        inside = _grabcut(part, _moved(inner, outer), oval)
        if inside.sum() >= _LEAST_SHARE * math.prod(box.size):
            return outer, inside
    return None


def _moved(box: Box, origin: Box) -> Box:
    x, y = origin.left, origin.top
    return Box(box.left - x, box.top - y, box.right - x, box.bottom - y)


def _grabcut(part: np.ndarray, inner: Box, oval: bool) -> np.ndarray:
    """[h,w,3] bytes -> bool [h,w]: what inside the box differs from what is around it. oval: begins
    with the corners as ground, which few things fill; the cut may take them back.
    """
    import cv2
    import numpy as np

    height, width = part.shape[:2]
    labels: np.ndarray = np.full((height, width), cv2.GC_BGD, np.uint8)
    start = _oval(inner) if oval else np.ones(inner.size[::-1], bool)
    labels[inner.top : inner.bottom, inner.left : inner.right] = np.where(
        start, cv2.GC_PR_FGD, cv2.GC_PR_BGD
    )
    scale = min(1.0, math.sqrt(_MOST_PIXELS / (width * height)))
    small = part
    if scale < 1:
        size = max(1, int(width * scale)), max(1, int(height * scale))
        small = cv2.resize(part, size, interpolation=cv2.INTER_AREA)
        labels = cv2.resize(labels, size, interpolation=cv2.INTER_NEAREST)
    if len(np.unique(labels)) < 2:  # OpenCV stops where one side has no pixel
        return np.zeros((height, width), bool)
    back, front = np.zeros((1, 65)), np.zeros((1, 65))
    unused = (0, 0, width, height)
    cv2.setRNGSeed(0)
    small = np.ascontiguousarray(small)
    cv2.grabCut(small, labels, unused, back, front, _STEPS, cv2.GC_INIT_WITH_MASK)
    inside = (labels & 1) == 1  # surely or probably in front
    if scale < 1:
        inside = cv2.resize(inside.astype(np.float32), (width, height)) > 0.5
    return _sharpened(part, inside, math.ceil(1 / scale))


def _oval(box: Box) -> np.ndarray:
    """bool [h,w]: the ellipse that fills a box of this size."""
    import numpy as np

    across, down = (np.abs(np.linspace(-1 + 1 / n, 1 - 1 / n, n)) for n in box.size)
    return across[None] ** 2 + down[:, None] ** 2 <= 1


def _sharpened(part: np.ndarray, inside: np.ndarray, rim: int) -> np.ndarray:
    """Decides the pixels up to `rim` from the edge again. They are mixtures, which GrabCut gives to
    the thing; here to the side whose colour close by is nearer to theirs.
    """
    import cv2
    import numpy as np

    grey = inside.astype(np.uint8)
    near = np.ones((2 * rim + 1, 2 * rim + 1), np.uint8)
    core = cv2.erode(grey, near) > 0
    ground = cv2.dilate(grey, near) == 0
    colour, close = part.astype(np.float32), 2 * rim + _CLOSE
    thing, known = _mean_near(colour, core, close)
    around, other = _mean_near(colour, ground, close)
    across = thing - around
    length = (across * across).sum(-1)
    share = ((colour - around) * across).sum(-1) / np.maximum(length, 1)
    sure = ~core & ~ground & known & other & (length > _CONTRAST**2)
    return np.where(sure, share >= 0.5, inside)


def _mean_near(colour: np.ndarray, where: np.ndarray, close: int) -> tuple[np.ndarray, np.ndarray]:
    """[h,w,3] mean colour of the marked pixels close by, and where there are any."""
    import cv2
    import numpy as np

    size = (close, close)
    weight = cv2.blur(where.astype(np.float32), size)
    total = cv2.blur(colour * where[..., None], size)
    return total / np.maximum(weight, 1e-6)[..., None], weight > 1e-4
