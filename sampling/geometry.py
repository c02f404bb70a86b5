"""Every size of a picture and its latents is computed here and only here: canvas, pixel lock,
latents, tokens. Those at which a vision tower sees pictures are in vision_sizes.py.

A token covers 16 x 16 picture pixels in every family: 2 x 2 latent pixels of 8 x 8, or one of
16 x 16 (`LatentSpec`). Canvases are multiples of 16, or of 32 where a family asks for it
(reference: `QwenImagePipeline`, which floors silently; here a wrong size is an error).
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from numbers import Integral
from typing import TYPE_CHECKING, Final, NamedTuple

from ..errors import InkstoneError

if TYPE_CHECKING:
    from torch import Tensor  # node schemas and the command line read sizes without torch

LATENT = 8  # picture pixels per latent pixel
TOKEN = 16  # picture pixels per token
LARGEST = 16384  # a side longer than this is a typing error
NEAR = 1.05  # a picture whose sides are within this factor of the target is not resampled
CONTEXT = (64, 3)  # of a crop: least pixels of a side, largest ratio of its sides


@dataclass(frozen=True)
class LatentSpec:
    """The latents of a family: how pictures are cut into them, and they into tokens."""

    scale: int = LATENT  # picture pixels on a side of a latent pixel
    channels: int = 16
    patch: int = 2  # latent pixels on a side of a token
    step: int = TOKEN  # sides of canvases are multiples of this many pixels

    @property
    def crop(self) -> int:
        """Pixels: pictures that core's nodes encode are cropped to multiples of it. `whole` mends
        half a token; nothing mends a canvas that is no multiple of `step`.
        """
        return self.scale if self.patch > 1 else self.step

    def sides(self, width: int, height: int) -> tuple[int, int]:
        """Canvas in pixels -> (rows, columns) of latent pixels."""
        return height // self.scale, width // self.scale

    def shape(self, width: int, height: int) -> list[int]:
        """Canvas in pixels -> [channels, 1, rows, columns] of its latent."""
        return [self.channels, 1, *self.sides(width, height)]

    def words(self, count: str = "batch") -> str:
        """The shape of a latent of any size, for messages."""
        return f"[{count}, {self.channels}, 1, height/{self.scale}, width/{self.scale}]"

    def pack(self, latent: Tensor) -> Tensor:
        """[B,C,h,w] with even sides for patches of 2 -> tokens [B,S,C*patch*patch]."""
        return pack(latent) if self.patch == 2 else latent.flatten(2).mT

    def unpack(self, tokens: Tensor, rows: int, columns: int) -> Tensor:
        """[B,rows*columns,F] -> [B,C,h,w]: the inverse of `pack`; rows, columns in tokens."""
        return unpack(tokens, rows, columns) if self.patch == 2 else _cells(tokens, rows, columns)

    def whole(self, latent: Tensor) -> Tensor:
        """[B,C,h,w] whose sides are whole tokens, lengthened at the right and below."""
        return even(latent) if self.patch == 2 else latent

    def grid(self, latent: Tensor) -> tuple[int, int, int]:
        """(frames, rows, columns) in tokens of a latent [...,h,w]; part of a token counts."""
        return 1, -(-latent.shape[-2] // self.patch), -(-latent.shape[-1] // self.patch)


FIRST_LATENTS = LatentSpec()  # of the first family

SIZES: dict[str, tuple[int, int]] = {
    "1:1 (1328x1328)": (1328, 1328),
    "16:9 (1664x928)": (1664, 928),
    "9:16 (928x1664)": (928, 1664),
    "4:3 (1472x1104)": (1472, 1104),
    "3:4 (1104x1472)": (1104, 1472),
    "3:2 (1584x1056)": (1584, 1056),
    "2:3 (1056x1584)": (1056, 1584),
}
SIZES_21: dict[str, tuple[int, int]] = {
    "2.1, 1:1 (2048x2048)": (2048, 2048),
    "2.1, 16:9 (2752x1536)": (2752, 1536),
    "2.1, 9:16 (1536x2752)": (1536, 2752),
    "2.1, 4:3 (2400x1792)": (2400, 1792),
    "2.1, 3:4 (1792x2400)": (1792, 2400),
    "2.1, 3:2 (2528x1696)": (2528, 1696),
    "2.1, 2:3 (1696x2528)": (1696, 2528),
    "2.1, small 1:1 (1024x1024)": (1024, 1024),
}


CROP: Final = "crop"  # the middle of a picture, in the ratio of the result
STRETCH: Final = "stretch"  # all of it, out of proportion
PAD: Final = "pad"  # all of it, with black around it: nothing in a control map
REFUSE: Final = "refuse"
FITS = (CROP, STRETCH, PAD, REFUSE)  # for control pictures of another aspect ratio


_SIZE = re.compile(r"\s*(\d{1,9})\s*[xX×]\s*(\d{1,9})\s*")


def check_canvas(width: int, height: int, step: int = TOKEN) -> None:
    """Raises unless both sides are multiples of `step` between it and 16384 pixels."""
    good = 1328 if 1328 % step == 0 else 1024
    for name, side in (("width", width), ("height", height)):
        if not _is_whole(side):
            raise InkstoneError(
                f"Canvas {name} {side!r} is not a whole number of pixels. "
                f"Choose a size such as {good}x{good}."
            )
        if side < step or side > LARGEST:
            raise InkstoneError(
                f"Canvas {name} {side} is out of range: expected {step} to {LARGEST} pixels. "
                f"Choose a size such as {good}x{good}."
            )
    if width % step or height % step:
        near = (max(step, round(width / step) * step), max(step, round(height / step) * step))
        raise InkstoneError(
            f"Canvas {width}x{height} is not a multiple of {step} on both sides. "
            f"The nearest size that works is {near[0]}x{near[1]}."
        )


def _is_whole(value: object) -> bool:
    """True for whole numbers, numpy's too."""
    return isinstance(value, Integral)


