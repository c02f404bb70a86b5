"""A large file that is written in pieces, survives being killed, and appears only when complete.

Beside OUT lie a partial file of the final size and a journal: its first line says what is being
made, every further line how many pieces are on the disk. The same call goes on behind the last of
them; partial files of anything else are thrown away.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import time
from collections.abc import Mapping
from pathlib import Path

from ..errors import InkstoneError

try:
    import fcntl
except ImportError:  # Windows: two runs of one file are not kept apart
    fcntl = None

log = logging.getLogger(__name__)

_SYNC_SECONDS = 2.0  # between two lines of the journal, each after all data is on the disk
_ROOM = 16 << 20  # bytes that must stay free


class PartialFile:
    """A context: `done` pieces are there already; write, tell `finished(n)`, then `complete`."""

    def __init__(self, out: Path, size: int, identity: Mapping[str, object]) -> None:
        self.out, self.size = out, size
        self.path = out.with_name(f".{out.name}.part")
        self.journal = out.with_name(f".{out.name}.part.journal")
        said = json.dumps({**identity, "bytes": size}, sort_keys=True)
        self._head = hashlib.sha256(said.encode()).hexdigest()
        self.done, self._told = 0, 0.0

    def __enter__(self) -> PartialFile:
        try:
            self._file = open(self.path, "r+b" if self.path.exists() else "w+b", buffering=0)
            self._lock()
            self.done = self._resumable()
            self._make_room()
            mode = "a" if self.done else "w"
            self._lines = open(self.journal, mode, encoding="ascii")
            if not self.done:
                self._file.truncate(0)
                self._file.truncate(self.size)
                self._say(self._head)
        except OSError as error:
            raise self._unwritable(error) from None
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
        if hasattr(self, "_lines"):
            self._lines.close()

    def write(self, at: int, data: memoryview | bytes) -> None:
        """Puts bytes at their place."""
        try:
            self._file.seek(at)
            view = memoryview(data).cast("B") if len(data) else memoryview(b"")
            while len(view):
                view = view[self._file.write(view) :]
        except OSError as error:
            raise self._unwritable(error) from None

    def finished(self, count: int) -> None:
        """The first `count` pieces are written; noted when they are on the disk."""
        if time.monotonic() - self._told < _SYNC_SECONDS:
            return
        try:
            os.fsync(self._file.fileno())
            self._say(str(count))
        except OSError as error:
            raise self._unwritable(error) from None
        self._told = time.monotonic()

    def complete(self) -> None:
        """All is written: the file takes its name, the journal goes."""
        try:
            os.fsync(self._file.fileno())
            self._file.close()
            os.replace(self.path, self.out)
            self._lines.close()
            self.journal.unlink(missing_ok=True)
        except OSError as error:
            raise self._unwritable(error) from None

    def discard(self) -> None:
        """Nothing of it stays."""
        self._file.close()
        self._lines.close()
        self.path.unlink(missing_ok=True)
        self.journal.unlink(missing_ok=True)

    def _say(self, line: str) -> None:
        self._lines.write(line + "\n")
        self._lines.flush()
        os.fsync(self._lines.fileno())

    def _lock(self) -> None:
        if fcntl is None:
            return
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._file.close()
            raise InkstoneError(
                f"{self.out}: another run is writing this file now. Wait for it, "
                "or choose another name."
            ) from None

    def _resumable(self) -> int:
        """Pieces of this very file that an earlier run left; a line cut by a crash counts not."""
        if not self.journal.exists() or os.fstat(self._file.fileno()).st_size != self.size:
            return 0
        text = self.journal.read_text(encoding="ascii", errors="replace")
        lines = text.split("\n")[:-1]
        if not lines or lines[0] != self._head:
            log.info(
                "%s: what an earlier run left is of another model or type: begun again",
                self.out.name,
            )
            return 0
        counts = [int(line) for line in lines[1:] if line.isdecimal()]
        return max(counts, default=0)

    def _make_room(self) -> None:
        """Refuses before the work where the disk cannot hold the result."""
        held = os.fstat(self._file.fileno()).st_blocks * 512 if hasattr(os, "statvfs") else 0
        free = shutil.disk_usage(self.out.parent).free + held
        if free < self.size + _ROOM:
            self._file.close()
            if not self.done:
                self.path.unlink(missing_ok=True)
            raise InkstoneError(
                f"{self.out}: needs {self.size / 1e9:.2f} GB, {free / 1e9:.2f} GB are free in "
                f"{self.out.parent}. Free some space, or choose another disk or a smaller type."
            )

    def _unwritable(self, error: OSError) -> InkstoneError:
        return InkstoneError(
            f"{self.out}: cannot be written: {error.strerror}. Check the folder and the free "
            "space; the same call goes on where this one stopped."
        )
