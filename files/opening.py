"""The door of every picture file: what it may be, how large it may become, and what lies beside the
pixels.

- Only the formats of FORMATS are tried, never one that starts another program, and only regular
  files are opened.
- What the pixels take in memory is computed from the header and compared with `allowance`, before
  one is decoded. A still picture of up to MANY pixels is always decoded: a flat one of 4096x4096 is
  50 kB.
- EXIF, colour profile and texts only help: broken or oversized ones are skipped. Of a PNG, Pillow
  sees the chunks of _PNG_CHUNKS alone, because it refuses the whole file for one bad text.
"""

from __future__ import annotations

import io
import logging
import re
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from ..errors import InkstoneError
from . import colour_tags
from .paths import open_regular

if TYPE_CHECKING:
    from PIL.Image import Image

log = logging.getLogger(__name__)

FORMATS = ("PNG", "JPEG", "MPO", "WEBP", "GIF", "BMP", "DIB", "TIFF", "AVIF", "HEIF")
SMALL_FILE = 1 << 20  # bytes: up to here a file may take SMALL_ROOM whatever its size
SMALL_ROOM = 256 << 20  # bytes of pixels: 4096x4096 RGB
MANY = 1 << 24  # pixels that any still picture may have: 4096x4096
ROOM_PER_BYTE = 1024  # of a larger file; photos need below 100
MOST_ROOM = 4 << 30
_BUFFERS = {"WEBP": 12, "AVIF": 12, "HEIF": 12, "JPEG": 6, "MPO": 6, "GIF": 4}  # bytes per pixel
_MOST_PROFILE = 4 << 20  # bytes of a colour profile: those of presses reach 3 MB
_PNG = b"\x89PNG\r\n\x1a\n"
_PNG_CHUNKS = {b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND", b"acTL", b"fcTL", b"fdAT"}
_PNG_SIDE = {b"eXIf", b"iCCP", b"cICP", b"sRGB", b"gAMA", b"cHRM"}
_PNG_TEXTS = {b"tEXt", b"zTXt", b"iTXt"}
_XMP_TEXT, _EXIF_TEXT = b"XML:com.adobe.xmp", b"Raw profile type exif"
_TEXTS = {_XMP_TEXT, _EXIF_TEXT}
_LONGEST_KEY = 80  # bytes of a text's key and the zero behind it
_XMP_ORIENTATION = re.compile(rb'tiff:Orientation(?:="|>)([0-9])')
_INTEROP_INDEX, _INTEROP_ADOBE = 1, "R03"
_HEAD = 1 << 16  # bytes in which the boxes of an AVIF or HEIC are
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
    profile, or nothing; colours: the name of other colours than sRGB (colour_tags.py), or nothing.
    """

    image: Image
    path: Path
    length: int
    orientation: int
    profile: bytes
    colours: str = ""

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
        if room > most and (self.many or width * height > MANY):
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
            else:
                file.seek(0)
                side.colours = colour_tags.from_boxes(file.read(_HEAD))
            source.seek(0)
            with Image.open(source, formats=_formats()) as image:
                profile = side.profile or _profile_of(image)
                orientation = _orientation(image, side, path)
                yield Opened(image, path, size, orientation, profile, side.colours)
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
    if isinstance(error, MemoryError):
        return InkstoneError(
            f"{path} cannot be read as a picture: more memory was asked for than there is. Close "
            "other programs or make the picture smaller; where that does not help, the file is "
            "damaged: save it again as PNG or JPEG."
        )
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
    """What a file holds beside its pixels; of a PNG all of it, of others what Pillow leaves out."""

    exif: bytes = b""
    xmp: bytes = b""
    profile: bytes = b""
    colours: str = ""


def _pixels_of_png(file: BinaryIO, size: int, side: _SideData) -> BinaryIO:
    """The PNG without its side data, which goes into `side`; the first chunk of a kind counts."""
    kept, place = io.BytesIO(), len(_PNG)
    chunks: dict[bytes, bytes] = {}
    kept.write(_PNG)
    while place + 8 <= size:
        file.seek(place)
        head = file.read(8)
        if len(head) < 8:
            break
        length, kind = struct.unpack(">I4s", head)
        if kind in _PNG_CHUNKS or not kind[0] & 0x20:  # critical: Pillow judges
            kept.write(head + file.read(min(length + 4, size)))
        elif kind in _PNG_TEXTS and length <= _MOST_PROFILE:
            start = file.read(min(length, _LONGEST_KEY)).partition(b"\0")[0]
            if start in _TEXTS and start not in chunks:
                file.seek(place + 8)
                chunks[start] = kind + file.read(length)
        elif kind in _PNG_SIDE and length <= _MOST_PROFILE and kind not in chunks:
            chunks[kind] = file.read(length)
        place += length + 12
        if kind == b"IEND":
            break
    _understand(chunks, side)
    return kept


def _understand(chunks: dict[bytes, bytes], side: _SideData) -> None:
    """Chunks and texts of a PNG -> its side data. The order of precedence is PNG's."""
    side.exif = chunks.get(b"eXIf", b"") or _exif_of_text(_text(chunks.get(_EXIF_TEXT, b"")))
    side.xmp = _text(chunks.get(_XMP_TEXT, b""))
    side.profile = _inflated(chunks.get(b"iCCP", b"").partition(b"\0")[2][1:])
    side.colours = colour_tags.from_cicp(chunks.get(b"cICP", b""))
    if not {b"cICP", b"iCCP", b"sRGB"} & set(chunks):
        gamma = colour_tags.from_gamma(chunks.get(b"gAMA", b""))
        side.colours = colour_tags.from_chromaticities(chunks.get(b"cHRM", b"")) or gamma


def _text(chunk: bytes) -> bytes:
    """The text of a tEXt, zTXt or iTXt chunk that begins with its kind; nothing where broken."""
    kind, (_, _, rest) = chunk[:4], chunk[4:].partition(b"\0")
    if kind == b"iTXt":
        packed, rest = rest[:1] == b"\1", rest[2:].partition(b"\0")[2].partition(b"\0")[2]
    else:
        packed, rest = kind == b"zTXt", rest[kind == b"zTXt" :]
    return _inflated(rest) if packed else rest


def _exif_of_text(text: bytes) -> bytes:
    """EXIF that ImageMagick writes as hexadecimal digits behind three lines."""
    try:
        return bytes.fromhex(b"".join(text.split(b"\n")[3:]).decode("ascii"))
    except ValueError:
        return b""


def _inflated(data: bytes) -> bytes:
    """A packed profile or text; b"?" where it is broken or too large, which none of them is."""
    if not data:
        return b""
    try:
        unpack = zlib.decompressobj()
        profile = unpack.decompress(data, _MOST_PROFILE)
    except zlib.error:
        return b"?"
    return b"?" if unpack.unconsumed_tail else profile


def _profile_of(image: Image) -> bytes:
    profile = image.info.get("icc_profile")
    return profile if isinstance(profile, bytes) else b""


def _orientation(image: Image, side: _SideData, path: Path) -> int:
    """As the EXIF says, or else the XMP, else upright: a broken block must not stop a picture. Also
    notes a camera's Adobe RGB.
    """
    from PIL import ExifTags
    from PIL import Image as images

    value: object = None
    try:
        block = images.Exif()
        if image.format == "PNG":  # its getexif would decode the pixels
            block.load(side.exif)
        else:
            block = image.getexif()
        value = block.get(ExifTags.Base.Orientation)
        # Pillow before 13 raises where there is none
        interop = ExifTags.IFD.Interop in block.get_ifd(ExifTags.IFD.Exif)
        if interop and block.get_ifd(ExifTags.IFD.Interop).get(_INTEROP_INDEX) == _INTEROP_ADOBE:
            side.colours = side.colours or colour_tags.ADOBE
    except _FAULTS as error:
        log.info("%s: its EXIF block is broken and is skipped: %s", path.name, error)
    if value is None and (turned := _XMP_ORIENTATION.search(side.xmp)):
        value = int(turned[1])
    return value if isinstance(value, int) and 1 <= value <= 8 else _UPRIGHT
