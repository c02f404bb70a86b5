"""A worker of a queue in a process of Ray: runs jobs and sends their files back."""

from __future__ import annotations

import logging
import os
import shutil
import socket
import threading
from collections.abc import Sequence

from ..node_types import Json
from .away import WarningLog, files_of, own_folder
from .jobs import Job
from .worker import Places, Worker


class RayWorker:
    """The actor: one per worker."""

    def __init__(self, number: int, places: Places) -> None:
        folder = own_folder()
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
        place = {
            "worker": str(self._number),
            "host": socket.gethostname(),
            "process": os.getpid(),
            "warnings": self._warnings.drain(),
        }
        return outcome.status, outcome.facts | place, files_of(outcome, self._worker.work)

    def close(self) -> None:
        """Delete its folder."""
        shutil.rmtree(self._folder, ignore_errors=True)
