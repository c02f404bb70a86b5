"""Image files as floats: orientation, grey, palette, transparency and 16 bits decoded right.

Pillow clips 16-bit grey to white when it converts to RGB, so those are scaled here. Of 16-bit
colour Pillow keeps the upper byte: within 1/255. Colours are converted to sRGB (colour_profile.py);
of masks they are not, because a mask is no colour. Pixels are converted in strips and bytes become
floats in place (_Pixels), so that a file takes little more than its result: 16 million RGBA pixels
are 268 MB as floats and 67 MB inside Pillow. What may be opened: opening.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from .colour_profile import ToSRGB, to_srgb
from .colour_tags import note
from .opening import Opened, opened

if TYPE_CHECKING:
    import numpy as np
    from PIL.Image import Image
    from torch import Tensor

_WIDE = 65535  # largest value of the 16-bit modes
_STRIP = 1 << 18  # pixels that are converted at a time
_ROWS = 64  # that become floats at a time
LOOK = 16  # sides of `look`
CHANNELS = ("red", "green", "blue")


def read_picture(path: Path) -> Tensor:
    """[1,H,W,3] float32 in 0..1, or [1,H,W,4] where a pixel is transparent."""
    import torch

    colours, alpha = frames(path, most=1)[0]
    image = torch.from_numpy(colours)
    if alpha is not None and alpha.min() < 1:
        image = torch.cat([image, torch.from_numpy(alpha)[..., None]], dim=-1)
    return image[None]


def frames(path: Path, most: int | None = None) -> list[tuple[np.ndarray, np.ndarray | None]]:
    """(colours [H,W,3] in sRGB, alpha [H,W] or None) in 0..1 of each frame, at most `most` of them.

    Of a photo with an embedded second image (MPO) only the first is a frame. InkstoneError where
    the file is no image, or where its pixels are more than `opening.allowance`.
    """
    from PIL import ImageSequence

    with opened(path) as file:
        # colours and alpha, and once more both together for who joins them
        floats = 8 if _may_be_transparent(file.image) else 3
        file.check_room(floats)
        count = file.frames() if most is None or most > 1 else 1
        count = count if most is None else min(count, most)
        file.check_room(floats, count)
        conversion = to_srgb(file.profile, file.image.mode, path)
        note(path, file.colours, converted=bool(file.profile))
        if count == 1:
            pixels = _upright(file.image, file, conversion)
            file.image.close()  # Pillow's own copy leaves before there are floats
            return [_as_floats(pixels)]
        every = ImageSequence.Iterator(file.image)
        return [_as_floats(_upright(frame, file, conversion)) for frame in islice(every, count)]


def channel(path: Path, name: str) -> np.ndarray | None:
    """[H,W] in 0..1: "red", "green", "blue" or "alpha" of the first frame, as the file has it; None
    for the alpha of a file without. Takes a third of what `frames` does.
    """
    with opened(path) as file:
        image = file.image
        file.check_room(1)
        if name == "alpha" and not _may_be_transparent(image):
            return None
        if name == "alpha":
            pixels = _filled(file, image, (), lambda part: _bytes(part.convert("RGBA"))[..., 3])
        else:
            index = CHANNELS.index(name)
            pixels = _filled(file, image, (), lambda part: _colours(part, None)[..., index])
        image.close()
        return pixels.as_floats()


class Glance(NamedTuple):
    """The facts in the header of an image file."""

    size: tuple[int, int]  # width and height, upright
    animated: bool  # more than one frame
    transparent: bool  # a pixel may be transparent


def glance(path: Path) -> Glance:
    """Reads the header only, no pixels. Raises as `frames` does."""
    with opened(path) as file:
        size = file.image.size[::-1] if file.turned else file.image.size
        return Glance(size, file.many, _may_be_transparent(file.image))


def sound(path: Path) -> Glance:
    """As `glance`, but the pixels of the first frame are decoded too: a file that is damaged or cut
    off raises, as it would in `read_picture`.
    """
    with opened(path) as file:
        return _decoded(file, 1)[0]


def look(path: Path) -> tuple[Glance, bytes]:
    """As `sound`, and how the picture looks: the means of LOOK x LOOK parts as bytes [16,16,4],
    upright, colours multiplied by alpha. Another encoding of the same pixels differs by little.
    Empty where a pixel has more than 8 bits a colour.
    """
    import numpy as np

    with opened(path) as file:
        (facts, box), image = _decoded(file, 8 * LOOK), file.image
        if _is_wide(image):
            return facts, b""
        if image.mode not in ("L", "RGB", "RGBA"):
            image = image.convert("RGBA")
        small = image.resize((LOOK, LOOK), 4, box).convert("RGBA")  # 4: Resampling.BOX
        means = np.asarray(small).astype(np.uint16)
        means[..., :3] = means[..., :3] * means[..., 3:] // 255
        out = np.empty((LOOK, LOOK, 4), np.uint8)
        _as_stored(out, file.orientation)[...] = means
        return facts, out.tobytes()


def _decoded(file: Opened, least: int) -> tuple[Glance, tuple[float, float, float, float]]:
    """Decodes the first frame: its facts, and the part of what is decoded that is the picture.
    least: pixels of a side that a JPEG has at least: all of its data is read, for as little as an
    eighth of them, and the last of those may lie half outside.
    """
    image, clear = file.image, _may_be_transparent(file.image)
    facts = Glance(image.size[::-1] if file.turned else image.size, file.many, clear)
    file.check_room(8 if clear else 3)
    drafted = image.draft(image.mode, (least, least)) if image.format in ("JPEG", "MPO") else None
    box = drafted[1] if drafted else (0, 0, *image.size)
    image.load()
    return facts, box


def is_grey(path: Path) -> bool:
    """True where red, green and blue are equal in every pixel."""
    with opened(path) as file:
        file.check_room(1)
        file.image.load()
        if len(file.image.getbands()) < 3 and file.image.mode not in ("P", "PA"):
            return True
        return all(_all_grey(part) for part in _strips(file.image))


def _all_grey(part: Image) -> bool:
    pixels = _bytes(part.convert("RGB"))
    return bool((pixels == pixels[..., :1]).all())


def _may_be_transparent(frame: Image) -> bool:
    if _is_wide(frame):
        return False
    return "A" in frame.getbands() or "a" in frame.getbands() or "transparency" in frame.info


@dataclass(frozen=True)
class _Pixels:
    """[H,W,...] float32, upright. bytes: the values where they are still 8-bit ones, in the last
    quarter of the same memory; None where they are floats.
    """

    floats: np.ndarray
    bytes: np.ndarray | None

    def as_floats(self) -> np.ndarray:
        """The floats in 0..1: bytes divided by 255, from the top down, so that no byte is
        overwritten before it is read.
        """
        if self.bytes is not None:
            for top in range(0, len(self.floats), _ROWS):
                rows = self.floats[top : top + _ROWS]
                rows[...] = self.bytes[top : top + _ROWS].copy()
                rows /= 255.0
        return self.floats


def _pixels(shape: tuple[int, ...], wide: bool) -> _Pixels:
    """Space for pixels; memory that nothing is written to takes none."""
    import numpy as np

    floats = np.empty(shape, np.float32)
    if wide:
        return _Pixels(floats, None)
    return _Pixels(floats, floats.reshape(-1).view(np.uint8)[-floats.size :].reshape(shape))


def _as_floats(pixels: tuple[_Pixels, _Pixels | None]) -> tuple[np.ndarray, np.ndarray | None]:
    colours, alpha = pixels
    return colours.as_floats(), None if alpha is None else alpha.as_floats()


def _upright(
    frame: Image, file: Opened, conversion: ToSRGB | None
) -> tuple[_Pixels, _Pixels | None]:
    """A frame, rotated as the file says -> colours [H,W,3] and alpha [H,W] or None."""
    clear = _may_be_transparent(frame)
    colours = _filled(file, frame, (3,), lambda part: _colours(part, conversion))
    if not clear:
        return colours, None
    return colours, _filled(file, frame, (), lambda part: _bytes(part.convert("RGBA"))[..., 3])


def _filled(
    file: Opened, frame: Image, shape: tuple[int, ...], of: Callable[[Image], np.ndarray]
) -> _Pixels:
    """[H,W,*shape], upright, whose strips are `of` the strips of a frame: floats, or bytes."""
    frame.load()
    width, height = frame.size[::-1] if file.turned else frame.size
    pixels = _pixels((height, width, *shape), _is_wide(frame))
    out = pixels.floats if pixels.bytes is None else pixels.bytes
    lying, top = _as_stored(out, file.orientation), 0  # a view
    for part in _strips(frame):
        lying[top : top + part.height] = of(part)
        top += part.height
    return pixels


def _strips(frame: Image) -> Iterator[Image]:
    """The rows of a frame, some at a time."""
    width, height = frame.size
    step = max(1, _STRIP // width)
    for top in range(0, height, step):
        yield frame.crop((0, top, width, min(top + step, height)))


def _as_stored(out: np.ndarray, orientation: int) -> np.ndarray:
    """A view of an upright array, in which the pixels lie as in a file of this EXIF orientation."""
    import numpy as np

    if orientation in (6, 3, 8):
        return np.rot90(out, {6: 1, 3: 2, 8: -1}[orientation])
    mirrored = {2: out[:, ::-1], 4: out[::-1], 5: out, 7: out[::-1, ::-1]}.get(orientation, out)
    return mirrored.swapaxes(0, 1) if orientation in (5, 7) else mirrored


def _colours(part: Image, conversion: ToSRGB | None) -> np.ndarray:
    """[h,w,3]: bytes, or floats in 0..1 of the modes with more than 8 bits."""
    import numpy as np

    if not _is_wide(part):
        return _bytes(conversion(part) if conversion else part.convert("RGB"))
    grey = np.asarray(part).astype(np.float32) / (1 if part.mode == "F" else _WIDE)
    grey = np.clip(np.nan_to_num(grey), 0, 1)
    if conversion:
        grey = np.interp(grey, np.linspace(0, 1, 256), conversion.curve()).astype(np.float32)
    return np.repeat(grey[..., None], 3, axis=-1)


def _is_wide(image: Image) -> bool:
    return image.mode == "F" or image.mode[:1] == "I"


def _bytes(image: Image) -> np.ndarray:
    import numpy as np

    return np.asarray(image)
