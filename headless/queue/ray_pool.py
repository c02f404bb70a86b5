"""A queue on Ray: a worker on each GPU, each with models of its own; the driver keeps the journal.

Workers send the files that they made back, so they share no disk with the driver; what a job reads
(models, pictures, graphs) has the same path on every machine. A worker that is lost costs its job
one retry, and another takes its place as soon as the cluster has room for it.
"""

from __future__ import annotations

import logging
import os
import shutil
import signal
import socket
import tempfile
import threading
from collections import deque
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from ...errors import CallError, InkstoneError
from .jobs import Job
from .journal import FAILED, Outcome
from .metrics import Metrics
from .worker import AHEAD, Places, Worker

log = logging.getLogger(__name__)

LOCAL = "local"
_POLL = 0.2  # seconds between two looks at the stop switch
_FOLDER = "inkstone-batch-"  # and the process that works in it
_STARTS = 5  # workers lost in a row before they were ready: something is wrong with all of them
_STORE = 256 << 20  # bytes for results under way, where we start the cluster


@dataclass(frozen=True)
class Pool:
    """Which cluster, how many workers (None = one for each GPU), retries of a job."""

    address: str
    workers: int | None
    retries: int
    places: Places


class _Heard(logging.Handler):
    """Keeps warnings, for the driver to tell."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self._lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """One more."""
        self._lines.append(record.getMessage())

    def taken(self) -> list[str]:
        """What came since the last call."""
        lines, self._lines = self._lines, []
        return lines


class RayWorker:
    """Runs jobs in a process of Ray."""

    def __init__(self, number: int, places: Places) -> None:
        _clean_up()
        folder = Path(tempfile.mkdtemp(prefix=f"{_FOLDER}{os.getpid()}-"))
        self._folder, self._number = folder, number
        self._worker = Worker(folder / "work", places, threading.Event())
        self._heard = _Heard()
        logging.getLogger(__package__.partition(".")[0]).addHandler(self._heard)

    def ready(self) -> str:
        """Where it is."""
        return f"{socket.gethostname()}, process {os.getpid()}"

    def run(self, job: Job, ahead: Sequence[Job]) -> tuple[str, dict, dict[str, bytes]]:
        """(status, facts, files by relative name); the prompts of `ahead` are encoded first."""
        self._worker.ahead(ahead)
        done = self._worker.run(job)
        files = {p.relative_to(self._worker.work).as_posix(): p.read_bytes() for p in done.files}
        where = {
            "worker": str(self._number),
            "host": socket.gethostname(),
            "process": os.getpid(),
            "warnings": self._heard.taken(),
        }
        return done.status, done.facts | where, files

    def close(self) -> None:
        """Leaves nothing behind."""
        shutil.rmtree(self._folder, ignore_errors=True)


def _clean_up() -> None:
    """Takes away what workers that were killed left on this machine."""
    if not Path("/proc/self").exists():
        return  # only Linux says simply who is alive
    for folder in Path(tempfile.gettempdir()).glob(f"{_FOLDER}*"):
        owner = folder.name.removeprefix(_FOLDER).partition("-")[0]
        if owner.isdecimal() and not Path("/proc", owner).exists():
            shutil.rmtree(folder, ignore_errors=True)


class Share:
    """Jobs for workers: each takes some neighbours at a time, of the models that it has; at the
    end one without work takes from the others.
    """

    def __init__(self, jobs: Sequence[Job], workers: int) -> None:
        self._waiting = deque(jobs)
        self._own: list[deque[Job]] = [deque() for _ in range(workers)]
        self._group: list[object] = [None] * workers

    def take(self, worker: int) -> tuple[Job, list[Job]] | None:
        """The next job of a worker, and with the first of several all of them; None at the end."""
        own, fresh = self._own[worker], []
        if not own:
            fresh = self._neighbours(worker)
            own.extend(fresh)
        if own:
            self._group[worker] = own[0].group
            return own.popleft(), fresh
        fullest = max(self._own, key=len)
        return (fullest.pop(), []) if fullest else None

    def _neighbours(self, worker: int) -> list[Job]:
        """Jobs of one group from those that wait, its own group first."""
        most = max(1, min(AHEAD, len(self._waiting) // (2 * len(self._own))))
        groups = list(dict.fromkeys(job.group for job in self._waiting))
        if not groups:
            return []
        others = {g for w, g in enumerate(self._group) if w != worker}
        unclaimed = [g for g in groups if g not in others]
        group = self._group[worker]
        if group not in groups:
            group = (unclaimed or groups)[0]
        found = [job for job in self._waiting if job.group == group][:most]
        taken = set(map(id, found))
        self._waiting = deque(job for job in self._waiting if id(job) not in taken)
        return found

    def give_back(self, worker: int, job: Job | None) -> None:
        """The worker is lost: what it had waits again, first of all."""
        back = [*([job] if job else []), *self._own[worker]]
        self._own[worker].clear()
        self._waiting.extendleft(reversed(back))

    def __len__(self) -> int:
        return len(self._waiting) + sum(map(len, self._own))


def on_ray(
    jobs: Sequence[Job], pool: Pool, work: Path, metrics: Metrics, stop: threading.Event
) -> Generator[Outcome]:
    """Outcomes in the order in which they come in; files are below `work`."""
    crew = _Crew(pool, jobs, metrics)
    try:
        while crew.busy:
            for outcome, files in crew.finished():
                yield replace(outcome, files=_written(files, work))
            if stop.is_set():
                raise KeyboardInterrupt
    finally:
        crew.close()


def _written(files: Mapping[str, bytes], work: Path) -> list[Path]:
    found = []
    for name, data in files.items():
        path = work / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        found.append(path)
    return found


class _Crew:
    """The workers of a run and what they are at."""

    def __init__(self, pool: Pool, jobs: Sequence[Job], metrics: Metrics) -> None:
        self._ray, self._started = _connected(pool)
        self._pool, self._metrics = pool, metrics
        self._count, self._needs = _workers(self._ray, pool)
        self._share, self._lost = Share([_abroad(j) for j in jobs], self._count), {}
        self._actors: list[Any] = [None] * self._count
        self._unready = 0
        self._under_way: dict[Any, tuple[int, Job | None]] = {}  # None = it is starting
        for number in range(min(self._count, len(jobs))):
            self._start(number)

    @property
    def busy(self) -> bool:
        """Jobs wait or are under way."""
        return bool(self._share) or any(job for _, job in self._under_way.values())

    def finished(self) -> list[tuple[Outcome, dict[str, bytes]]]:
        """What came in since the last call; waits a moment."""
        ready, _ = self._ray.wait(list(self._under_way), num_returns=1, timeout=_POLL)
        return [found for ref in ready if (found := self._arrived(ref))]

    def _start(self, number: int) -> None:
        places = self._pool.places
        absolute = replace(places, models=places.models.absolute(), input=places.input.absolute())
        remote = self._ray.remote(**self._needs)(RayWorker)
        self._actors[number] = remote.remote(number, absolute)
        self._under_way[self._actors[number].ready.remote()] = number, None

    def _arrived(self, ref: Any) -> tuple[Outcome, dict[str, bytes]] | None:
        number, job = self._under_way.pop(ref)
        try:
            said = self._ray.get(ref)
        except self._ray.exceptions.RayTaskError as error:
            raise InkstoneError(
                f"A Ray worker failed in a way that is not its job's: {error.cause}. The same call "
                "goes on where this one stopped."
            ) from None
        except self._ray.exceptions.RayError as error:
            return self._gone(number, job, error)
        self._next(number)  # before its result is written
        if job is None:
            log.info("worker %d is ready: %s", number, said)
            return None
        status, facts, files = said
        for line in facts.pop("warnings"):
            log.warning("%s, on worker %d: %s", job.name, number, line)
        facts |= {"attempts": self._lost.pop(job.name, 0) + 1}
        return Outcome(job, status, facts=facts), files

    def _next(self, number: int) -> None:
        found = self._share.take(number)
        if found is not None:
            job, ahead = found
            self._under_way[self._actors[number].run.remote(job, ahead)] = number, job

    def _gone(self, number: int, job: Job | None, error: Exception) -> tuple[Outcome, dict] | None:
        """A worker was lost; its job waits again, or has failed where that happened too often."""
        self._unready = 0 if job else self._unready + 1
        if getattr(error, "actor_init_failed", False) or self._unready >= _STARTS:
            raise InkstoneError(
                f"A Ray worker cannot start: {error}. Inkstone must be installed on every machine "
                "of the cluster."
            )
        self._ray.kill(self._actors[number])
        lost = 0
        if job is not None:
            lost = self._lost[job.name] = self._lost.get(job.name, 0) + 1
        again = job if lost <= self._pool.retries else None
        log.warning(
            "worker %d is lost%s; another takes its place",
            number,
            ""
            if job is None
            else f", with the job {job.name}" + ("" if again is None else ", which begins again"),
        )
        self._share.give_back(number, again)
        self._start(number)
        for idle in set(range(self._count)) - {n for n, _ in self._under_way.values()}:
            if self._actors[idle] is not None:
                self._next(idle)
        if job is None or again is not None:
            self._metrics.retries += job is not None
            return None
        said = f"its worker was lost {lost} times, the last time so: {error}".strip()
        facts = {"error": said, "attempts": self._lost.pop(job.name)}
        return Outcome(job, FAILED, facts=facts), {}

    def close(self) -> None:
        """Ends the workers; a cluster that was started for this run ends too."""
        ends = [
            actor.close.remote()
            for number, actor in enumerate(self._actors)
            if actor is not None and all(n != number for n, _ in self._under_way.values())
        ]
        if ends:
            self._ray.wait(ends, num_returns=len(ends), timeout=2)
        for actor in filter(None, self._actors):
            self._ray.kill(actor)
        if self._started:
            self._ray.shutdown()


def _connected(pool: Pool) -> tuple[Any, bool]:
    """(ray, whether we connected), with the signal handlers as they were."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    if pool.address == LOCAL:
        os.environ.setdefault("RAY_worker_niceness", "0")  # 15 would leave them what others leave
    try:
        import ray
    except ImportError:
        raise CallError("--ray needs Ray: pip install 'inkstone[ray]'.") from None
    if ray.is_initialized():
        return ray, False
    main = threading.current_thread() is threading.main_thread()
    kept = {n: signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)} if main else {}
    # what workers print would come out on our stdout
    quiet = {"logging_level": logging.WARNING, "log_to_driver": False}
    try:
        if pool.address == LOCAL:
            cores = max(_cores(), pool.workers or 1)
            ray.init(num_cpus=cores, include_dashboard=False, object_store_memory=_STORE, **quiet)
        else:
            ray.init(address=pool.address, **quiet)
    except (ConnectionError, ValueError, RuntimeError, OSError) as error:
        raise InkstoneError(
            f"--ray {pool.address}: no cluster there ({error}). Expected auto, HOST:PORT, "
            "ray://HOST:PORT, or local."
        ) from None
    for number, handler in kept.items():
        signal.signal(number, handler)
    return ray, True


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _workers(ray: Any, pool: Pool) -> tuple[int, dict[str, Any]]:
    """(how many, what each needs of the cluster)."""
    there = ray.cluster_resources()
    cards, cores = int(there.get("GPU", 0)), int(there.get("CPU", 0))
    count = pool.workers or max(cards, 1)
    on_cards = cards and pool.places.device != "cpu"
    if count > (cards if on_cards else cores):
        raise CallError(
            f"--workers {count}: the cluster has {cards} GPUs and {cores} CPU cores. Ask for "
            f"{cards if on_cards else cores} at most."
        )
    if on_cards:
        return count, {"num_gpus": 1, "num_cpus": min(1, cores // count)}
    return count, {"num_cpus": max(1, cores // count)}


def _abroad(job: Job) -> Job:
    """With paths that do not depend on the folder we are in."""
    if job.call is None:
        return replace(job, graph=job.graph.absolute())
    c = job.call
    plain = {f.name: getattr(c, f.name) for f in fields(c)}
    lone = {k: v.absolute() for k, v in plain.items() if isinstance(v, Path)}
    return replace(
        job,
        call=replace(
            c,
            **lone,
            image=[p.absolute() for p in c.image],
            control_model=[p.absolute() for p in c.control_model],
            lora=[(p.absolute(), strength) for p, strength in c.lora],
            control=[replace(a, path=a.path.absolute()) for a in c.control],
        ),
    )
