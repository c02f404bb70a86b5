"""A large file that is written in chunks, survives a kill, and appears only when it is complete.

Next to OUT lie a partial file of the final size, a journal, and a lock. The first line of the
journal identifies the content, every further line is the number of chunks that are on the disk.
The same call resumes after the last of them; partial files of any other content are discarded.
The lock keeps a second run out; the system releases it when its process ends.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import time
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path

from ..errors import InkstoneError
from .atomic import move_into_place
from .lock import HeldLock, same_file

log = logging.getLogger(__name__)

_SYNC_SECONDS = 2.0  # between two lines of the journal, each after all data is on the disk
_SPARE = 16 << 20  # bytes that must stay free


class PartialFile:
    """A context: the first `done` chunks exist; `write`, `checkpoint(n)`, at the end `complete`."""

    def __init__(
        self, out: Path, size: int, identity: Mapping[str, object], new: bool = False
    ) -> None:
        self.out, self.size, self._new = out, size, new  # new: never replace a file
        self.path = out.with_name(f".{out.name}.part")
        self.journal = out.with_name(f".{out.name}.part.journal")
        self._lock = HeldLock(out.with_name(f".{out.name}.part.lock"))
        content = json.dumps({**identity, "bytes": size}, sort_keys=True)
        self._head = hashlib.sha256(content.encode()).hexdigest()
        self._resources = ExitStack()
        self.done, self._synced = 0, 0.0

    def __enter__(self) -> PartialFile:
        try:
            self._acquire()
            self._open()
        except OSError as error:
            self._resources.close()
            raise self._unwritable(error) from None
        except BaseException:
            self._resources.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._resources.close()

    def write(self, at: int, data: memoryview | bytes) -> None:
        """Writes bytes at an offset."""
        try:
            self._file.seek(at)
            view = memoryview(data).cast("B") if len(data) else memoryview(b"")
            while len(view):
                view = view[self._file.write(view) :]
        except OSError as error:
            raise self._unwritable(error) from None

    def checkpoint(self, count: int) -> None:
        """The first `count` chunks are written; recorded once they are on the disk."""
        if time.monotonic() - self._synced < _SYNC_SECONDS:
            return
        self._require_own()
        try:
            os.fsync(self._file.fileno())
            self._append(str(count))
        except OSError as error:
            raise self._unwritable(error) from None
        self._synced = time.monotonic()

    def complete(self) -> None:
        """All is written: gives the file its name and removes the journal."""
        self._require_own()
        try:
            os.fsync(self._file.fileno())
            self._file.close()
            move_into_place(self.path, self.out, new=self._new)
            self.path.unlink(missing_ok=True)  # another name of the same file, with `new`
            self._lines.close()
            self.journal.unlink(missing_ok=True)
        except OSError as error:
            raise self._unwritable(error) from None

    def discard(self) -> None:
        """Removes the partial file and its journal."""
        self._file.close()
        self._lines.close()
        self.path.unlink(missing_ok=True)
        self.journal.unlink(missing_ok=True)

    def _acquire(self) -> None:
        if not self._lock.acquire():
            raise InkstoneError(
                f"{self.out}: another run is writing this file now. Wait for it, "
                "or choose another name."
            )
        self._resources.callback(self._lock.release, remove=True)

    def _require_own(self) -> None:
        """The partial file and its lock are still those of this run."""
        if self._lock.is_lost or not same_file(self.path, os.fstat(self._file.fileno())):
            raise InkstoneError(
                f"{self.out}: {self.path.name} or its lock was removed or replaced while it was "
                "written, so another run may write to it too. Nothing was finished. Run the same "
                "command again, and leave the files that begin with a dot where they are."
            )

    def _open(self) -> None:
        mode = "r+b" if self.path.exists() else "w+b"
        self._file = self._resources.enter_context(open(self.path, mode, buffering=0))
        self.done = self._resumable()
        self._require_room()
        lines = open(self.journal, "a" if self.done else "w", encoding="ascii")
        self._lines = self._resources.enter_context(lines)
        if not self.done:
            self._file.truncate(0)
            self._file.truncate(self.size)
            self._append(self._head)

    def _append(self, line: str) -> None:
        self._lines.write(line + "\n")
        self._lines.flush()
        os.fsync(self._lines.fileno())

    def _resumable(self) -> int:
        """Chunks of this very file that an earlier run left; a line that a crash cut is ignored."""
        if not self.journal.exists() or os.fstat(self._file.fileno()).st_size != self.size:
            return 0
        text = self.journal.read_text(encoding="ascii", errors="replace")
        lines = text.split("\n")[:-1]
        if not lines or lines[0] != self._head:
            log.info(
                "%s: the partial file of an earlier run is of another model or type: starting over",
                self.out.name,
            )
            return 0
        counts = [int(line) for line in lines[1:] if line.isdecimal()]
        return max(counts, default=0)

    def _require_room(self) -> None:
        """Refuses before the work where the disk cannot hold the result."""
        taken = os.fstat(self._file.fileno()).st_blocks * 512 if hasattr(os, "statvfs") else 0
        free = shutil.disk_usage(self.out.parent).free + taken
        if free < self.size + _SPARE:
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
            "space; the same command resumes where this one stopped."
        )
