"""Properties of an image file that decide how a graph loads it: transparency, animation, colour.

Headers are enough, except for files that may have transparent pixels and for masks.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ...files.images import channel, glance, is_grey

if TYPE_CHECKING:
    import numpy as np

log = logging.getLogger(__name__)


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
    """The channel of a mask file that says what is inpainted: alpha where a pixel is transparent
    (as ComfyUI's mask editor saves it), else red, which in a grey image is all. Logs what it marks.
    """
    alpha = channel(path, "alpha")
    if alpha is not None and alpha.min() < 1:
        _log_share(path, 1 - alpha, "transparent")
        return "alpha"
    red = channel(path, "red")
    assert red is not None, "every picture has colours"
    _log_share(path, red, "white")
    if not is_grey(path):
        log.info("mask %s: it has colours; only its red channel is used", path.name)
    return "red"


def _log_share(path: Path, mask: np.ndarray, what: str) -> None:
    log.info("mask %s: %.1f %% is %s", path.name, 100 * (mask >= 0.5).mean(), what)
