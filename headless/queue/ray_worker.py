"""A worker of a queue in a process of Ray: runs jobs and sends their files back."""

from __future__ import annotations

import logging
import os
import shutil
import socket
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path

from ..node_types import Json
from .jobs import Job
from .worker import Places, Worker

_FOLDER = "inkstone-batch-"  # and the id of the process that works in it


class WarningLog(logging.Handler):
    """Collects warnings, for the driver to print."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self._lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Add a warning."""
        self._lines.append(record.getMessage())

    def drain(self) -> list[str]:
        """The lines since the last call."""
        lines, self._lines = self._lines, []
        return lines


class RayWorker:
    """The actor: one per worker."""

    def __init__(self, number: int, places: Places) -> None:
        _clean_up()
        folder = Path(tempfile.mkdtemp(prefix=f"{_FOLDER}{os.getpid()}-"))
        self._folder, self._number = folder, number
        self._worker = Worker(folder / "work", places, threading.Event())
        self._warnings = WarningLog()
        logging.getLogger(__name__.partition(".")[0]).addHandler(self._warnings)

    def ready(self) -> str:
        """The host and process of this worker; returns once it can take jobs."""
        return f"{socket.gethostname()}, process {os.getpid()}"

    def run(self, job: Job, ahead: Sequence[Job]) -> tuple[str, dict[str, Json], dict[str, bytes]]:
        """(status, facts, files by relative name); the prompts of `ahead` are encoded first."""
        self._worker.ahead(ahead)
        outcome = self._worker.run(job)
        work = self._worker.work
        files = {path.relative_to(work).as_posix(): path.read_bytes() for path in outcome.files}
        place = {
            "worker": str(self._number),
            "host": socket.gethostname(),
            "process": os.getpid(),
            "warnings": self._warnings.drain(),
        }
        return outcome.status, outcome.facts | place, files

    def close(self) -> None:
        """Delete its folder."""
        shutil.rmtree(self._folder, ignore_errors=True)


def _clean_up() -> None:
    """Delete the folders of killed workers on this machine."""
    if not Path("/proc/self").exists():
        return  # only Linux has a simple way to see which processes are alive
    for folder in Path(tempfile.gettempdir()).glob(f"{_FOLDER}*"):
        owner = folder.name.removeprefix(_FOLDER).partition("-")[0]
        if owner.isdecimal() and not Path("/proc", owner).exists():
            shutil.rmtree(folder, ignore_errors=True)
