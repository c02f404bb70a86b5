"""Image files as floats: orientation, grey, palette, transparency and 16 bits decoded right.

Pillow clips 16-bit grey to white when it converts to RGB, so those are scaled here. Of 16-bit
colour Pillow keeps the upper byte: within 1/255. Animations give their first frame.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from ..errors import InkstoneError

if TYPE_CHECKING:
    import numpy as np
    from PIL.Image import Image
    from torch import Tensor

log = logging.getLogger(__name__)

_WIDE = 65535  # largest value of the 16-bit modes


def read_picture(path: Path) -> Tensor:
    """[1,H,W,3] float32 in 0..1, or [1,H,W,4] where a pixel is transparent."""
    import torch

    colours, alpha = _read(path)
    image = torch.from_numpy(colours)
    if alpha is not None and alpha.min() < 1:
        image = torch.cat([image, torch.from_numpy(alpha)[..., None]], dim=-1)
    return image[None]


def frames(path: Path, most: int | None = None) -> list[tuple[np.ndarray, np.ndarray | None]]:
    """(colours [H,W,3], alpha [H,W] or None) in 0..1 of each frame, at most `most` of them.

    Of a photo with an embedded second image (MPO) only the first is a frame. InkstoneError where
    the file is no image.
    """
    from PIL import ImageSequence

    with _opened(path) as image:
        count = 1 if image.format == "MPO" else most
        return [upright(frame) for frame in islice(ImageSequence.Iterator(image), count)]


@contextmanager
def _opened(path: Path) -> Iterator[Image]:
    """The open Pillow image; its faults are raised as InkstoneError."""
    from PIL import Image

    try:
        with Image.open(path) as image:
            yield image
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise InkstoneError(
            f"{path} cannot be read as a picture: {error}. Save it again as PNG or JPEG."
        ) from error


class Glance(NamedTuple):
    """The facts in the header of an image file."""

    size: tuple[int, int]  # width and height, upright
    animated: bool  # more than one frame
    transparent: bool  # a pixel may be transparent


def glance(path: Path) -> Glance:
    """Reads the header only, no pixels. Raises as `frames` does."""
    from PIL import ExifTags

    with _opened(path) as image:
        rotated = image.getexif().get(ExifTags.Base.Orientation, 1) in (5, 6, 7, 8)
        animated = image.format != "MPO" and getattr(image, "n_frames", 1) > 1
        size = image.size[::-1] if rotated else image.size
        return Glance(size, animated, _may_be_transparent(image))


def _may_be_transparent(frame: Image) -> bool:
    return "A" in frame.getbands() or "a" in frame.getbands() or "transparency" in frame.info


def upright(frame: Image) -> tuple[np.ndarray, np.ndarray | None]:
    """A Pillow image, rotated as its EXIF says -> colours [H,W,3] and alpha [H,W] or None."""
    import numpy as np
    from PIL import ImageOps

    frame = ImageOps.exif_transpose(frame)
    if frame.mode == "F" or frame.mode[:1] == "I":
        grey = np.asarray(frame).astype(np.float32) / (1 if frame.mode == "F" else _WIDE)
        return np.repeat(np.clip(np.nan_to_num(grey), 0, 1)[..., None], 3, axis=-1), None
    if not _may_be_transparent(frame):
        return np.asarray(frame.convert("RGB"), dtype=np.float32) / 255.0, None
    pixels = np.asarray(frame.convert("RGBA"), dtype=np.float32) / 255.0
    return np.ascontiguousarray(pixels[..., :3]), np.ascontiguousarray(pixels[..., 3])


def _read(path: Path) -> tuple[np.ndarray, np.ndarray | None]:
    first = frames(path, most=1)
    if not first:
        raise InkstoneError(f"{path} contains no picture. Save it again as PNG or JPEG.")
    return first[0]
