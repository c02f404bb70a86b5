"""The desk of a server: takes orders, keeps them in a bounded line, and has one thread that draws.

Jobs, their worker, journal and metrics are those of `inkstone batch` (headless/queue): a job runs
in its Worker, ends with a record in its journal, and is counted in its metrics.
"""

from __future__ import annotations

import logging
import secrets
import shutil
import tempfile
import threading
import time
from collections import OrderedDict
from dataclasses import replace
from pathlib import Path

from ...errors import CallError, InkstoneError
from ..draw.request import DrawCall
from ..node_types import Json
from ..queue import journal
from ..queue.jobs import Job
from ..queue.journal import Outcome, Results
from ..queue.metrics import Metrics
from ..queue.worker import Places, Worker
from . import tickets
from .accepted import Accepted, Waiting
from .deadline import Deadline, job_named
from .graphs import GRAPH, forget_pictures
from .offers import Offers
from .orders import Order, call_of, in_request, order_from
from .refusal import Full, Refusal
from .settings import ServeCall
from .tickets import Ticket

log = logging.getLogger(__name__)

DRAWS = "inkstone-draws"  # the name of the thread
_USUAL_SECONDS = 10.0  # of a job, until one has run
_PRIVATE = ("prompt", "negative", "enhanced", "region")  # of a record: no log of prompts
UNEXPECTED = "The drawing failed by a fault of the server. Its log says more."


