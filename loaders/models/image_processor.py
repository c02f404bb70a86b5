"""Prepares pictures for the vision tower.

The same steps as the reference: for edits 8-bit RGB, Pillow's Lanczos to the copy that the edit
pipeline makes, Pillow's bicubic to whole cells of the tower, then the published mean and deviation;
for questions the same without a copy. Sizes come from sampling/vision_sizes.py. As in the
reference, Qwen2.5-VL drops alpha, once what it hides is white, and Qwen3-VL sees the picture over
white; grey is repeated in three channels.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ...errors import InkstoneError
from ...sampling.nan_check import is_finite
from ...sampling.pixel_lock import over_white, visible
from ...sampling.vision_sizes import QWEN25_SIGHT, CopySizes, Sight, encoder_sizes

if TYPE_CHECKING:
    from PIL.Image import Image

_ROWS = 256  # of a picture that are rounded at a time
Sizes = Callable[[int, int, int, Sight], CopySizes]  # (width, height, area, sight)


def rgb_bytes(picture: Tensor, white: bool = False) -> Tensor:
    """[H,W,C] or [1,H,W,C] in 0..1 with 1, 3 or 4 channels -> uint8 [H,W,3]; else it raises.
    white: see `Sight.over_white`.
    """
    shape = list(picture.shape)
    if picture.dim() == 4 and shape[0] == 1:
        picture = picture[0]
    if picture.dim() != 3 or picture.shape[2] not in (1, 3, 4) or 0 in shape:
        raise InkstoneError(
            f"A picture for the text encoder has shape {shape}: expected one picture [height, "
            "width, channels] with 1, 3 or 4 channels. Connect the pictures of a batch one by one."
        )
    if not picture.is_floating_point() or not is_finite(picture):
        kind = str(picture.dtype).removeprefix("torch.")
        raise InkstoneError(
            f"A picture for the text encoder holds {kind} values that are not finite numbers from "
            "0 to 1. Check the node that makes it."
        )
    return torch.cat([_rounded(rows, white) for rows in picture.split(_ROWS)])


def _rounded(rows: Tensor, white: bool) -> Tensor:
    """Some rows of a picture in 8 bits: a large one is not copied whole."""
    rows = rows.cpu().float().clamp(0, 1)
    rows = over_white(rows) if white else visible(rows)
    return rows[..., :3].mul(255).round().to(torch.uint8).expand(-1, -1, 3)


def digest(pixels: Tensor) -> str:
    """A hash of the content of uint8 [H,W,3]."""
    head = repr(tuple(pixels.shape)).encode()
    return hashlib.sha256(head + pixels.numpy().tobytes()).hexdigest()


def tower_pixels(
    pixels: Tensor, area: int, sizes: Sizes = encoder_sizes, sight: Sight = QWEN25_SIGHT
) -> Tensor:
    """uint8 [H,W,3] -> normalised float32 [3,h,w], h and w whole cells; area: of the copy."""
    copy, (width, height) = sizes(pixels.shape[1], pixels.shape[0], area, sight)
    small = _resized(_resized(_image(pixels), copy, "LANCZOS"), (width, height), "BICUBIC")
    rows = torch.frombuffer(bytearray(small.tobytes()), dtype=torch.uint8).view(height, width, 3)
    mean, std = (torch.tensor(v) for v in (sight.mean, sight.std))
    return rows.float().div(255).sub(mean).div(std).permute(2, 0, 1)


def _image(pixels: Tensor) -> Image:
    from PIL import Image

    return Image.fromarray(pixels.numpy())


def _resized(image: Image, size: tuple[int, int], kernel: str) -> Image:
    from PIL import Image

    return image if image.size == size else image.resize(size, Image.Resampling[kernel])
