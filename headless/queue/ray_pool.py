"""A queue on Ray: a worker per GPU, each with its own models; the driver keeps the journal.

Workers send the files of their jobs back, so they share no disk with the driver; files that a job
reads (models, pictures, graphs) have the same path on every machine. A lost worker costs its job
one retry, and is replaced as soon as the cluster has room.
"""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from types import ModuleType
from typing import Protocol

from ...errors import CallError, InkstoneError
from ..node_types import Json
from .jobs import Job
from .journal import FAILED, FolderFull, Outcome
from .metrics import Metrics
from .ray_worker import RayWorker
from .share import Share
from .worker import Places

log = logging.getLogger(__name__)

LOCAL = "local"
_POLL = 0.2  # seconds between two looks at the stop switch
_MAX_LOST = 5  # workers lost in a row before they were ready: something is wrong with all of them
_STORE_BYTES = 256 << 20  # for results in transit, if we start the cluster


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
    jobs: Sequence[Job], pool: Pool, work: Path, metrics: Metrics, stop: threading.Event
) -> Generator[Outcome]:
    """Outcomes in the order of their arrival; files are below `work`."""
    crew = _Crew(pool, jobs, metrics)
    try:
        while crew.is_busy:
            for outcome, files in crew.arrivals():
                yield replace(outcome, files=_write(files, work))
            if stop.is_set():
                raise KeyboardInterrupt
    finally:
        crew.close()


def _write(files: Mapping[str, bytes], work: Path) -> list[Path]:
    paths = []
    try:
        for name, data in files.items():
            path = work / name
            if path.parent != work:
                path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
            paths.append(path)
    except OSError as error:
        raise FolderFull.of(work.parent, error) from error
    return paths


class _Crew:
    """The workers of a run and their current jobs."""

    def __init__(self, pool: Pool, jobs: Sequence[Job], metrics: Metrics) -> None:
        self._ray, self._connected_here = _connect(pool)
        self._pool, self._metrics = pool, metrics
        self._count, self._needs = _workers(self._ray, pool)
        self._share = Share([_with_absolute_paths(job) for job in jobs], self._count)
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
            self._metrics.retries += job is not None
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


def _connect(pool: Pool) -> tuple[ModuleType, bool]:
    """(ray, whether we connected), with the signal handlers unchanged."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    if pool.address == LOCAL:
        os.environ.setdefault("RAY_worker_niceness", "0")  # Ray's 15 yields to everything else
    try:
        import ray
    except ImportError:
        raise CallError("--ray needs Ray: pip install 'inkstone[ray]'.") from None
    if ray.is_initialized():
        return ray, False
    main = threading.current_thread() is threading.main_thread()
    handlers = {n: signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)} if main else {}
    # output of workers would appear on our stdout
    quiet = {"logging_level": logging.WARNING, "log_to_driver": False}
    try:
        if pool.address == LOCAL:
            cores = max(_cores(), pool.workers or 1)
            ray.init(
                num_cpus=cores, include_dashboard=False, object_store_memory=_STORE_BYTES, **quiet
            )
        else:
            ray.init(address=pool.address, **quiet)
    except (ConnectionError, ValueError, RuntimeError, OSError) as error:
        raise InkstoneError(
            f"--ray {pool.address}: no cluster at this address ({error}). Expected auto, "
            "HOST:PORT, ray://HOST:PORT, or local."
        ) from None
    for number, handler in handlers.items():
        signal.signal(number, handler)
    return ray, True


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _workers(ray: ModuleType, pool: Pool) -> tuple[int, dict[str, int]]:
    """(number of workers, what each needs of the cluster)."""
    resources = ray.cluster_resources()
    cards, cores = int(resources.get("GPU", 0)), int(resources.get("CPU", 0))
    count = pool.workers or max(cards, 1)
    on_cards = cards and pool.places.device != "cpu"
    if count > (cards if on_cards else cores):
        raise CallError(
            f"--workers {count}: the cluster has {cards} GPUs and {cores} CPU cores. Request "
            f"at most {cards if on_cards else cores}."
        )
    if on_cards:
        return count, {"num_gpus": 1, "num_cpus": min(1, cores // count)}
    return count, {"num_cpus": max(1, cores // count)}


def _with_absolute_paths(job: Job) -> Job:
    """The job with paths that do not depend on the current folder."""
    if job.call is None:
        assert job.graph is not None
        return replace(job, graph=job.graph.absolute())
    call = job.call
    values = {field.name: getattr(call, field.name) for field in fields(call)}
    paths: dict[str, Json] = {k: v.absolute() for k, v in values.items() if isinstance(v, Path)}
    paths |= {
        "image": [path.absolute() for path in call.image],
        "control_model": [path.absolute() for path in call.control_model],
        "lora": [(path.absolute(), strength) for path, strength in call.lora],
        "control": [replace(item, path=item.path.absolute()) for item in call.control],
        "region": [
            one if one.mask is None else replace(one, place=one.mask.absolute())
            for one in call.region
        ],
    }
    return replace(job, call=replace(call, **paths))
