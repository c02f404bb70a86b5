"""`inkstone batch`: a queue of jobs that can be stopped or killed at any time and resumed.

The order is that of the file, grouped by models and within them by size. What a run left is in
the output folder: see journal.py (journal and files) and metrics.py.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from ...errors import CallError
from ...kernels.interrupt import stoppable
from .jobs import Job, in_order, read_jobs
from .journal import DONE, FolderFull, Outcome, Results
from .metrics import Metrics
from .worker import Checker, OnStep, Places, Worker, here

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class BatchCall:
    """The options of `inkstone batch`. defaults: values of DrawCall for lines that omit them."""

    jobs: Path
    output: Path
    defaults: Mapping[str, Any] = field(default_factory=dict)
    places: Places = Places()
    retry_failed: bool = False
    ray: str | None = None
    workers: int | None = None
    retries: int = 1  # of a job whose worker was lost


@dataclass(frozen=True)
class QueueCallbacks:
    """Callbacks: per step, and per finished record."""

    step: OnStep | None = None
    record: Callable[[dict], None] = lambda record: None


def batch(call: BatchCall, watch: QueueCallbacks = QueueCallbacks()) -> dict:
    """Runs what is not done; returns counts and metrics.

    KeyboardInterrupt after a stop, FolderFull on a full disk, FolderLost where the folder was
    removed or replaced; the same call then resumes.
    """
    if call.workers is not None and call.ray is None:
        raise CallError("--workers is for --ray: a run without it has one worker, this process.")
    metrics = Metrics(call.output)
    with stoppable() as stop, Results(call.output, metrics.count) as results:
        check = Checker(call.places)
        settled = partial(_is_settled, call, results)
        jobs = read_jobs(call.jobs, call.defaults, lambda j: None if settled(j) else check(j))
        left = in_order(job for job in jobs if not settled(job))
        _announce(call, jobs, left, results)
        metrics.left = len(left)
        try:
            with closing(_outcomes(call, left, results, watch, stop)) as outcomes:
                for outcome in outcomes:
                    _settle(outcome, results, metrics, watch)
            results.require_own()
        finally:
            if results.lost() is None:  # else it is another's folder
                _close(metrics)
        failed = sum(not results.is_done(job) for job in jobs)
        return {
            "jobs": len(jobs),
            "done": len(jobs) - failed,
            "failed": failed,
            "output": str(call.output),
            "metrics": metrics.facts(),
        }


def _outcomes(
    call: BatchCall,
    jobs: Sequence[Job],
    results: Results,
    watch: QueueCallbacks,
    stop: threading.Event,
) -> Generator[Outcome]:
    if call.ray is None or not jobs:
        return here(jobs, Worker(results.work, call.places, stop, watch.step), stop)
    from .ray_pool import Pool, on_ray

    pool = Pool(call.ray, call.workers, call.retries, call.places)
    return on_ray(jobs, pool, results.work, stop)


def _settle(outcome: Outcome, results: Results, metrics: Metrics, watch: QueueCallbacks) -> None:
    record = results.commit(outcome)
    metrics.left -= 1
    try:
        metrics.add(record)
    except OSError as error:
        raise FolderFull.of(results.folder, error) from error
    count = len(record["files"])
    summary = f"{count} file{'s' * (count != 1)}" if outcome.status == DONE else record["error"]
    log.log(
        logging.INFO if outcome.status == DONE else logging.ERROR,
        "%s %s in %.2f s (%s); %d left, %.0f pictures per hour",
        record["id"],
        outcome.status,
        record.get("total_seconds", 0),
        summary,
        metrics.left,
        metrics.images_per_hour,
    )
    watch.record(record)


def _close(metrics: Metrics) -> None:
    try:
        metrics.close()
    except OSError as error:  # the fault that ended the run must be what is said
        log.warning("metrics were not written: %s", error)


def _is_settled(call: BatchCall, results: Results, job: Job) -> bool:
    """It does not run: it is done, or has failed and is not to be tried again."""
    return results.is_done(job) or (results.has_failed(job) and not call.retry_failed)


def _announce(call: BatchCall, jobs: Sequence[Job], left: Sequence[Job], results: Results) -> None:
    done = sum(map(results.is_done, jobs))
    log.info("%s: %d jobs, %d to run, %d done before", call.jobs, len(jobs), len(left), done)
    failed = len(jobs) - len(left) - done
    if failed:
        log.info(
            "%d failed in an earlier run and are skipped: --retry-failed runs them again", failed
        )
