"""The output folder of a queue: a job is done when its record is in the journal, never before.

Files of a job are written into the folder `.work`, synced to the disk and moved into place; then
one line that describes them is appended to `results.jsonl`, synced too. If the process is killed in
between, the job runs again and its files get the same names. A truncated last line is removed. A
lock keeps a second run out of the folder; the system releases it when its process ends.
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

from filelock import FileLock, Timeout

from ...errors import CallError, InkstoneError
from ...files.atomic import move_into_place, sync
from ..node_types import Json
from .jobs import Job

log = logging.getLogger(__name__)

JOURNAL, WORK, LOCK = "results.jsonl", ".work", ".lock"
PID = ".lock.pid"  # the process that has the lock: filelock may truncate the lock file itself
DONE, FAILED = "done", "failed"
_DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.EFBIG)

Record = dict[str, Json]  # one line of the journal


@dataclass
class Outcome:
    """The result of a job. files: below WORK; facts: go into the record."""

    job: Job
    status: str
    files: Sequence[Path] = ()
    facts: dict[str, Json] = field(default_factory=dict)


class FolderFull(InkstoneError):
    """The disk cannot be written to: not the fault of a job."""


def no_room(error: BaseException | None) -> bool:
    """True if a write failed because of the disk, not the job."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in _DISK_ERRORS:
            return True
        error = error.__cause__
    return False


class Results:
    """A context that locks the folder. on_record: called with all records, also of earlier runs."""

    def __init__(
        self, folder: Path, on_record: Callable[[Record], None] = lambda record: None
    ) -> None:
        self.folder, self.work, self._on_record = folder, folder / WORK, on_record
        self._lock = FileLock(folder / LOCK, timeout=0, thread_local=False)
        self._records: dict[str, Record] = {}  # name -> the needed fields of its last record

    def __enter__(self) -> Results:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
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
        (self.folder / PID).unlink(missing_ok=True)
        self._lock.release()

    def is_done(self, job: Job) -> bool:
        """True if its record says so, and neither its line nor its files changed since."""
        return self._status(job) == DONE

    def has_failed(self, job: Job) -> bool:
        """True as is_done, for a job that failed."""
        return self._status(job) == FAILED

    def _status(self, job: Job) -> str | None:
        record = self._records.get(job.name)
        if record is None or record.get("job") != job.key:
            return None
        same = job.content is None or job.content == record.get("content")
        return record.get("status") if same else None

    def commit(self, outcome: Outcome) -> Record:
        """Move the files into place, write the record and return it."""
        job = outcome.job
        with self._writing():
            names = [file.relative_to(self.work) for file in outcome.files]
            for file, name in zip(outcome.files, names):
                sync(file)
                place = self.folder / name
                place.parent.mkdir(parents=True, exist_ok=True)
                move_into_place(file, place)
            for folder in {(self.folder / name).parent for name in names}:
                sync(folder)
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
                f"{self.folder}: cannot be written to: {error.strerror or error}. Make room and "
                "run the same command again: it continues where this one stopped."
            ) from error

    def _append(self, record: Record) -> None:
        """Write one line, on the disk when this returns; on a fault nothing of it stays."""
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

    def _drop(self, names: Iterable[str]) -> None:
        """Delete files of earlier forms of jobs, unless a record still names them."""
        old = set(names)
        if old:
            current = {name for record in self._records.values() for name in record["files"] or ()}
            for name in old - current:
                (self.folder / name).unlink(missing_ok=True)

    def _remember(self, record: Record) -> list[str]:
        """Keep a record; return the files of the one that it replaces."""
        old_files: list[str] = self._records.get(record["id"], {}).get("files") or []
        fields = ("status", "job", "content", "files")
        self._records[record["id"]] = {key: record.get(key) for key in fields}
        self._on_record(record)
        return old_files

    def _open_journal(self) -> None:
        path = self.folder / JOURNAL
        self._journal = open(path, "ab", buffering=0)
        sync(self.folder)
        data = path.read_bytes()
        whole = data.rfind(b"\n") + 1
        if whole < len(data):
            log.info("%s: the last line is incomplete; its job runs again", path)
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
            self._lock.acquire()
        except Timeout:
            raise CallError(
                f"{self.folder}: another run is using this folder (process {self._holder()}). Wait "
                "for it, or choose another --output."
            ) from None
        (self.folder / PID).write_text(str(os.getpid()))

    def _holder(self) -> str:
        """The process that has the lock, if it has written its id."""
        try:
            return (self.folder / PID).read_text().strip() or "unknown"
        except OSError:
            return "unknown"
