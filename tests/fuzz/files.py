"""The files that targets write their input to, and inputs that are several files in one."""

from __future__ import annotations

import atexit
import functools
import shutil
import tempfile
from pathlib import Path

MARK = b"\n--- next file ---\n"


@functools.lru_cache(maxsize=1)
def folder() -> Path:
    """A folder of this process, removed at its end."""
    made = Path(tempfile.mkdtemp(prefix="inkstone-fuzz-"))
    atexit.register(shutil.rmtree, made, ignore_errors=True)
    return made


def written(name: str, data: bytes) -> Path:
    """A file with these bytes; folders in its name are made."""
    path = folder() / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def emptied(name: str) -> Path:
    """An empty folder."""
    path = folder() / name
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir(parents=True)
    return path


def joined(*parts: bytes) -> bytes:
    """One input from several files."""
    return MARK.join(parts)


def split(data: bytes, count: int) -> list[bytes]:
    """The files in an input; those that it lacks are empty."""
    parts = data.split(MARK, count - 1)
    return parts + [b""] * (count - len(parts))
