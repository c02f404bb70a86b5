"""What draws the jobs of a server: a worker in this process, or what a cluster has instead.

The desk gives each hand a thread, so that as many jobs are at work as there are hands.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Protocol, runtime_checkable

from ....errors import InkstoneError
from ....host.headless import Interrupted
from ....sampling.together import MOST
from ...draw.company import Watch, company_key, denoise_ahead, gains_from_company
from ...draw.request import DrawCall
from ...queue.jobs import Job
from ...queue.journal import Outcome
from ...queue.worker import Places, Worker
from .tickets import Ticket

log = logging.getLogger(__name__)

_MODELS = 8  # that stay open when others are drawn with; memory decides whose weights stay


class Hand(Protocol):
    """Does one job at a time. stop: set by the desk while a job is at work: it is given up."""

    stop: threading.Event

    @property
    def able(self) -> bool:
        """True while a job could be drawn at once."""

    def open(self, default: DrawCall) -> None:
        """Gets ready, with the models of a call. Raises InkstoneError."""

    def run(self, job: Job, ticket: Ticket) -> Outcome:
        """The job's outcome, its files below the folder for work; steps and previews go to its
        ticket. A fault of the job is an outcome too. Raises KeyboardInterrupt once `stop` is set,
        InkstoneError where the disk fails.
        """

    def close(self) -> None:
        """Lets go of all that it holds."""


@runtime_checkable
class Sharing(Hand, Protocol):
    """A hand that gains where it knows which jobs come next. Nothing here raises for what `run`
    then says of a job.
    """

    def most(self, job: Job) -> int:
        """How many jobs like this one should share a pass; 1 = it draws alone. Loads nothing."""

    def ahead(self, jobs: Sequence[Job]) -> None:
        """Encodes prompts, where that saves loading the text encoder for each job."""

    def together(self, tickets: Sequence[Ticket]) -> AbstractContextManager[None]:
        """Denoises jobs in one pass; within it each `run` finds that done."""


Hands = Callable[[Path, Places], Sequence[Hand]]
"""(folder for work, folders of graphs) -> the hands of a server."""


class LocalHand:
    """A worker in this process, which keeps its models from job to job."""

    def __init__(self, work: Path, places: Places) -> None:
        self.stop = threading.Event()
        self._ticket: Ticket | None = None
        self._worker = Worker(work, places, self.stop, self._on_step, _MODELS)
        self._gains: dict[Hashable, bool] = {}  # by models and size, of the jobs that were drawn
        self._passes: dict[str, tuple[float, int]] = {}  # job -> seconds of its pass, jobs in it

    @property
    def able(self) -> bool:
        """As long as the process lives."""
        return True

    def open(self, default: DrawCall) -> None:
        """Opens the models; their weights are read when they are used."""
        self._worker.drawer.load(default)

    def run(self, job: Job, ticket: Ticket) -> Outcome:
        """As Hand says."""
        self._ticket, self._worker.drawer.on_preview = ticket, ticket.on_preview
        try:
            outcome = self._worker.run(job)
            self._learn(job)
            return self._with_pass(outcome)
        finally:
            self._ticket, self._worker.drawer.on_preview = None, None

    def most(self, job: Job) -> int:
        """As Sharing says: as it was when such a job ran last."""
        return MOST if job.call and self._gains.get(_kind(job.call), False) else 1

    def _learn(self, job: Job) -> None:
        if job.call is None or company_key(job.call) is None:
            return
        try:
            self._gains[_kind(job.call)] = gains_from_company(self._worker.drawer, job.call)
        except InkstoneError as error:
            log.debug("whether it gains in company is not known: %s", error)

    def ahead(self, jobs: Sequence[Job]) -> None:
        """As Sharing says."""
        first = jobs[0].call
        try:
            if len(jobs) > 1 and first and self._worker.drawer.needs_encoder(first):
                self._worker.ahead(jobs)
        except (KeyboardInterrupt, Interrupted):
            return
        except Exception as error:  # `run` meets it again
            log.debug("no prompts are encoded ahead: %s", error)

    @contextmanager
    def together(self, tickets: Sequence[Ticket]) -> Iterator[None]:
        """As Sharing says. Where the pass fails, each job is drawn alone."""
        drawer, began = self._worker.drawer, time.perf_counter()
        jobs = [ticket.job for ticket in tickets if ticket.job]
        watches = [Watch(one.on_step, one.on_preview, one.stop) for one in tickets]
        keys: list[str | None] = []
        try:
            keys = denoise_ahead(drawer, [job.call for job in jobs if job.call], watches)
        except (KeyboardInterrupt, Interrupted):
            log.debug("a pass was stopped")
        except Exception:
            log.warning("a pass of %d jobs failed: they are drawn alone", len(jobs), exc_info=True)
        took = time.perf_counter() - began, len(jobs)
        self._passes = {job.name: took for job, key in zip(jobs, keys) if key is not None}
        try:
            yield
        finally:
            drawer.executor.cache.drop(keys)
            self._passes = {}

    def _with_pass(self, outcome: Outcome) -> Outcome:
        """The outcome of a job with the time of its pass."""
        if outcome.job.name not in self._passes:
            return outcome
        facts, (seconds, count) = dict(outcome.facts), self._passes[outcome.job.name]
        stages = dict(facts.get("seconds") or {})
        stages["denoise"] = round(stages.get("denoise", 0) + seconds, 3)
        facts |= {"seconds": stages, "shared_pass": count}
        facts["total_seconds"] = round(facts.get("total_seconds", 0) + seconds, 4)
        return replace(outcome, facts=facts)

    def close(self) -> None:
        """Frees its models."""
        self._worker.drawer.clear()

    def _on_step(self, job: Job, done: int, of: int) -> None:
        if self._ticket is not None:
            self._ticket.on_step(done, of)


def _kind(call: DrawCall) -> Hashable:
    """Equal for calls that gain or do not gain alike."""
    return call.models_key, call.size


def one_here(work: Path, places: Places) -> Sequence[Hand]:
    """One hand, in this process."""
    return [LocalHand(work, places)]
