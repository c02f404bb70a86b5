"""Files that are written whole or not at all."""

from __future__ import annotations

import errno
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from ..errors import InkstoneError
from .paths import kind_of, path_fault

_STEM = 40  # characters of a name that its temporary file repeats: names have a limit of 255 bytes


@contextmanager
def atomic(path: Path) -> Iterator[BinaryIO]:
    """Like `replacement`, with the data synced to the disk; InkstoneError where writing fails."""
    try:
        with replacement(path, sync=True) as file:
            yield file
    except OSError as error:
        raise InkstoneError(
            f"{path}: cannot be written: {error.strerror}. Check the folder and the free space; "
            "nothing was changed."
        ) from error


@contextmanager
def replacement(path: Path, *, sync: bool = False, new: bool = False) -> Iterator[BinaryIO]:
    """A temporary file in the same folder that gets the name `path` once the block has succeeded.

    `sync`: the data is on the disk before that. `new`: FileExistsError where the name is taken;
    otherwise the old file is replaced, and nothing but a file. Raises OSError.
    """
    if (found := kind_of(path)) not in ("", "a file"):
        raise OSError(errno.EINVAL, f"it is {found}, expected a file")
    if (fault := path_fault(str(path))) is not None or not path.name:
        raise OSError(errno.EINVAL, f"the name {fault or 'is empty'}")
    temporary = path.with_name(f".{path.stem[:_STEM]}.{secrets.token_hex(4)}.tmp")
    try:
        with open(temporary, "xb") as file:
            yield file
            file.flush()
            if sync:
                os.fsync(file.fileno())
        move_into_place(temporary, path, new=new)
    finally:
        temporary.unlink(missing_ok=True)


def move_into_place(temporary: Path, path: Path, *, new: bool = False) -> None:
    """Gives a finished file its name in one step; with `new`, FileExistsError where it is taken."""
    if new:
        try:
            return os.link(temporary, path)
        except FileExistsError:
            raise
        except OSError:  # a file system without links: this check is the best it offers
            if path.exists():
                raise FileExistsError(path) from None
    os.replace(temporary, path)


def sync(path: Path) -> None:
    """Waits until the content of a file, or the list of names of a folder, is on the disk."""
    if os.name == "nt" and path.is_dir():
        return  # Windows opens no folders
    handle = os.open(path, os.O_RDWR if path.is_file() and os.name == "nt" else os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_text(path: Path, text: str) -> None:
    """Writes a text file atomically, as UTF-8; half a character as its escape, \\ud800, which JSON
    reads back.
    """
    with atomic(path) as file:
        file.write(text.encode("utf-8", "backslashreplace"))