class Desk:
    """The queue of a server. Its methods may be called from every thread."""

    def __init__(self, call: ServeCall) -> None:
        self.call, self.limits = call, call.limits
        self.offers = Offers(call.models, call.defaults)
        self.ready = False
        self._lock = threading.Condition(threading.RLock())
        self._waiting: OrderedDict[str, Ticket] = OrderedDict()
        self._running: Ticket | None = None
        self._unwanted: Ticket | None = None  # the last that its client cancelled while it ran
        self._reserved: dict[str, str] = {}  # orders whose files are still coming -> owner
        self._tickets: dict[str, Ticket] = {}
        self._stop = threading.Event()  # ends the job under way
        self._closing = False
        self._mean = _USUAL_SECONDS
        self._temporary = None if call.state else tempfile.mkdtemp(prefix="inkstone-serve-")
        root = call.state or Path(str(self._temporary))
        self._results = Results(root / "results", self._on_record)
        self._metrics = Metrics(root / "results")
        self._accepted = Accepted(root / "accepted")
        self.places = Places(call.models, root / "input", call.defaults.get("device"))
        self.places.input.mkdir(exist_ok=True)
        self._thread: threading.Thread | None = None

    # --- start and end

    def start(self) -> None:
        """Opens the default model, takes the state folder and what was left in it, and starts to
        draw. Raises InkstoneError.
        """
        worker = Worker(self._results.work, self.places, self._stop, self._on_step)
        worker.drawer.load(DrawCall("", **self.offers.model(None)))
        try:
            self._results.__enter__()
        except CallError as error:
            raise CallError(str(error).replace("--output", "--state")) from None
        for one in self._accepted.waiting():
            self._take_up(one)
        self._metrics.left = len(self._waiting)
        self._thread = threading.Thread(target=self._work, args=(worker,), name=DRAWS, daemon=True)
        self._thread.start()

    def _take_up(self, one: Waiting) -> None:
        """An order of an earlier run: ended, or to be done now."""
        if one.id in self._tickets or not one.data.get("lasting"):
            self._accepted.remove(one.id)
            return
        ticket = Ticket(one.id, str(one.data.get("owner")), lasting=True)
        try:
            order = one.data["order"]
            self._fill(ticket, None if order is None else order_from(order), one.folder)
        except InkstoneError as error:
            log.error("job %s of an earlier run cannot run here: %s", one.id, error)
            ticket.job = job_named(one.id)
            self._commit(ticket, Outcome(ticket.job, journal.FAILED, (), {"error": str(error)}))
            return
        self._tickets[one.id] = self._waiting[one.id] = ticket

    def drain(self, seconds: float) -> None:
        """Takes nothing more and finishes the job under way, for up to so many seconds. What waits
        is cancelled, but kept where it is lasting and there is a state folder: the next start does
        it.
        """
        with self._lock:
            self._closing = True
            for ticket in [t for t in self._waiting.values() if not self._is_kept(t)]:
                self._cancel(ticket)
            self._lock.notify_all()
        if self._thread is not None:
            self._thread.join(seconds)
            self._stop.set()
            self._thread.join()

    def close(self, seconds: float) -> None:
        """Drains, and leaves the state folder."""
        self.drain(seconds)
        if self._thread is not None:
            self._results.__exit__()
        if self._temporary:
            shutil.rmtree(self._temporary, ignore_errors=True)

    def _is_kept(self, ticket: Ticket) -> bool:
        return ticket.lasting and self._temporary is None

    # --- orders

    def open(self, owner: str) -> tuple[str, Path]:
        """A place in the queue, and the folder for what comes with the order. Raises Full before
        anything is read or loaded.
        """
        with self._lock:
            held = [*self._reserved.values(), *(t.owner for t in self._waiting.values())]
            if self._closing:
                raise Refusal("The server is stopping. Try again in a moment.", 503)
            wait = self._mean * (len(self._waiting) + 1)
            if len(held) >= self.limits.queue:
                raise Full(f"The queue is full ({self.limits.queue} jobs). Try again later.", wait)
            mine = held.count(owner) + (self._running is not None and self._running.owner == owner)
            if mine >= self.limits.per_key:
                raise Full(
                    f"{mine} of your jobs wait or run, of at most {self.limits.per_key}. Wait for "
                    "one of them.",
                    self._mean,
                )
            name = secrets.token_hex(16)
            self._reserved[name] = owner
        return name, self._accepted.open(name)

    def drop(self, name: str) -> None:
        """Gives back the place of an order that did not become a job."""
        with self._lock:
            self._reserved.pop(name, None)
        self._accepted.remove(name)
        forget_pictures(name, self.places.input)

    def submit(self, name: str, order: Order | None, lasting: bool) -> Ticket:
        """Makes an order a job, checked; None: the graph in its folder. A lasting one outlives this
        process. Raises Refusal.
        """
        owner = self._reserved[name]
        ticket = Ticket(name, owner, lasting)
        self._fill(ticket, order, self._accepted.folder(name))
        data = {"order": order and order.as_json(), "owner": owner, "lasting": lasting}
        folder = self._accepted.seal(name, data)
        self._fill(ticket, order, folder)
        with self._lock:
            del self._reserved[name]
            self._tickets[name] = self._waiting[name] = ticket
            self._metrics.left = len(self._waiting)
            self._lock.notify_all()
        return ticket

    def _fill(self, ticket: Ticket, order: Order | None, folder: Path) -> None:
        if order is None:
            ticket.job = job_named(ticket.id, graph=folder / GRAPH)
            return
        call = call_of(order, folder, self.offers, self.limits)
        ticket.job, ticket.seed = job_named(ticket.id, call=call), call.seed

    def ticket(self, name: str, owner: str) -> Ticket:
        """The job of an owner. Raises Refusal, also for the job of somebody else."""
        ticket = self._tickets.get(name)
        if ticket is None or ticket.owner != owner:
            raise Refusal("There is no such job: it has expired, or the id is wrong.", 404)
        return ticket

    def file(self, name: str, number: int) -> Path:
        """A result. Raises Refusal."""
        ticket = self._tickets.get(name)
        if ticket is None or number >= len(ticket.files) or not ticket.files[number].is_file():
            raise Refusal("There is no such file: it has expired, or the address is wrong.", 404)
        return ticket.files[number]

    def place(self, ticket: Ticket) -> int | None:
        """The place in the queue from 1; None where it does not wait."""
        with self._lock:
            names = list(self._waiting)
        return names.index(ticket.id) + 1 if ticket.id in names else None

    def cancel(self, ticket: Ticket) -> None:
        """Ends a job: at once where it waits, else within the step."""
        with self._lock:
            self._cancel(ticket)

    def _cancel(self, ticket: Ticket) -> None:
        if ticket is self._running:
            self._unwanted = ticket
            self._stop.set()
        elif self._waiting.pop(ticket.id, None) is not None and ticket.job is not None:
            self._commit(ticket, Outcome(ticket.job, tickets.CANCELLED))

    def forget(self, ticket: Ticket) -> None:
        """Removes a job that is over, and its files."""
        with self._lock:
            if self._tickets.pop(ticket.id, None) is not None:
                self._results.forget(ticket.id)

    def numbers(self) -> tuple[bytes, int, bool]:
        """The metrics as Prometheus reads them; jobs that wait; True while one runs."""
        from ..queue.prometheus import exposition

        with self._lock:
            return (
                exposition(self._metrics.snapshot(by_stage=True)),
                len(self._waiting),
                bool(self._running),
            )

    # --- the thread that draws

    def _work(self, worker: Worker) -> None:
        try:
            self.ready = True
            while (ticket := self._next()) is not None:
                self._run(worker, ticket)
        except Exception:
            log.exception("the thread that draws has ended by a fault")
        finally:
            self.ready = False

    def _next(self) -> Ticket | None:
        with self._lock:
            while not self._waiting and not self._closing:
                self._lock.wait(1.0)
                self._expire()
            if self._closing:
                return None
            _, ticket = self._waiting.popitem(last=False)
            self._metrics.left = len(self._waiting)
            self._running, ticket.state = ticket, tickets.RUNNING
            self._stop.clear()
        ticket.touch()
        for other in list(self._waiting.values()):
            other.touch()  # its place has changed
        return ticket

    def _run(self, worker: Worker, ticket: Ticket) -> None:
        assert ticket.job is not None
        worker.drawer.on_preview = ticket.on_preview
        began, deadline = time.monotonic(), Deadline(self.limits.seconds, self._stop)
        try:
            with deadline:
                outcome = worker.run(ticket.job)
        except KeyboardInterrupt:
            outcome = deadline.outcome(ticket.job)
        except InkstoneError as error:  # the disk
            log.error("%s", error)
            outcome = Outcome(ticket.job, journal.FAILED, (), {"error": str(error)})
        finally:
            worker.drawer.on_preview = None
        with self._lock:
            self._running = None
            cancelled = outcome.status == tickets.CANCELLED and ticket is not self._unwanted
            if self._closing and cancelled and self._is_kept(ticket):
                return  # handed back: the next start does it
            if outcome.status == journal.DONE:
                self._mean += 0.3 * (time.monotonic() - began - self._mean)
            self._commit(ticket, outcome)
            self._expire()

    def _on_step(self, job: Job, done: int, of: int) -> None:
        if self._running is not None:
            self._running.on_step(done, of)

    def _commit(self, ticket: Ticket, outcome: Outcome) -> None:
        """The end of a job: in the journal first, then for those who wait."""
        facts = dict(outcome.facts)
        call = facts.get("call") or {}
        facts["call"] = {k: v for k, v in call.items() if k not in _PRIVATE}
        facts |= {"owner": ticket.owner, "ended": round(time.time(), 3), "seed": ticket.seed}
        self._tickets[ticket.id] = ticket
        try:
            record = self._results.commit(replace(outcome, facts=facts))
            self._metrics.tally(record)
        except InkstoneError as error:
            log.error("%s", error)
            ticket.end(tickets.FAILED, "The result could not be kept: the server's disk failed.")
            return
        self._accepted.remove(ticket.id)
        forget_pictures(ticket.id, self.places.input)

    def _on_record(self, record: dict[str, Json]) -> None:
        """Of every record, also those of earlier runs: what clients are given."""
        self._metrics.count(record)
        name = str(record["id"])
        ticket = self._tickets.get(name) or Ticket(name, str(record.get("owner")), lasting=True)
        ticket.seconds, ticket.seed = record.get("seconds") or {}, record.get("seed")
        ticket.files = [self._results.folder / file for file in record.get("files") or ()]
        ticket.unexpected = bool(record.get("unexpected"))
        error = record.get("error")
        if error is not None:
            error = (
                UNEXPECTED if ticket.unexpected else in_request(error, self._accepted.folder(name))
            )
        status = record["status"]
        self._tickets[name] = ticket
        ticket.end(status if status in (tickets.DONE, tickets.CANCELLED) else tickets.FAILED, error)
        ticket.ended = float(record.get("ended") or 0)

    def _expire(self) -> None:
        """Forgets results after their time."""
        oldest = time.time() - self.call.keep
        for ticket in [t for t in self._tickets.values() if t.over and t.ended < oldest]:
            self.forget(ticket)
