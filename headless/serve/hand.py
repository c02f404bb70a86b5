"""What draws the jobs of a server: a worker in this process, or what a cluster has instead.

The desk gives each hand a thread, so that as many jobs are at work as there are hands.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

from ..draw.request import DrawCall
from ..queue.jobs import Job
from ..queue.journal import Outcome
from ..queue.worker import Places, Worker
from .tickets import Ticket


class Hand(Protocol):
    """Does one job at a time. stop: set by the desk while a job is at work: it is given up."""

    stop: threading.Event

    def open(self, default: DrawCall) -> None:
        """Gets ready, with the models of a call. Raises InkstoneError."""

    def run(self, job: Job, ticket: Ticket) -> Outcome:
        """The job's outcome, its files below the folder for work; steps and previews go to its
        ticket. A fault of the job is an outcome too. Raises KeyboardInterrupt once `stop` is set,
        InkstoneError where the disk fails.
        """

    def close(self) -> None:
        """Lets go of all that it holds."""


Hands = Callable[[Path, Places], Sequence[Hand]]
"""(folder for work, folders of graphs) -> the hands of a server."""


class LocalHand:
    """A worker in this process, which keeps its models from job to job."""

    def __init__(self, work: Path, places: Places) -> None:
        self.stop = threading.Event()
        self._ticket: Ticket | None = None
        self._worker = Worker(work, places, self.stop, self._on_step)

    def open(self, default: DrawCall) -> None:
        """Opens the models; their weights are read when they are used."""
        self._worker.drawer.load(default)

    def run(self, job: Job, ticket: Ticket) -> Outcome:
        """As Hand says."""
        self._ticket, self._worker.drawer.on_preview = ticket, ticket.on_preview
        try:
            return self._worker.run(job)
        finally:
            self._ticket, self._worker.drawer.on_preview = None, None

    def close(self) -> None:
        """Frees its models."""
        self._worker.drawer.clear()

    def _on_step(self, job: Job, done: int, of: int) -> None:
        if self._ticket is not None:
            self._ticket.on_step(done, of)


def one_here(work: Path, places: Places) -> Sequence[Hand]:
    """One hand, in this process."""
    return [LocalHand(work, places)]
