"""A job of the queue that a server makes, and the time that it may take."""

from __future__ import annotations

import threading
import time
from pathlib import Path

from ...draw.request import DrawCall
from ...queue.jobs import Job
from ...queue.journal import FAILED, Outcome
from .tickets import CANCELLED


class Deadline:
    """A context: sets `stop` once a job has run for so many seconds. began: of time.monotonic;
    None: now.
    """

    def __init__(self, seconds: float, stop: threading.Event, began: float | None = None) -> None:
        began = time.monotonic() if began is None else began
        self._seconds, self._stop, self._late = seconds, stop, False
        self._timer = threading.Timer(max(0.0, began + seconds - time.monotonic()), self._end)
        self._timer.daemon = True

    def _end(self) -> None:
        self._late = True
        self._stop.set()

    def __enter__(self) -> Deadline:
        self._timer.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._timer.cancel()
        self._timer.join()

    def outcome(self, job: Job) -> Outcome:
        """What became of a job that was stopped."""
        if not self._late:
            return Outcome(job, CANCELLED)
        error = (
            f"The job took longer than {self._seconds:g} s, which is this server's limit, and was "
            "stopped. Ask for fewer steps or a smaller picture."
        )
        return Outcome(job, FAILED, (), {"error": error})


def job_named(name: str, call: DrawCall | None = None, graph: Path | None = None) -> Job:
    """A job of the queue; a ticket's id is its key, since no two orders are the same job."""
    return Job(line=0, name=name, key=name, content="", call=call, graph=graph)
