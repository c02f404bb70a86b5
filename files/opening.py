"""The door of every picture file: what it may be, how large it may become, and what lies beside the
pixels.

- Only the formats of FORMATS are tried, never one that starts another program, and only regular
  files are opened.
- What the pixels take in memory is computed from the header and compared with `allowance`, before
  one is decoded.
- EXIF, colour profile and texts only help: broken or oversized ones are skipped. Of a PNG, Pillow
  sees the chunks of _PNG_CHUNKS alone, because it refuses the whole file for one bad text.
"""

from __future__ import annotations

import io
import logging
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from ..errors import InkstoneError
from .paths import open_regular

if TYPE_CHECKING:
    from PIL.Image import Image

log = logging.getLogger(__name__)

FORMATS = ("PNG", "JPEG", "MPO", "WEBP", "GIF", "BMP", "DIB", "TIFF", "AVIF", "HEIF")
SMALL_FILE = 1 << 20  # bytes: up to here a file may take SMALL_ROOM whatever its size
SMALL_ROOM = 256 << 20  # bytes of pixels: 4096x4096 RGB
ROOM_PER_BYTE = 1024  # of a larger file; photos need below 100
MOST_ROOM = 4 << 30
_BUFFERS = {"WEBP": 12, "AVIF": 12, "HEIF": 12, "JPEG": 6, "MPO": 6, "GIF": 4}  # bytes per pixel
_MOST_PROFILE = 4 << 20  # bytes of a colour profile: those of presses reach 3 MB
_PNG = b"\x89PNG\r\n\x1a\n"
_PNG_CHUNKS = {b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND", b"acTL", b"fcTL", b"fdAT"}
_UPRIGHT = 1  # the EXIF orientation of a picture that is not turned
# what Pillow raises on broken files: its plugins check little themselves
_FAULTS: tuple[type[Exception], ...] = (
    OSError,
    SyntaxError,
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
)
_FAULTS += (ArithmeticError, RuntimeError, MemoryError, EOFError, struct.error, zlib.error)


@dataclass(frozen=True)
class Opened:
    """An open picture. length: bytes of the file; orientation: 1 to 8, as in EXIF; profile: an ICC
    profile, or nothing.
    """

    image: Image
    path: Path
    length: int
    orientation: int
    profile: bytes

    @property
    def turned(self) -> bool:
        """True where width and height change places."""
        return self.orientation in (5, 6, 7, 8)

    @property
    def many(self) -> bool:
        """True for an animation. The second image inside a photo (MPO) is no frame."""
        return self.image.format != "MPO" and bool(getattr(self.image, "is_animated", False))

    def frames(self) -> int:
        """The number of frames; found without decoding one."""
        return getattr(self.image, "n_frames", 1) if self.many else 1

    def check_room(self, floats: int, frames: int = 1) -> None:
        """Raises unless the pixels fit the allowance, as `floats` numbers each."""
        image = self.image
        stored = len(image.getbands()) if len(image.getbands()) < 3 else 4  # Pillow pads RGB
        buffers = stored + _BUFFERS.get(image.format or "", 0)
        width, height = image.size
        room, most = width * height * (buffers + 4 * floats * frames), allowance(self.length)
        if room > most:
            count = f"{frames} frames of " if frames > 1 else ""
            raise InkstoneError(
                f"{self.path} is {self.length:,} bytes and holds {count}{width}x{height} pixels, "
                f"which take {room >> 20:,} MiB: expected at most {most >> 20:,} MiB for a file "
                f"of this size. Make the picture smaller{' or shorter' if frames > 1 else ''}."
            )


def allowance(size: int) -> int:
    """The bytes that the pixels of a file of `size` bytes may take."""
    return (
        SMALL_ROOM if size <= SMALL_FILE else min(max(SMALL_ROOM, ROOM_PER_BYTE * size), MOST_ROOM)
    )


@contextmanager
def opened(path: Path) -> Iterator[Opened]:
    """The open picture. Every fault of the file, also while it is decoded, is an InkstoneError."""
    from PIL import Image

    path = Path(path)
    try:
        with open_regular(path) as file:
            size, side = path.stat().st_size, _SideData()
            source: BinaryIO = file
            if file.read(8) == _PNG:
                source = _pixels_of_png(file, size, side)
            source.seek(0)
            with Image.open(source, formats=_formats()) as image:
                profile = side.profile or _profile_of(image)
                orientation = _orientation(image, side.exif, path)
                yield Opened(image, path, size, orientation, profile)
    except InkstoneError:
        raise
    except Image.UnidentifiedImageError as error:
        raise InkstoneError(
            f"{path} cannot be read as a picture: it is none of "
            f"{', '.join(_formats())}. Save it again as PNG or JPEG."
        ) from error
    except Image.DecompressionBombError as error:
        raise _unreadable(path, error) from error
    except _FAULTS as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: Exception) -> InkstoneError:
    system = error.strerror if isinstance(error, OSError) else None
    reason = (system or str(error)).rstrip(".") or type(error).__name__
    return InkstoneError(
        f"{path} cannot be read as a picture: {reason}. Save it again as PNG or JPEG."
    )


