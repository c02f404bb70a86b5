"""The output folder of a queue: a job is done when its record is in the journal, never before.

Files of a job are made in the folder `.work`, synced to the disk, moved to their places, and then
one line with all about them is added to `results.jsonl`, synced too. Killed anywhere between, the
job runs again and its files take the same names. A last line that was cut off is taken away. A
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
from typing import Any

from filelock import FileLock, Timeout

from ...errors import CallError, InkstoneError
from ...files.atomic import move_into_place, sync
from .jobs import Job

log = logging.getLogger(__name__)

JOURNAL, WORK, LOCK = "results.jsonl", ".work", ".lock"
PID = ".lock.pid"  # the process that has the lock: filelock may truncate the lock file itself
DONE, FAILED = "done", "failed"
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
        self._lock = FileLock(folder / LOCK, timeout=0, thread_local=False)
        self._records: dict[str, dict] = {}  # name -> what is asked of its last record

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
        sync(self.folder)
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
            self._lock.acquire()
        except Timeout:
            raise CallError(
                f"{self.folder}: another run works there now (process {self._holder()}). Wait for "
                "it, or choose another --output."
            ) from None
        (self.folder / PID).write_text(str(os.getpid()))

    def _holder(self) -> str:
        """The process that has the lock, as far as it has said so yet."""
        try:
            return (self.folder / PID).read_text().strip() or "unknown"
        except OSError:
            return "unknown"
