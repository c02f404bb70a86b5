"""The sizes at which vision towers see pictures, computed here and only here.

A tower sees cells: 28 x 28 pixels in Qwen2.5-VL, 32 x 32 in Qwen3-VL, one token each (reference:
`Qwen2VLImageProcessor`, with the limits of the published pipelines, not those of the class). What a
tower asks of pictures is a record, `Sight`.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

from ..errors import InkstoneError

if TYPE_CHECKING:
    from torch import Tensor

COPY = 32  # sides of resized copies are multiples of this
VISION_RATIO = 200  # the longest side over the shortest


class Sight(NamedTuple):
    """What a vision tower asks of pictures."""

    cell: int  # pixels on a side of what becomes one token
    least: int  # pixels; smaller pictures are enlarged
    most: int
    mean: tuple[float, float, float]  # of red, green, blue in 0..1
    std: tuple[float, float, float]
    over_white: bool = False  # pictures with alpha are laid over white; else alpha is dropped


# preprocessor_config.json of Qwen-Image-Edit
QWEN25_SIGHT = Sight(
    28, 56 * 56, 12845056, (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
)
# preprocessor_config.json of Qwen3-VL-8B-Instruct
QWEN3_SIGHT = Sight(32, 65536, 16777216, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5), over_white=True)

CopySizes = tuple[tuple[int, int], tuple[int, int]]
"""(size of a copy, size at which the tower reads the copy), each (width, height)."""


def area_size(width: int, height: int, area: int) -> tuple[int, int]:
    """(width, height) of a copy of about `area` pixels in the ratio of the picture, sides / 32."""
    across = math.sqrt(area * (width / height))
    down = across / (width / height)
    return round(across / COPY) * COPY, round(down / COPY) * COPY


def vision_size(
    width: int, height: int, most: int | None = None, sight: Sight = QWEN25_SIGHT
) -> tuple[int, int]:
    """(width, height) at which a vision tower reads a picture: whole cells within its limits.
    most: pixels, where fewer are wanted than the published limit.
    """
    _refuse_narrow(width, height, (width, height))
    cell, most = sight.cell, min(most or sight.most, sight.most)
    sides = [round(side / cell) * cell for side in (width, height)]
    if math.prod(sides) > most:
        scale = math.sqrt(height * width / most)
        sides = [max(cell, math.floor(s / scale / cell) * cell) for s in (width, height)]
    elif math.prod(sides) < sight.least:
        scale = math.sqrt(sight.least / (height * width))
        sides = [math.ceil(s * scale / cell) * cell for s in (width, height)]
    return sides[0], sides[1]


def encoder_sizes(width: int, height: int, area: int, sight: Sight = QWEN25_SIGHT) -> CopySizes:
    """The copy has about `area` pixels."""
    _refuse_narrow(width, height, (width, height))
    copy = area_size(width, height, area)
    _refuse_narrow(*copy, (width, height))
    return copy, vision_size(*copy, sight=sight)


def answer_sizes(width: int, height: int, area: int, sight: Sight = QWEN25_SIGHT) -> CopySizes:
    """For a question about a picture: it is resized once, and never enlarged to `area`."""
    return (width, height), vision_size(width, height, area, sight)


def fixed_sizes(width: int, height: int, area: int, sight: Sight = QWEN25_SIGHT) -> CopySizes:
    """For a model that sees every picture at about `area` pixels, enlarged or not."""
    _refuse_narrow(width, height, (width, height))
    scale, cell = math.sqrt(area / (height * width)), sight.cell
    across, down = (max(1, round(side * scale / cell)) * cell for side in (width, height))
    return (width, height), (across, down)


def shared_sizes(width: int, height: int, area: int, sight: Sight = QWEN25_SIGHT) -> CopySizes:
    """For a picture that is the copy which the VAE encodes: it is read at its own size where that
    is whole cells, and never enlarged, so that both see one grid. `area` is not asked for.
    """
    least = sight.cell**2
    across, down = (max(side, sight.cell) for side in (width, height))
    return (width, height), vision_size(across, down, sight=sight._replace(least=least))


def _refuse_narrow(width: int, height: int, picture: tuple[int, int]) -> None:
    if min(width, height) < 1 or max(width, height) / min(width, height) > VISION_RATIO:
        raise InkstoneError(
            f"The picture is {picture[0]}x{picture[1]}: the vision tower takes ratios up to "
            f"{VISION_RATIO}:1. Crop or pad the picture."
        )


def vision_patches(picture: Tensor, patch: int, merge: int) -> Tensor:
    """[C,H,W] -> [H/patch * W/patch, C * patch * patch], grouped by cell.

    The reference repeats each patch for a second frame; the tower here does not need that.
    """
    c, h, w = picture.shape
    x = picture.reshape(c, h // patch // merge, merge, patch, w // patch // merge, merge, patch)
    return x.permute(1, 4, 2, 5, 0, 3, 6).reshape(-1, c * patch * patch)
