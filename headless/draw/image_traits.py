"""Properties of an image file that decide how a graph loads it: transparency, animation, colour.

Headers are enough, except for files that may have transparent pixels and for masks.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ...files.images import CHANNELS, channel, glance, is_grey
from ...sampling.masks import NEARLY

if TYPE_CHECKING:
    import numpy as np

log = logging.getLogger(__name__)

PAINT = "paint"  # of masks: the alpha itself, not what is transparent


@dataclass(frozen=True)
class ImageTraits:
    """The properties of one image file."""

    size: tuple[int, int]  # width and height, upright
    transparent: bool = False  # a pixel is
    animated: bool = False  # more than one frame: the first is used


def traits_of(path: Path) -> ImageTraits:
    """Reads the header, and the alpha where a pixel may be transparent."""
    header = glance(path)
    alpha = channel(path, "alpha") if header.transparent else None
    transparent = alpha is not None and bool(alpha.min() < 1)
    return ImageTraits(header.size, transparent, header.animated)


def mask_channel(path: Path) -> str:
    """How a mask file says what is inpainted. Logs which, and how much it marks.

    - "red": no pixel is transparent. What is white, which a grey image has in every channel.
    - PAINT: all that can be seen is white. The paint, painted on an empty layer; its strength is
      that of the alpha.
    - "alpha": otherwise. What is transparent, as ComfyUI's mask editor saves it.
    """
    alpha = channel(path, "alpha")
    if alpha is None or alpha.min() >= 1 - NEARLY:
        _log_share(path, _colour(path, "red"), "white")
        if not is_grey(path):
            log.info("mask %s: it has colours; only its red channel is used", path.name)
        return "red"
    if _is_white(path, alpha):
        _log_share(path, alpha, "white paint on transparency: the paint is inpainted")
        return PAINT
    _log_share(path, 1 - alpha, "transparent: this is inpainted, its colours are not read")
    return "alpha"


def _is_white(path: Path, alpha: np.ndarray) -> bool:
    """True where every pixel that is more than half opaque is nearly white, and one is. Soft paint
    may be stored as white, or as dark as it is transparent.
    """
    solid = alpha > 0.5
    return bool(solid.any()) and all(
        (_colour(path, name)[solid] >= alpha[solid] - NEARLY).all() for name in CHANNELS
    )


def _colour(path: Path, name: str) -> np.ndarray:
    values = channel(path, name)
    assert values is not None, "every picture has colours"
    return values


def _log_share(path: Path, mask: np.ndarray, what: str) -> None:
    log.info("mask %s: %.1f %% is %s", path.name, 100 * (mask >= 0.5).mean(), what)