def _formats() -> list[str]:
    """Those of FORMATS that this Pillow reads."""
    from PIL import (
        BmpImagePlugin,
        GifImagePlugin,
        Image,
        JpegImagePlugin,
        MpoImagePlugin,
        PngImagePlugin,
        TiffImagePlugin,
        WebPImagePlugin,
    )

    assert BmpImagePlugin and GifImagePlugin and JpegImagePlugin and MpoImagePlugin
    assert PngImagePlugin and TiffImagePlugin and WebPImagePlugin
    try:
        from PIL import AvifImagePlugin  # from Pillow 11.3

        assert AvifImagePlugin
    except ImportError:
        pass
    return [name for name in FORMATS if name in Image.OPEN]


@dataclass
class _SideData:
    """What a PNG holds beside its pixels."""

    exif: bytes = b""
    profile: bytes = b""


def _pixels_of_png(file: BinaryIO, size: int, side: _SideData) -> BinaryIO:
    """The PNG without its side data, which goes into `side`."""
    kept, place = io.BytesIO(), len(_PNG)
    kept.write(_PNG)
    while place + 8 <= size:
        file.seek(place)
        head = file.read(8)
        if len(head) < 8:
            break
        length, kind = struct.unpack(">I4s", head)
        if kind in _PNG_CHUNKS or not kind[0] & 0x20:  # critical: Pillow judges
            kept.write(head + file.read(min(length + 4, size)))
        elif kind == b"eXIf" and length <= _MOST_PROFILE:
            side.exif = file.read(length)
        elif kind == b"iCCP" and length <= _MOST_PROFILE:
            side.profile = _inflated(file.read(length).partition(b"\0")[2][1:])
        place += length + 12
        if kind == b"IEND":
            break
    return kept


def _inflated(data: bytes) -> bytes:
    """A packed colour profile; b"?" where it is broken or too large, which no profile is."""
    try:
        unpack = zlib.decompressobj()
        profile = unpack.decompress(data, _MOST_PROFILE)
    except zlib.error:
        return b"?"
    return b"?" if unpack.unconsumed_tail else profile


def _profile_of(image: Image) -> bytes:
    profile = image.info.get("icc_profile")
    return profile if isinstance(profile, bytes) else b""


def _orientation(image: Image, exif: bytes, path: Path) -> int:
    """As the EXIF says, else upright: a broken block must not stop a picture."""
    from PIL import ExifTags
    from PIL import Image as images

    try:
        block = images.Exif()
        if image.format == "PNG":  # its getexif would decode the pixels
            block.load(exif)
        else:
            block = image.getexif()
        value = block.get(ExifTags.Base.Orientation, _UPRIGHT)
    except _FAULTS as error:
        log.info("%s: its EXIF block is broken and is skipped: %s", path.name, error)
        return _UPRIGHT
    return value if isinstance(value, int) and 1 <= value <= 8 else _UPRIGHT