def parse_size(text: str) -> tuple[int, int]:
    """ "1328x928" -> (width, height) of a canvas, checked."""
    width, height = parse_sides(text)
    check_canvas(width, height)
    return width, height


def parse_sides(text: str) -> tuple[int, int]:
    """ "61x47" -> (width, height) of any picture."""
    sides = _SIZE.fullmatch(text)
    if sides is None:
        raise InkstoneError(
            f"Size {text!r} is not WIDTHxHEIGHT in pixels. Write for example 1328x928."
        )
    return int(sides[1]), int(sides[2])


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


def _cells(tokens: Tensor, rows: int, columns: int) -> Tensor:
    """[B,rows*columns,C] -> [B,C,rows,columns]."""
    return tokens.mT.unflatten(-1, (rows, columns))


def even(latent: Tensor) -> Tensor:
    """[B,16,h,w] whose odd sides are one longer, at the right and below: a token is 2 x 2."""
    from torch.nn.functional import pad

    down, right = latent.shape[-2] % 2, latent.shape[-1] % 2
    return pad(latent, (0, right, 0, down), mode="replicate") if down or right else latent


class Box(NamedTuple):
    """A part of a picture, in pixels; right and bottom are the first pixels beyond it."""

    left: int
    top: int
    right: int
    bottom: int

    @property
    def size(self) -> tuple[int, int]:
        """(width, height)"""
        return self.right - self.left, self.bottom - self.top

    def of(self, x: Tensor) -> Tensor:
        """A view of this part of x [n,H,W] or [n,H,W,C]."""
        return x[:, self.top : self.bottom, self.left : self.right]

    def wider(self, by: int, width: int, height: int) -> Box:
        """This box with `by` more pixels on each side, within the picture."""
        left, top = max(0, self.left - by), max(0, self.top - by)
        return Box(left, top, min(width, self.right + by), min(height, self.bottom + by))


class Sides(NamedTuple):
    """Pixels added on each side of a picture."""

    left: int = 0
    top: int = 0
    right: int = 0
    bottom: int = 0


def locked_sizes(
    width: int, height: int, area: int | None = None, enlarge: bool = True, step: int = TOKEN
) -> tuple[tuple[int, int], tuple[int, int]]:
    """(size to work at, size of the canvas) for a picture of any size; the canvas is the next
    multiple of `step`. The work size has about `area` pixels in the picture's ratio.
    """
    if min(width, height) < 1:
        raise InkstoneError(
            f"The picture is {width}x{height}: expected at least one pixel. Check the step before."
        )
    scale = 1.0
    if area is not None:
        _check_area(area)
        factor = math.sqrt(area / (width * height))
        if factor < 1 / NEAR or (factor > NEAR and enlarge):
            scale = factor
        scale = min(scale, LARGEST / max(width, height))
    work = max(1, round(width * scale)), max(1, round(height * scale))
    canvas = _up(work[0], step), _up(work[1], step)
    if max(canvas) > LARGEST:
        raise InkstoneError(
            f"The picture is {width}x{height}: a canvas has up to {LARGEST} pixels a side. Crop "
            "the picture, or give an area to work at (for example 1 megapixel)."
        )
    return work, canvas


def _check_area(area: int) -> None:
    if not _is_whole(area) or not TOKEN**2 <= area <= LARGEST**2:
        raise InkstoneError(
            f"The area to work at is {area} pixels: expected a whole number from {TOKEN**2} to "
            f"{LARGEST**2}. 1048576 (1024x1024) is usual."
        )


