"""A lock file that one process holds; the system releases it when that process ends.

A lock protects what lies next to it only as long as its name leads to it: once somebody removed or
replaced it, another process can hold one of the same name.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from filelock import FileLock, Timeout


class HeldLock:
    """The lock file at a path; only `acquire` creates it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = FileLock(path, timeout=0, thread_local=False)
        self._stat: os.stat_result | None = None  # of the file that is held

    def acquire(self) -> bool:
        """False where another process holds it. Raises OSError."""
        try:
            self._lock.acquire()
        except Timeout:
            return False
        self._stat = os.stat(self._path)
        return True

    @property
    def is_lost(self) -> bool:
        """True where the name leads to no file, or to another one."""
        return self._stat is None or not same_file(self._path, self._stat)

    def release(self, *, remove: bool = False) -> None:
        """Releases it; `remove`: deletes the file too, if it is still this one."""
        if remove and not self.is_lost:
            # while it is held: whoever opened it before sees that its name is gone (filelock)
            with suppress(OSError):  # Windows refuses, and unlinks it on release
                os.unlink(self._path)
        self._lock.release()
        self._stat = None


def same_file(path: Path, stat: os.stat_result) -> bool:
    """True where a path leads to this very file."""
    try:
        return os.path.samestat(os.stat(path), stat)
    except OSError:
        return False
