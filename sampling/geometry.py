"""Every size is computed here, and nowhere else: canvas, latents, tokens, packing, vision tower.

A latent pixel covers 8 x 8 picture pixels, a token 2 x 2 latent pixels, so canvases are multiples
of 16 (reference: `QwenImagePipeline`, which floors silently; here a wrong size is an error). The
vision tower sees cells of 28 x 28 pixels (reference: `Qwen2VLImageProcessor`, with the limits of
the published edit pipelines, not those of the class).
"""

from __future__ import annotations

import math
import re
from numbers import Integral
from typing import TYPE_CHECKING

from ..kernels.errors import InkstoneError

if TYPE_CHECKING:
    from torch import Tensor  # node schemas and the command line read sizes without torch

LATENT = 8  # picture pixels per latent pixel
TOKEN = 16  # picture pixels per token
LARGEST = 16384  # a side longer than this is a typing error
CELL = 28  # picture pixels per token of the vision tower
COPY = 32  # sides of resized copies are multiples of this
VISION_PIXELS = (56 * 56, 12845056)  # least and most, preprocessor_config.json of Qwen-Image-Edit
VISION_RATIO = 200  # the longest side over the shortest
VISION_MEAN = (0.48145466, 0.4578275, 0.40821073)  # of red, green, blue in 0..1
VISION_STD = (0.26862954, 0.26130258, 0.27577711)

SIZES: dict[str, tuple[int, int]] = {
    "1:1 (1328x1328)": (1328, 1328),
    "16:9 (1664x928)": (1664, 928),
    "9:16 (928x1664)": (928, 1664),
    "4:3 (1472x1104)": (1472, 1104),
    "3:4 (1104x1472)": (1104, 1472),
    "3:2 (1584x1056)": (1584, 1056),
    "2:3 (1056x1584)": (1056, 1584),
}


_SIZE = re.compile(r"\s*(\d{1,9})\s*[xX×]\s*(\d{1,9})\s*")


def check_canvas(width: int, height: int) -> None:
    """Raises unless both sides are multiples of 16 between 16 and 16384 pixels."""
    for name, side in (("width", width), ("height", height)):
        if not isinstance(side, Integral):
            raise InkstoneError(
                f"Canvas {name} {side!r} is not a whole number of pixels. "
                "Choose a size such as 1328x1328."
            )
        if side < TOKEN or side > LARGEST:
            raise InkstoneError(
                f"Canvas {name} {side} is out of range: expected {TOKEN} to {LARGEST} pixels. "
                f"Choose a size such as 1328x1328."
            )
    if width % TOKEN or height % TOKEN:
        near = (max(TOKEN, round(width / TOKEN) * TOKEN), max(TOKEN, round(height / TOKEN) * TOKEN))
        raise InkstoneError(
            f"Canvas {width}x{height} is not a multiple of {TOKEN} on both sides. "
            f"The nearest size that works is {near[0]}x{near[1]}."
        )


def parse_size(text: str) -> tuple[int, int]:
    """ "1328x928" -> (width, height), checked."""
    sides = _SIZE.fullmatch(text)
    if sides is None:
        raise InkstoneError(
            f"Size {text!r} is not WIDTHxHEIGHT in pixels. Write for example 1328x928."
        )
    width, height = int(sides[1]), int(sides[2])
    check_canvas(width, height)
    return width, height


def token_grid(width: int, height: int) -> tuple[int, int, int]:
    """Canvas in pixels -> (frames, rows, columns) of tokens."""
    return 1, height // TOKEN, width // TOKEN


def pack(latent: Tensor) -> Tensor:
    """[B,16,h,w] -> [B,h/2*w/2,64]; feature index 4c + 2dy + dx."""
    b, c, h, w = latent.shape
    x = latent.reshape(b, c, h // 2, 2, w // 2, 2).permute(0, 2, 4, 1, 3, 5)
    return x.reshape(b, h // 2 * (w // 2), 4 * c)


def unpack(tokens: Tensor, rows: int, columns: int) -> Tensor:
    """[B,rows*columns,64] -> [B,16,2*rows,2*columns]: the inverse of `pack`."""
    b, _, features = tokens.shape
    x = tokens.reshape(b, rows, columns, features // 4, 2, 2).permute(0, 3, 1, 4, 2, 5)
    return x.reshape(b, features // 4, 2 * rows, 2 * columns)


def area_size(width: int, height: int, area: int) -> tuple[int, int]:
    """(width, height) of a copy of about `area` pixels in the ratio of the picture, sides / 32."""
    across = math.sqrt(area * (width / height))
    down = across / (width / height)
    return round(across / COPY) * COPY, round(down / COPY) * COPY


def vision_size(width: int, height: int) -> tuple[int, int]:
    """(width, height) at which the vision tower sees a picture: multiples of 28 within limits."""
    _refuse_narrow(width, height, (width, height))
    least, most = VISION_PIXELS
    sides = [round(side / CELL) * CELL for side in (width, height)]
    if math.prod(sides) > most:
        scale = math.sqrt(height * width / most)
        sides = [max(CELL, math.floor(s / scale / CELL) * CELL) for s in (width, height)]
    elif math.prod(sides) < least:
        scale = math.sqrt(least / (height * width))
        sides = [math.ceil(s * scale / CELL) * CELL for s in (width, height)]
    return sides[0], sides[1]


def encoder_sizes(width: int, height: int, area: int) -> tuple[tuple[int, int], tuple[int, int]]:
    """(size of the copy of about `area` pixels, size at which the tower sees that copy)."""
    _refuse_narrow(width, height, (width, height))
    copy = area_size(width, height, area)
    _refuse_narrow(*copy, (width, height))
    return copy, vision_size(*copy)


def _refuse_narrow(width: int, height: int, picture: tuple[int, int]) -> None:
    if min(width, height) < 1 or max(width, height) / min(width, height) > VISION_RATIO:
        raise InkstoneError(
            f"The picture is {picture[0]}x{picture[1]}: the vision tower takes sides of a ratio up "
            f"to {VISION_RATIO}:1. Crop the picture or pad it."
        )


def vision_patches(picture: Tensor, patch: int, merge: int) -> Tensor:
    """[C,H,W] -> [H/patch * W/patch, C * patch * patch]: cell by cell, the patches of one together.

    The reference repeats each patch for a second frame; the tower here does not need that.
    """
    c, h, w = picture.shape
    x = picture.reshape(c, h // patch // merge, merge, patch, w // patch // merge, merge, patch)
    return x.permute(1, 4, 2, 5, 0, 3, 6).reshape(-1, c * patch * patch)