def _up(side: int, step: int) -> int:
    return -(-side // step) * step


def context_box(inner: Box, width: int, height: int, margin: int) -> Box:
    """`inner` with `margin` pixels of context around it, where the picture has room: at least 64
    pixels a side, no side more than 3 times the other, multiples of 16.
    """
    if not 0 <= margin <= LARGEST:
        raise InkstoneError(
            f"The margin around the mask is {margin} pixels: expected 0 to {LARGEST}. 64 is usual."
        )
    least, ratio = CONTEXT
    sides = [side + 2 * margin for side in inner.size]
    least = max(least, -(-max(sides) // ratio))
    across, down = (_up(max(side, least), TOKEN) for side in sides)
    left, right = _span(inner.left, inner.right, across, width)
    top, bottom = _span(inner.top, inner.bottom, down, height)
    return Box(left, top, right, bottom)


def _span(low: int, high: int, length: int, whole: int) -> tuple[int, int]:
    """`length` around low..high, moved so that it lies in 0..whole."""
    length = min(length, whole)
    start = min(max(0, low - (length - (high - low)) // 2), whole - length)
    return start, start + length


def padded_size(width: int, height: int, sides: Sides) -> tuple[int, int]:
    """(width, height) of a picture with new parts on its sides."""
    for name, side in sides._asdict().items():
        if not _is_whole(side) or not 0 <= side <= LARGEST:
            raise InkstoneError(
                f"The outpainting adds {side!r} pixels at the {name}: expected a whole number from "
                f"0 to {LARGEST}. To remove pixels, crop the picture."
            )
    if not any(sides):
        raise InkstoneError(
            "All four sides of the outpainting are 0, so there is nothing to draw. Set the pixels "
            "to add at the left, top, right or bottom."
        )
    size = sides.left + width + sides.right, sides.top + height + sides.bottom
    if max(size) > LARGEST:
        raise InkstoneError(
            f"The outpainted picture is {size[0]}x{size[1]}: expected up to {LARGEST} pixels a "
            "side. Add fewer."
        )
    return size


def shorter_side_size(width: int, height: int, side: int) -> tuple[int, int]:
    """(width, height) in the picture's ratio with a shorter side of `side`; 0: the picture's."""
    if side and not TOKEN <= side <= LARGEST:
        raise InkstoneError(
            f"The resolution is {side} pixels for the shorter side: expected 0 (the picture's own "
            f"size) or {TOKEN} to {LARGEST}. 512 and 1024 are usual."
        )
    scale = side / min(width, height) if side else 1.0
    scale = min(scale, LARGEST / max(width, height))
    return max(1, round(width * scale)), max(1, round(height * scale))


def cropped_box(size: tuple[int, int], target: tuple[int, int]) -> Box:
    """The largest part from the middle of a picture that has the ratio of `target`."""
    (width, height), (w, h) = size, target
    across = min(width, max(1, round(height * w / h)))
    down = min(height, max(1, round(width * h / w)))
    left, top = (width - across) // 2, (height - down) // 2
    return Box(left, top, left + across, top + down)


def inner_box(size: tuple[int, int], target: tuple[int, int]) -> Box:
    """The largest part from the middle of `target` that has the ratio of a picture of this size."""
    return cropped_box(target, size)


def canvas_near(width: int, height: int, slack: float) -> tuple[int, int] | None:
    """The canvas (multiples of 16) that is nearest to this size among those whose ratio differs by
    no more than `slack`; None where there is none.
    """
    canvases = []
    for w in range(TOKEN, LARGEST + 1, TOKEN):
        h = round(w * height / width / TOKEN) * TOKEN
        if TOKEN <= h <= LARGEST and same_ratio((w, h), (width, height), slack):
            canvases.append((w, h))
    return min(canvases, key=lambda c: abs(math.log(c[0] * c[1] / width / height)), default=None)


def same_ratio(a: tuple[int, int], b: tuple[int, int], slack: float) -> bool:
    """True if the ratios of two sizes differ by no more than `slack`."""
    return abs(a[0] * b[1] - a[1] * b[0]) <= slack * max(a[0] * b[1], a[1] * b[0])


def cells_size(width: int, height: int, side: int, cell: int) -> tuple[int, int]:
    """(width, height) in about the picture's ratio: a shorter side of `side`, both multiples of
    `cell`; the longer side of a narrow picture is 4 times `side`.
    """
    scale = min(side / min(width, height), 4 * side / max(width, height))
    across, down = (max(1, round(x * scale / cell)) * cell for x in (width, height))
    return across, down
