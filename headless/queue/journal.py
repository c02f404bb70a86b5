"""The output folder of a queue: a job is done when its record is in the journal, never before.

Files of a job are written into the folder `.work`, synced to the disk and moved into place; then
one line that describes them is appended to `results.jsonl`, synced too. If the process is killed in
between, the job runs again and its files get the same names. A truncated last line is removed. A
lock keeps a second run out of the folder; the system releases it when its process ends. A folder,
journal or lock that somebody removed or replaced ends the run: nothing goes into another's folder.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from io import FileIO
from pathlib import Path

from ...errors import CallError, InkstoneError
from ...files.atomic import move_into_place, replacement, sync
from ...files.json_text import parse_json
from ...files.lock import HeldLock, same_file
from ...files.paths import below, kind_of
from ..node_types import Json
from .jobs import Job
from .metrics import LINES

log = logging.getLogger(__name__)

JOURNAL, WORK, LOCK = "results.jsonl", ".work", ".lock"
PID = ".lock.pid"  # the process that has the lock: filelock may truncate the lock file itself
DONE, FAILED = "done", "failed"
GOES_ON = (
    "Make sure that it is there, can be written to and has room, and run the same command again: "
    "it continues where this one stopped."
)
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG)  # only writes fail so

# files of a job: ID.png, ID_2.png, ID.safetensors, or what its graph wrote in the folder ID
_OF_A_JOB = re.compile(
    r"(?P<folder>[^/\\]+)/.+|(?P<stem>(?P<first>[^/\\]+?)(_\d+)?)\.(png|safetensors)", re.DOTALL
)

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

    @classmethod
    def of(cls, folder: Path, error: OSError) -> FolderFull:
        """With the reason of a failed write."""
        return cls(f"{folder}: cannot be written to: {error.strerror or error}. {GOES_ON}")


class FolderLost(InkstoneError):
    """The folder, its journal or its lock is not that of this run any more."""


def no_room(error: BaseException | None) -> bool:
    """True if a write failed because of the disk, not the job."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in _FULL:
            return True
        error = error.__cause__
    return False


