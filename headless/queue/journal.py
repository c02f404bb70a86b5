"""The output folder of a queue: a job is done when its record is in the journal, never before.

Files of a job are made in the folder `.work`, synced to the disk, moved to their places, and then
one line with all about them is added to `results.jsonl`, synced too. Killed anywhere between, the
job runs again and its files take the same names. A last line that was cut off is taken away. A
lock keeps a second run out of the folder.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...errors import CallError, InkstoneError
from .jobs import Job

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None
    import msvcrt

log = logging.getLogger(__name__)

JOURNAL, WORK, LOCK = "results.jsonl", ".work", ".lock"
DONE, FAILED = "done", "failed"
_LOCK_AT = 1 << 20  # msvcrt locks bytes: one far behind the text, which others read
_PLACE = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.EFBIG)


@dataclass
class Outcome:
    """What came of a job. `files` lie below WORK; facts go into the record."""

    job: Job
    status: str
    files: Sequence[Path] = ()
    facts: dict[str, Any] = field(default_factory=dict)


class FolderFull(InkstoneError):
    """Nothing more can be written: no job's fault."""


def no_room(error: BaseException | None) -> bool:
    """True where the disk, not the job, is why something was not written."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in _PLACE:
            return True
        error = error.__cause__
    return False


class Results:
    """A context: the folder is ours alone. `seen` gets every record, of earlier runs too."""

    def __init__(self, folder: Path, seen: Callable[[dict], None] = lambda record: None) -> None:
        self.folder, self.work, self._seen = folder, folder / WORK, seen
        self._records: dict[str, dict] = {}  # name -> what is asked of its last record

    def __enter__(self) -> Results:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._lock = open(self.folder / LOCK, "a+", encoding="utf-8")
            self._take_lock()
            shutil.rmtree(self.work, ignore_errors=True)  # of a run that was killed
            self.work.mkdir(exist_ok=True)
            self._open_journal()
        except OSError as error:
            raise CallError(
                f"--output {self.folder}: cannot be written to: {error.strerror or error}. Choose "
                "another folder."
            ) from None
        return self

    def __exit__(self, *_: object) -> None:
        shutil.rmtree(self.work, ignore_errors=True)
        self._journal.close()
        self._lock.close()

    def is_done(self, job: Job) -> bool:
        """Its record says so, and what the job is did not change since."""
        return self._status(job) == DONE

    def has_failed(self, job: Job) -> bool:
        """As is_done, of a job that failed."""
        return self._status(job) == FAILED

    def _status(self, job: Job) -> str | None:
        found = self._records.get(job.name)
        if found is None or found.get("job") != job.key:
            return None
        same = job.content is None or job.content == found.get("content")
        return found.get("status") if same else None

    def commit(self, outcome: Outcome) -> dict:
        """Moves the files to their places and writes the record, which is returned."""
        job = outcome.job
        with self._writing():
            names = [file.relative_to(self.work) for file in outcome.files]
            for file, name in zip(outcome.files, names):
                _sync(file)
                place = self.folder / name
                place.parent.mkdir(parents=True, exist_ok=True)
                os.replace(file, place)
            for folder in {(self.folder / name).parent for name in names}:
                _sync(folder)
            record = {
                "id": job.name,
                "status": outcome.status,
                "files": [n.as_posix() for n in names],
                "job": job.key,
                "content": job.content,
                "line": job.line,
                **outcome.facts,
            }
            self._append(record)
        self._drop(self._remember(record))
        return record

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise FolderFull(
                f"{self.folder}: cannot be written to: {error.strerror or error}. Make room; the "
                "same call goes on where this one stopped."
            ) from error

    def _append(self, record: dict) -> None:
        """One line, on the disk when this returns; where that fails nothing of it stays."""
        line = json.dumps(record, ensure_ascii=False).encode("utf-8", "backslashreplace") + b"\n"
        end = os.fstat(self._journal.fileno()).st_size
        try:
            view = memoryview(line)
            while len(view):
                view = view[self._journal.write(view) :]
            os.fsync(self._journal.fileno())
        except BaseException:
            self._journal.truncate(end)
            raise

    def _drop(self, old: Iterable[str]) -> None:
        """Files of earlier forms of jobs, unless a record has them still."""
        old = set(old)
        if old:
            kept = {name for record in self._records.values() for name in record["files"] or ()}
            for name in old - kept:
                (self.folder / name).unlink(missing_ok=True)

    def _remember(self, record: dict) -> list[str]:
        """The files that the record before it had."""
        before = self._records.get(record["id"], {}).get("files") or []
        kept = ("status", "job", "content", "files")
        self._records[record["id"]] = {key: record.get(key) for key in kept}
        self._seen(record)
        return before

    def _open_journal(self) -> None:
        path = self.folder / JOURNAL
        self._journal = open(path, "ab", buffering=0)
        _sync(self.folder)
        data = path.read_bytes()
        whole = data.rfind(b"\n") + 1
        if whole < len(data):
            log.info("%s: the last line was cut off; its job runs again", path)
            self._journal.truncate(whole)
        old: list[str] = []
        for number, line in enumerate(data[:whole].split(b"\n")[:-1], 1):
            try:
                record = json.loads(line)
                old += self._remember({**record, "id": record["id"], "status": record["status"]})
            except (ValueError, TypeError, KeyError):
                log.warning("%s, line %d: cannot be read; its job runs again", path, number)
        self._drop(old)

    def _take_lock(self) -> None:
        try:
            if fcntl is not None:
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            else:
                self._lock.seek(_LOCK_AT)
                msvcrt.locking(self._lock.fileno(), msvcrt.LK_NBLCK, 1)
        except OSError:
            self._lock.seek(0)
            other = self._lock.read().strip() or "unknown"
            self._lock.close()
            raise CallError(
                f"{self.folder}: another run works there now (process {other}). Wait for it, or "
                "choose another --output."
            ) from None
        self._lock.seek(0)
        self._lock.truncate()
        self._lock.write(f"{os.getpid()}\n")
        self._lock.flush()


def _sync(path: Path) -> None:
    """What is in the file, or in the folder, is on the disk."""
    if os.name == "nt" and path.is_dir():
        return  # Windows opens no folders
    handle = os.open(path, os.O_RDWR if path.is_file() and os.name == "nt" else os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
