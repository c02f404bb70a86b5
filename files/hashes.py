"""Hashes of the files that an image was made from, as PNGs and graphs record them."""

from __future__ import annotations

import errno
import hashlib
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

from .paths import open_regular
from .stamps import Stamp, stamp_of

_WHOLE_HASH = 1 << 30  # files up to this size are hashed whole, larger ones by their first 16 MiB
_HEAD = 16 << 20
_CHUNK = 1 << 20
_NO_LIMIT = 1 << 62
_LARGEST_PICTURE = 4 << 30  # bytes, as the pixels of one may take: nothing larger is read


def picture_hash(path: Path) -> str:
    """sha256 of the file, as `sha256sum` prints it. A file that did not change since is not read
    again in the same process: thousands of jobs may name one picture.
    """
    try:
        status = path.stat()
    except ValueError:  # a NUL in the name
        raise OSError(errno.EINVAL, "the name has a NUL", str(path)) from None
    if status.st_size > _LARGEST_PICTURE:
        raise OSError(errno.EOVERFLOW, "it is larger than 4 GiB, which no picture is", str(path))
    return _picture_hash(path.absolute(), status.st_ino, stamp_of(status))


@lru_cache(maxsize=4096)
def _picture_hash(path: Path, inode: int, stamp: Stamp) -> str:
    """inode, stamp: of the file that is read."""
    return file_hash(path)


def file_hash(path: Path) -> str:
    """sha256 of a file of any size, as `sha256sum` prints it."""
    digest = hashlib.sha256()
    for chunk in _chunks(path):
        digest.update(chunk)
    return "sha256:" + digest.hexdigest()


def model_hash(path: Path) -> str:
    """sha256 of a weight file; of its first 16 MiB and its size where it is larger than 1 GiB.

    For a folder: of all its weight files in order of name. Files that did not change since are not
    read again in the same process.
    """
    files = [path]
    if path.is_dir() or path.suffix == ".json":
        folder = path if path.is_dir() else path.parent
        files = sorted(f for f in folder.rglob("*") if f.suffix in (".safetensors", ".gguf"))
    return _hash(tuple((file, stamp_of(file.stat())) for file in files))


@lru_cache(maxsize=64)
def _hash(files: tuple[tuple[Path, Stamp], ...]) -> str:
    """files: path, and the file that it is now."""
    digest, whole = hashlib.sha256(), sum(stamp.size for _, stamp in files) <= _WHOLE_HASH
    for file, stamp in files:
        digest.update(str(stamp.size).encode())
        for chunk in _chunks(file, _NO_LIMIT if whole else _HEAD):
            digest.update(chunk)
    return ("sha256:" if whole else "sha256-head:") + digest.hexdigest()


def _chunks(path: Path, limit: int = _NO_LIMIT) -> Iterator[bytes]:
    """The content of a file, or its first `limit` bytes."""
    try:
        with open_regular(path) as file:
            while chunk := file.read(min(_CHUNK, limit)):
                limit -= len(chunk)
                yield chunk
    except OSError as error:  # a read says no name
        raise type(error)(error.errno, error.strerror, str(path)) from None