class Results:
    """A context that locks the folder. on_record: called with all records, also of earlier runs."""

    def __init__(
        self, folder: Path, on_record: Callable[[Record], None] = lambda record: None
    ) -> None:
        self.folder, self.work, self._on_record = folder, folder / WORK, on_record
        self._lock = HeldLock(folder / LOCK)
        self._end = self.lines = 0  # bytes of the journal; its lines
        self._journal: FileIO
        self._records: dict[str, Record] = {}  # name -> the needed fields of its last record

    def __enter__(self) -> Results:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._check_own_files()
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
        if self.lost() is None:
            (self.folder / PID).unlink(missing_ok=True)
        if not self._lock.is_lost or not (self.folder / LOCK).exists():  # else of another run
            shutil.rmtree(self.work, ignore_errors=True)
        self._journal.close()
        self._lock.release()

    def lost(self) -> str | None:
        """The reason why this run has lost its folder; None while it is intact."""
        path, stat = self.folder / JOURNAL, os.fstat(self._journal.fileno())
        if not self.folder.exists():
            return "the folder was removed or renamed"
        if not same_file(path, stat):
            return f"the folder or its {JOURNAL} was removed or replaced"
        if stat.st_size != self._end:
            return f"another program wrote to {JOURNAL}"
        return f"its lock, the file {LOCK}, was removed or replaced" if self._lock.is_lost else None

    def require_own(self) -> None:
        """Raises FolderLost where the folder is not that of this run any more."""
        lost = self.lost()
        if lost is not None:
            raise FolderLost(
                f"{self.folder}: {lost} while this queue ran. It stops: results cannot be kept "
                f"there safely. Leave the folder in place and run the same command again: it "
                f"continues after the jobs that {JOURNAL} lists."
            )

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
        self.require_own()
        with self._writing():
            names = [file.relative_to(self.work) for file in outcome.files]
            for file, name in zip(outcome.files, names):
                sync(file)
                place = below(self.folder, name.as_posix())
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
            raise FolderFull.of(self.folder, error) from error

    def _append(self, record: Record) -> None:
        """Write one line, on the disk when this returns; on a fault nothing of it stays."""
        line = json.dumps(record, ensure_ascii=False).encode("utf-8", "backslashreplace") + b"\n"
        end = self._end
        try:
            view = memoryview(line)
            while len(view):
                view = view[self._journal.write(view) :]
            os.fsync(self._journal.fileno())
        except BaseException:
            self._journal.truncate(end)
            raise
        self._end, self.lines = end + len(line), self.lines + 1

    def forget(self, name: str) -> None:
        """Delete the files of a job and what is known of it; its line in the journal stays."""
        self._drop(self._pop(name))

    def compact(self, keep: Callable[[Record], bool]) -> None:
        """Delete the files of jobs whose last record is not wanted, and write the journal without
        them and without what cannot be read. The journal is the old one or the new one whenever
        this is killed. Raises FolderLost, FolderFull.
        """
        self.require_own()
        path = self.folder / JOURNAL
        lines, last = [], {}
        with self._writing():
            for line in path.read_bytes().splitlines(keepends=True):
                try:
                    record = _record(line)
                    last[record["id"]] = record
                except (ValueError, TypeError, KeyError):
                    continue
                lines.append((record["id"], line))
            gone = {name for name, record in last.items() if not keep(record)}
            self._drop(file for name in gone for file in self._pop(name))
            kept = [line for name, line in lines if name not in gone]
            with replacement(path, sync=True) as file:
                file.writelines(kept)
            sync(self.folder)
            self._journal.close()
            self._journal = open(path, "ab", buffering=0)
        self._end, self.lines = sum(map(len, kept)), len(kept)

    def _pop(self, name: str) -> list[str]:
        """Forget a job; its files."""
        record = self._records.pop(name, {})
        return [file for file in record.get("files", ()) if self._is_own(name, file)]

    def _drop(self, names: Iterable[str]) -> None:
        """Delete files of earlier forms of jobs, unless a record still names them."""
        old = set(names)
        if old:
            current = {name for record in self._records.values() for name in record["files"]}
            for name in old - current:
                below(self.folder, name).unlink(missing_ok=True)

    def _remember(self, record: Record) -> list[str]:
        """Keep a record; return the files of the one that it replaces."""
        before = self._records.get(record["id"], {})
        old_files = [name for name in before.get("files", ()) if self._is_own(record["id"], name)]
        files = record.get("files")  # of a folder from somebody else it may be anything
        files = [n for n in files if isinstance(n, str)] if isinstance(files, list) else []
        fields = ("status", "job", "content")
        self._records[record["id"]] = {key: record.get(key) for key in fields} | {"files": files}
        self._on_record(record)
        return old_files

    def _is_own(self, job: str, name: Json) -> bool:
        """True for a file that this job can have written: only such are deleted."""
        match = _OF_A_JOB.fullmatch(name) if isinstance(name, str) else None
        if match is None or job not in (match["folder"], match["stem"], match["first"]):
            log.warning("%s: %r of the job %r is not its file: left alone", JOURNAL, name, job)
            return False
        try:
            return kind_of(below(self.folder, name)) in ("a file", "")
        except InkstoneError as error:
            log.warning("%s: %s It is left alone.", JOURNAL, error)
            return False

    def _check_own_files(self) -> None:
        """Raises CallError where what the queue keeps here is a link or a device: of a folder from
        somebody else it would lead out.
        """
        for name in (JOURNAL, LOCK, PID, LINES, WORK):
            path, kind = self.folder / name, "a folder" if name == WORK else "a file"
            path = self.folder / name
            if path.is_symlink() or kind_of(path) not in (kind, ""):
                raise CallError(
                    f"--output {self.folder}: {name} is a link or no file, expected {kind} of an "
                    "earlier run. Remove it, or choose another folder."
                )

    def _open_journal(self) -> None:
        path = self.folder / JOURNAL
        self._journal = open(path, "ab", buffering=0)
        sync(self.folder)
        data = path.read_bytes()
        whole = data.rfind(b"\n") + 1
        if whole < len(data):
            log.info("%s: the last line is incomplete; its job runs again", path)
            self._journal.truncate(whole)
        self._end, self.lines = whole, data.count(b"\n", 0, whole)
        old: list[str] = []
        for number, line in enumerate(data[:whole].split(b"\n")[:-1], 1):
            try:
                old += self._remember(_record(line))
            except (ValueError, TypeError, KeyError):
                log.warning("%s, line %d: cannot be read; its job runs again", path, number)
        self._drop(old)

    def _take_lock(self) -> None:
        if not self._lock.acquire():
            raise CallError(
                f"{self.folder}: another run is using this folder (process {self._holder()}). Wait "
                "for it, or choose another --output."
            )
        (self.folder / PID).write_text(str(os.getpid()))

    def _holder(self) -> str:
        """The process that has the lock, if it has written its id."""
        try:
            return (self.folder / PID).read_text().strip() or "unknown"
        except OSError:
            return "unknown"


def _record(line: bytes) -> Record:
    """The record of a line. Raises ValueError, TypeError or KeyError where it is none."""
    record = parse_json(line)
    return {**record, "id": record["id"], "status": record["status"]}
