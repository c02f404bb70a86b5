"""Picture files as floats: upright, grey, palette, transparency and 16 bits read right.

Pillow clips 16-bit grey to white when it is asked for RGB, so those are scaled here. Of 16-bit
colour Pillow gives the upper byte: within 1/255. Animations give their first frame.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ..errors import InkstoneError

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

log = logging.getLogger(__name__)

_LUMA = (0.299, 0.587, 0.114)  # ITU-R 601, as Pillow's "L"
_WIDE = 65535  # largest value of the 16-bit modes


def read_picture(path: Path) -> Tensor:
    """[1,H,W,3] float32 in 0..1, or [1,H,W,4] where a pixel is transparent."""
    import torch

    colours, alpha = _read(path)
    picture = torch.from_numpy(colours)
    if alpha is not None and alpha.min() < 1:
        picture = torch.cat([picture, torch.from_numpy(alpha)[..., None]], dim=-1)
    return picture[None]


def read_mask(path: Path) -> Tensor:
    """[1,H,W] float32, 1 = repaint: what is white, or where the file has transparent pixels (as
    ComfyUI's mask editor saves them) what is transparent.
    """
    import torch

    colours, alpha = _read(path)
    transparent = alpha is not None and alpha.min() < 1
    mask = torch.from_numpy(1 - alpha if transparent else colours @ _luma()).clamp(0, 1)
    how = "transparent" if transparent else "white"
    log.info("mask %s: %.1f %% is %s", path.name, 100 * (mask >= 0.5).float().mean(), how)
    return mask[None]


def frames(path: Path, most: int | None = None) -> list[tuple[np.ndarray, np.ndarray | None]]:
    """(colours [H,W,3], alpha [H,W] or None) in 0..1 of each frame. Raises for a file that is none.

    Of a photo with an embedded second picture (MPO) only the first is a frame.
    """
    from PIL import ImageSequence

    with _opened(path) as file:
        count = 1 if file.format == "MPO" else most
        return [upright(frame) for frame, _ in zip(ImageSequence.Iterator(file), _upto(count))]


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """The Pillow picture; what is wrong with it is said in our words."""
    from PIL import Image

    try:
        with Image.open(path) as file:
            yield file
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise InkstoneError(
            f"{path} cannot be read as a picture: {error}. Save it again as PNG or JPEG."
        ) from error


class Glance(NamedTuple):
    """What the header of a picture file says."""

    size: tuple[int, int]  # width and height, upright
    moving: bool  # more than one frame
    clear: bool  # a pixel may be transparent


def glance(path: Path) -> Glance:
    """Of a file whose pixels are not read. Raises as `frames` does."""
    from PIL import ExifTags

    with _opened(path) as file:
        lies = file.getexif().get(ExifTags.Base.Orientation, 1) in (5, 6, 7, 8)
        moving = file.format != "MPO" and getattr(file, "n_frames", 1) > 1
        return Glance(file.size[::-1] if lies else file.size, moving, _may_be_clear(file))


def _may_be_clear(frame: Any) -> bool:
    return "A" in frame.getbands() or "a" in frame.getbands() or "transparency" in frame.info


def _upto(count: int | None) -> range:
    return range(1 << 30 if count is None else count)


def upright(frame: Any) -> tuple[np.ndarray, np.ndarray | None]:
    """A Pillow picture, turned as its EXIF says -> colours [H,W,3] and alpha [H,W] or None."""
    import numpy as np
    from PIL import ImageOps

    frame = ImageOps.exif_transpose(frame)
    if frame.mode == "F" or frame.mode[:1] == "I":
        grey = np.asarray(frame).astype(np.float32) / (1 if frame.mode == "F" else _WIDE)
        return np.repeat(np.clip(np.nan_to_num(grey), 0, 1)[..., None], 3, axis=-1), None
    if not _may_be_clear(frame):
        return np.asarray(frame.convert("RGB"), dtype=np.float32) / 255.0, None
    pixels = np.asarray(frame.convert("RGBA"), dtype=np.float32) / 255.0
    return np.ascontiguousarray(pixels[..., :3]), np.ascontiguousarray(pixels[..., 3])


def _read(path: Path) -> tuple[np.ndarray, np.ndarray | None]:
    found = frames(path, most=1)
    if not found:
        raise InkstoneError(f"{path} holds no picture. Save it again as PNG or JPEG.")
    return found[0]


def _luma() -> np.ndarray:
    import numpy as np

    return np.asarray(_LUMA, dtype=np.float32)
