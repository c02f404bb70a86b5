"""A hand whose jobs are drawn elsewhere: on a replica of a cluster, which may be lost.

It knows no Ray: what sends parcels is `Replicas` (ray_replicas.py).
"""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from ....errors import InkstoneError
from ...draw.request import DrawCall
from ...queue.away import write_files
from ...queue.jobs import Job
from ...queue.journal import FAILED, Outcome
from ...queue.worker import Places
from ..desk.tickets import CANCELLED, Ticket
from .parcel import Finished, Parcel, Progress, pack

log = logging.getLogger(__name__)

_POLL = 0.1  # seconds between two looks at the stop switch


class Lost(InkstoneError):
    """A replica has gone with its job; the job can be done by another."""


class Response(Protocol):
    """What a replica answers: progress, then what became of the job. Iterating raises Lost."""

    def __iter__(self) -> Iterator[Progress | Finished]: ...

    def cancel(self) -> None:
        """Ends the job there."""


class Replicas(Protocol):
    """The replicas of a server."""

    def open(self, default: DrawCall) -> None:
        """Starts them, once. Raises InkstoneError."""

    def running(self) -> int:
        """How many can draw now."""

    def send(self, parcel: Parcel) -> Response:
        """Gives a job to one of them, as soon as one is free. Raises Lost."""

    def close(self) -> None:
        """Ends them, once."""


class RayHand:
    """One of as many hands as there are replicas at most. number: from 0; retries: of a job whose
    replica was lost.
    """

    def __init__(
        self, replicas: Replicas, number: int, retries: int, work: Path, places: Places
    ) -> None:
        self.stop = threading.Event()
        self._replicas, self._number, self._retries = replicas, number, retries
        self._work, self._inputs = work, places.input

    @property
    def able(self) -> bool:
        """True while there is a replica for it."""
        return self._number < self._replicas.running()

    def open(self, default: DrawCall) -> None:
        """As Hand says."""
        self._replicas.open(default)

    def run(self, job: Job, ticket: Ticket) -> Outcome:
        """As Hand says; a job whose replica is lost is sent again."""
        try:
            parcel = pack(job, self._inputs)
        except OSError as error:
            reason = f"What came with the job cannot be read: {error.strerror or error}."
            return Outcome(job, FAILED, (), {"error": reason})
        while True:
            ticket.attempts += 1
            try:
                end = self._attempt(parcel, ticket)
            except Lost as error:
                if ticket.attempts > self._retries:
                    log.error("a replica is lost with its job, which has failed: %s", error)
                    return Outcome(job, FAILED, (), {"error": _lost(ticket.attempts)})
                log.warning("a replica is lost with its job, which is tried again: %s", error)
                ticket.on_step(0, ticket.steps)
                continue
            return Outcome(job, end.status, write_files(end.files, self._work), end.facts)

    def close(self) -> None:
        """As Hand says."""
        self._replicas.close()

    def _attempt(self, parcel: Parcel, ticket: Ticket) -> Finished:
        """What became of a job that was sent once. Raises Lost, KeyboardInterrupt."""
        response = self._replicas.send(parcel)
        news: queue.SimpleQueue[Progress | Finished | Exception] = queue.SimpleQueue()
        name = threading.current_thread().name
        pull = threading.Thread(target=_pull, args=(response, news), name=name, daemon=True)
        pull.start()
        while True:
            if self.stop.is_set():
                response.cancel()
                raise KeyboardInterrupt
            try:
                item = news.get(timeout=_POLL)
            except queue.Empty:
                continue
            if isinstance(item, Exception):
                raise item
            if isinstance(item, Finished):
                if item.status == CANCELLED:  # by a replica that ends, not by us
                    raise Lost("the replica has stopped")
                return item
            if item.preview is not None:
                ticket.show(item.preview)
            ticket.on_step(item.step, item.steps)


def _pull(response: Response, news: queue.SimpleQueue[Progress | Finished | Exception]) -> None:
    """Passes on what comes, so that its hand can look at the stop switch meanwhile."""
    try:
        for item in response:
            news.put(item)
        news.put(Lost("the replica ended its answer early"))
    except Exception as error:
        news.put(error)


def _lost(times: int) -> str:
    tries = "once" if times == 1 else f"{times} times"
    return (
        f"The machine that drew this job was lost {tries}. Send it again; if that happens again, "
        "make the picture smaller: it may take more memory than there is."
    )
