"""PNG files as ComfyUI writes them: numbered names, text chunks, and nothing half-written.

Text chunks are read by walking the file, without decoding pixels; tEXt, zTXt and iTXt are
supported (PNG specification 11.3.3).
"""

from __future__ import annotations

import json
import logging
import os
import re
import struct
import tempfile
import time
import zlib
from collections.abc import Mapping
from io import BufferedReader
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import InkstoneError
from .atomic import replacement
from .paths import below, name_fault, open_regular

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import ArrayLike

log = logging.getLogger(__name__)

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
# comf: as tEXt, what ComfyUI's SaveAnimatedPNG writes
_TEXTS = (b"tEXt", b"zTXt", b"iTXt", b"comf")
_NUMBER = "_00001_.png"  # what follows a prefix
# bytes of all text chunks of a file, unpacked: the largest graphs seen are below 5 MB, and parsed
# JSON takes up to 25 times its length
_MAX_TEXT = 8 << 20
_ROWS = 64  # of a picture that are converted at a time


def save_png(
    path: Path | str,
    array: ArrayLike,
    text_chunks: Mapping[str, str] | None = None,
    new: bool = False,
) -> Path:
    """Writes [H,W], [H,W,1], [H,W,3] or [H,W,4] as a PNG, atomically; returns the path.
    `new`: FileExistsError where the name is taken; otherwise the file is replaced.

    uint8 is written unchanged; floats are 0..1 and are cut (not rounded) to 8 bits, as the core
    does. Raises InkstoneError for a wrong shape, values that are not finite, or a folder that
    refuses.
    """
    import numpy as np
    from PIL import Image
    from PIL.PngImagePlugin import PngInfo

    path = Path(path)
    image = Image.fromarray(_to_bytes(np.asarray(array), path))
    info = PngInfo()
    for key, text in (text_chunks or {}).items():
        info.add_text(key, text)
    ensure_writable(path.parent)
    try:
        with replacement(path, new=new) as file:
            image.save(file, format="PNG", pnginfo=info, compress_level=4)
    except FileExistsError:
        raise
    except OSError as error:
        raise InkstoneError(
            f"Cannot write {path}: {error.strerror or error}. Choose another folder."
        ) from error
    return path


def _to_bytes(array: np.ndarray, path: Path) -> np.ndarray:
    """The pixels as uint8, [H,W] or [H,W,C]."""
    import numpy as np

    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    if (
        array.ndim not in (2, 3)
        or array.size == 0
        or (array.ndim == 3 and array.shape[2] not in (3, 4))
    ):
        raise InkstoneError(
            f"{path.name}: expected a picture [H,W] or [H,W,3 or 4], got {list(array.shape)}."
        )
    if array.dtype == np.uint8:
        return array
    out = np.empty(array.shape, np.uint8)
    for top in range(0, len(array), _ROWS):  # a large picture is not copied whole
        rows = array[top : top + _ROWS]
        if not np.isfinite(rows).all():
            raise InkstoneError(
                f"{path.name} is not saved: the picture holds NaN or infinite values. "
                "The model overflowed: use --dtype float32 or bfloat16."
            )
        out[top : top + _ROWS] = np.clip(rows.astype(np.float32) * 255.0, 0, 255)
    return out


