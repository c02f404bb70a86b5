"""A queue on Ray: a worker per GPU, each with its own models; the driver keeps the journal.

Workers send the files of their jobs back, so they share no disk with the driver; files that a job
reads (models, pictures, graphs) have the same path on every machine. A lost worker costs its job
one retry, and is replaced as soon as the cluster has room.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from ...errors import InkstoneError
from .away import with_paths, write_files
from .jobs import Job
from .journal import FAILED, Outcome
from .ray_cluster import connect, shares
from .ray_worker import RayWorker
from .share import Share
from .worker import Places

log = logging.getLogger(__name__)

_POLL = 0.2  # seconds between two looks at the stop switch
_MAX_LOST = 5  # workers lost in a row before they were ready: something is wrong with all of them


@dataclass(frozen=True)
class Pool:
    """The cluster's address, the number of workers (None: one per GPU), retries of a job."""

    address: str
    workers: int | None
    retries: int
    places: Places


class _Method(Protocol):
    """A method of an actor: `remote` starts it and returns a reference to its result."""

    def remote(self, *args: object) -> object: ...


class _Actor(Protocol):
    """A RayWorker on the cluster."""

    ready: _Method
    run: _Method
    close: _Method


def on_ray(
    jobs: Sequence[Job], pool: Pool, work: Path, stop: threading.Event
) -> Generator[Outcome]:
    """Outcomes in the order of their arrival; files are below `work`."""
    crew = _Crew(pool, jobs)
    try:
        while crew.is_busy:
            for outcome, files in crew.arrivals():
                yield replace(outcome, files=write_files(files, work))
            if stop.is_set():
                raise KeyboardInterrupt
    finally:
        crew.close()


class _Crew:
    """The workers of a run and their current jobs."""

    def __init__(self, pool: Pool, jobs: Sequence[Job]) -> None:
        self._ray, self._connected_here = connect(pool.address, pool.workers)
        self._pool = pool
        self._count, self._needs = shares(self._ray, pool.workers, pool.places.device)
        self._share = Share([with_paths(job, Path.absolute) for job in jobs], self._count)
        self._losses: dict[str, int] = {}  # job -> workers lost with it
        self._actors: list[_Actor | None] = [None] * self._count
        self._lost_in_a_row = 0
        self._running: dict[object, tuple[int, Job | None]] = {}  # None: it is starting
        for number in range(min(self._count, len(jobs))):
            self._start(number)

    @property
    def is_busy(self) -> bool:
        """True while jobs wait or run."""
        return bool(self._share) or any(job for _, job in self._running.values())

    def arrivals(self) -> list[tuple[Outcome, dict[str, bytes]]]:
        """Outcomes and files since the last call; waits a moment."""
        ready, _ = self._ray.wait(list(self._running), num_returns=1, timeout=_POLL)
        return [arrival for ref in ready if (arrival := self._arrival(ref))]

    def _start(self, number: int) -> None:
        places = self._pool.places
        absolute = replace(places, models=places.models.absolute(), input=places.input.absolute())
        actor: _Actor = self._ray.remote(**self._needs)(RayWorker).remote(number, absolute)
        self._actors[number] = actor
        self._running[actor.ready.remote()] = number, None

    def _arrival(self, ref: object) -> tuple[Outcome, dict[str, bytes]] | None:
        number, job = self._running.pop(ref)
        try:
            result = self._ray.get(ref)
        except self._ray.exceptions.RayTaskError as error:
            raise InkstoneError(
                f"A Ray worker failed, and not because of its job: {error.cause}. Run the same "
                "call again: it continues where this one stopped."
            ) from None
        except self._ray.exceptions.RayError as error:
            return self._replace(number, job, error)
        self._start_next(number)  # before its result is written
        if job is None:
            log.info("worker %d is ready: %s", number, result)
            return None
        status, facts, files = result
        for line in facts.pop("warnings"):
            log.warning("%s, on worker %d: %s", job.name, number, line)
        facts |= {"attempts": self._losses.pop(job.name, 0) + 1}
        return Outcome(job, status, facts=facts), files

    def _start_next(self, number: int) -> None:
        actor, share = self._actors[number], self._share.take(number)
        if actor is not None and share is not None:
            job, ahead = share
            self._running[actor.run.remote(job, ahead)] = number, job

    def _replace(
        self, number: int, job: Job | None, error: Exception
    ) -> tuple[Outcome, dict[str, bytes]] | None:
        """Replace a lost worker. Its job waits again; after too many losses it has failed."""
        self._lost_in_a_row = 0 if job else self._lost_in_a_row + 1
        if getattr(error, "actor_init_failed", False) or self._lost_in_a_row >= _MAX_LOST:
            raise InkstoneError(
                f"A Ray worker cannot start: {error}. Install Inkstone on every machine of the "
                "cluster."
            )
        self._ray.kill(self._actors[number])
        losses = 0
        if job is not None:
            losses = self._losses[job.name] = self._losses.get(job.name, 0) + 1
        retry = job if losses <= self._pool.retries else None
        lost_job = f" with the job {job.name}" if job is not None else ""
        log.warning(
            "worker %d is lost%s and is replaced%s",
            number,
            lost_job,
            "; the job is retried" if retry is not None else "",
        )
        self._share.give_back(number, retry)
        self._start(number)
        for idle in set(range(self._count)) - {n for n, _ in self._running.values()}:
            self._start_next(idle)
        if job is None or retry is not None:
            return None
        reason = f"its worker was lost {losses} times, most recently because: {error}".strip()
        facts = {"error": reason, "attempts": self._losses.pop(job.name)}
        return Outcome(job, FAILED, facts=facts), {}

    def close(self) -> None:
        """End the workers, and a cluster that was started for this run."""
        actors = list(enumerate(self._actors))
        busy = {number for number, _ in self._running.values()}
        ends = [actor.close.remote() for n, actor in actors if actor is not None and n not in busy]
        if ends:
            self._ray.wait(ends, num_returns=len(ends), timeout=2)
        for actor in filter(None, self._actors):
            self._ray.kill(actor)
        if self._connected_here:
            self._ray.shutdown()