def ensure_writable(folder: Path) -> None:
    """Creates the folder and tests it with a file; InkstoneError names folder and reason."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise InkstoneError(
            f"Cannot write into the folder {folder}: {error.strerror or error}. "
            "Make it writable or choose another one with --output."
        ) from error


def read_text_chunks(path: Path | str) -> dict[str, str]:
    """The text chunks of a PNG by key; InkstoneError where the file is no PNG or is truncated."""
    path = Path(path)
    try:
        with open_regular(path) as file:
            if file.read(8) != _SIGNATURE:
                raise InkstoneError(
                    f"{path} is not a PNG file: expected the PNG signature in its "
                    "first 8 bytes. Name a PNG."
                )
            return dict(_texts(file, path))
    except OSError as error:
        raise InkstoneError(f"Cannot read {path}: {error.strerror or error}.") from error


def _texts(file: BufferedReader, path: Path) -> list[tuple[str, str]]:
    chunks: list[tuple[str, str]] = []
    left = _MAX_TEXT
    while True:
        head = file.read(8)
        if len(head) < 8:
            raise InkstoneError(f"{path} is cut off: the PNG has no end chunk. Copy it again.")
        length, kind = struct.unpack(">I4s", head)
        if kind == b"IEND":
            return chunks
        if kind not in _TEXTS or length > left:
            if kind in _TEXTS:
                log.warning("%s: a text chunk is skipped: %s", path, _too_long())
            file.seek(length + 4, os.SEEK_CUR)
            continue
        data = file.read(length)
        file.seek(4, os.SEEK_CUR)
        key, _, rest = data.partition(b"\0")
        try:
            text = _text(kind, rest, left)
            left -= len(text)
            chunks.append((key.decode("latin-1"), text))
        except (zlib.error, UnicodeDecodeError, IndexError, ValueError) as error:
            log.warning("%s: the text chunk %r cannot be read: %s", path, key[:40], error)


def _text(kind: bytes, rest: bytes, most: int) -> str:
    if kind in (b"tEXt", b"comf"):
        return rest.decode("latin-1")
    if kind == b"zTXt":
        return _inflate(rest[1:], most).decode("latin-1")
    packed, rest = rest[0], rest[2:]  # flag, method, language \0, translated key \0, text
    body = rest.split(b"\0", 2)[2]
    return (_inflate(body, most) if packed else body).decode("utf-8")


def _inflate(data: bytes, most: int) -> bytes:
    inflater = zlib.decompressobj()
    text = inflater.decompress(data, max(most, 1))
    if inflater.unconsumed_tail:
        raise ValueError(_too_long())
    return text


def _too_long() -> str:
    return f"the texts of a picture may hold {_MAX_TEXT >> 20} MiB in all, unpacked"


def numbered_path(folder: Path, prefix: str, width: int, height: int) -> tuple[Path, str, int]:
    """The place of NAME_00001_.png: (full folder, name, next counter) for a prefix like "sub/NAME".

    %width% %height% %year% %month% %day% %hour% %minute% %second% are filled in. The counter is the
    highest in the folder + 1. InkstoneError when the prefix leaves `folder` or names no file.
    """
    now = time.localtime()
    values = {"width": width, "height": height, "year": now.tm_year} | {
        name: f"{value:02d}"
        for name, value in zip(
            ("month", "day", "hour", "minute", "second"),
            (now.tm_mon, now.tm_mday, now.tm_hour, now.tm_min, now.tm_sec),
            strict=True,
        )
    }
    for name, value in values.items():
        prefix = prefix.replace(f"%{name}%", str(value))
    fault = name_fault(prefix) or name_fault(f"{prefix}{_NUMBER}")
    if fault is not None:
        raise InkstoneError(
            f"filename_prefix {prefix[:80]!r} {fault}: expected a name inside the output folder, "
            'such as "picture" or "sub/picture".'
        )
    full = below(folder.resolve(), prefix)
    return full.parent, full.name, _next_counter(full.parent, full.name)


def _next_counter(folder: Path, name: str) -> int:
    pattern = re.compile(re.escape(os.path.normcase(name)) + r"_(\d*)")
    files = os.listdir(folder) if folder.is_dir() else []
    matches = [pattern.match(os.path.normcase(file)) for file in files]
    return max((int(match[1] or 0) for match in matches if match), default=0) + 1


def text_chunks(hidden: object) -> dict[str, str]:
    """Text chunks from a node's hidden values: `prompt`, then one per key of extra_pnginfo."""
    chunks, prompt = {}, getattr(hidden, "prompt", None)
    if prompt is not None:
        chunks["prompt"] = json.dumps(prompt)
    for key, value in (getattr(hidden, "extra_pnginfo", None) or {}).items():
        chunks[key] = json.dumps(value)
    return chunks
