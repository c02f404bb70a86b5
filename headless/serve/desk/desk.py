"""The desk of a server: takes orders, keeps them in a bounded line, and has a thread for each hand
that draws.

Jobs, their worker, journal and metrics are those of `inkstone batch` (headless/queue): a job runs
in its Worker, ends with a record in its journal, and is counted in its metrics.
"""

from __future__ import annotations

import logging
import shutil
import tempfile
import threading
import time
from collections import Counter
from dataclasses import replace
from functools import partial
from pathlib import Path

from ....errors import CallError, InkstoneError
from ...draw.request import DrawCall
from ...node_types import Json
from ...queue import journal
from ...queue.journal import Outcome, Results
from ...queue.metrics import Metrics
from ...queue.worker import Places
from . import tickets
from .accepted import Accepted, Waiting
from .again import Again
from .deadline import job_named
from .graphs import GRAPH, forget_pictures
from .hand import Hand, Hands, one_here
from .leftovers import clean, compact_long
from .line import Line
from .offers import Offers
from .orders import Order, call_of, in_request, order_from
from .quiet_log import DRAWS
from .refusal import Refusal, stopping
from .settings import ServeCall
from .tickets import Ticket
from .turn import Turn

log = logging.getLogger(__name__)

UNEXPECTED = "The drawing failed by a fault of the server. Its log says more."


class Desk:
    """The queue of a server. Its methods may be called from every thread."""

    def __init__(self, call: ServeCall, hands: Hands = one_here) -> None:
        self.call, self.limits = call, call.limits
        self.offers = Offers(call.models, call.defaults, call.names)
        self._lock = threading.Condition(threading.RLock())
        self._unwanted: set[str] = set()  # cancelled by their clients while they ran
        self._tickets: dict[str, Ticket] = {}
        self._closing = self._giving_up = False
        self.refused: Counter[int] = Counter()  # answers that were errors, by status
        self._temporary = None if call.state else tempfile.mkdtemp(prefix="inkstone-serve-")
        root = call.state or Path(str(self._temporary))
        self._results = Results(root / "results", self._on_record)
        self._metrics = Metrics(root / "results")
        self._accepted = Accepted(root / "accepted")
        self.places = Places(call.models, root / "input", call.defaults.get("device"))
        self.places.input.mkdir(exist_ok=True)
        self._hands = hands(self._results.work, self.places)
        self.again = Again(call.cache_results, self._results.work, self._tickets.get)
        self._line = Line(call.limits, self._hands)
        self._threads: list[threading.Thread] = []
        self._at_work = 0  # threads that draw

    @property
    def drawing(self) -> int:
        """How many jobs could be drawn at a time just now."""
        return min(self._at_work, sum(hand.able for hand in self._hands))

    # --- start and end

    def start(self) -> None:
        """Opens the default model, takes the state folder and what was left in it, and starts to
        draw. Raises InkstoneError.
        """
        default = DrawCall("", **self.offers.model(None))
        for hand in self._hands:
            hand.open(default)
        try:
            self._results.__enter__()
        except CallError as error:
            raise CallError(str(error).replace("--output", "--state")) from None
        for one in self._accepted.waiting():
            self._take_up(one)
        self._expire()
        clean(self._results, self._tickets, self.places.input)
        self._metrics.left = len(self._line.waiting)
        for hand in self._hands:
            thread = threading.Thread(target=self._work, args=(hand,), name=DRAWS, daemon=True)
            self._threads.append(thread)
            thread.start()

    def _take_up(self, one: Waiting) -> None:
        """An order of an earlier run: ended, or to be done now."""
        if one.id in self._tickets or not one.data.get("lasting"):
            self._accepted.remove(one.id)
            return
        ticket = Ticket(one.id, str(one.data.get("owner")), lasting=True)
        try:
            order = one.data["order"]
            self._fill(ticket, None if order is None else order_from(order), one.folder)
        except (InkstoneError, KeyError, TypeError, ValueError, AttributeError) as error:
            known = isinstance(error, InkstoneError)  # else the file is not what was written
            why = str(error) if known else "What was kept of this order cannot be read."
            log.error("job %s of an earlier run cannot run here: %s", one.id, why)
            ticket.job = job_named(one.id)
            self._commit(ticket, Outcome(ticket.job, journal.FAILED, (), {"error": why}))
            return
        self._tickets[one.id] = ticket
        self._line.join(ticket)

    def drain(self, seconds: float) -> None:
        """Takes nothing more and finishes the jobs under way, for up to so many seconds. What waits
        is cancelled, but kept where it is lasting and there is a state folder: the next start does
        it.
        """
        with self._lock:
            self._closing = True
            for ticket in [t for t in self._line.waiting.values() if not self._is_kept(t)]:
                ticket.stopped = True
                self._cancel(ticket)
            self._lock.notify_all()
        end = time.monotonic() + seconds
        for thread in self._threads:
            thread.join(max(0.0, end - time.monotonic()))
        with self._lock:
            self._giving_up = True
            for hand in self._hands:
                hand.stop.set()
        for thread in self._threads:
            thread.join()

    def close(self, seconds: float) -> None:
        """Drains, and leaves the state folder."""
        self.drain(seconds)
        for hand in self._hands:
            hand.close()
        if self._threads:
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
            self.check_room(owner)
            name = self._line.reserve(owner)
        try:
            return name, self._accepted.open(name)
        except OSError as error:
            self.drop(name)
            log.error("an order cannot be kept: %s", error)
            raise Refusal("The disk of this server takes no more jobs.", 503) from None

    def check_room(self, owner: str) -> None:
        """Raises Refusal where an order would find no place now."""
        with self._lock:
            if self._closing:
                raise stopping()
            self._line.check_room(owner)

    def drop(self, name: str) -> None:
        """Gives back the place of an order that did not become a job."""
        with self._lock:
            self._line.release(name)
        self._accepted.remove(name)
        forget_pictures(name, self.places.input)

    def submit(self, name: str, order: Order | None, lasting: bool) -> Ticket:
        """Makes an order a job, checked; None: the graph in its folder. A lasting one outlives this
        process. Raises Refusal.
        """
        owner = self._line.owner(name)
        ticket = Ticket(name, owner, lasting)
        self._fill(ticket, order, self._accepted.folder(name))
        data = {"order": order and order.as_json(), "owner": owner, "lasting": lasting}
        folder = self._accepted.seal(name, data)
        self._fill(ticket, order, folder)
        with self._lock:
            if self._closing and not self._is_kept(ticket):
                raise stopping()
            self._tickets[name] = ticket
            self._line.join(ticket)
            self._metrics.left = len(self._line.waiting)
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
            return self._line.place(ticket)

    def cancel(self, ticket: Ticket) -> None:
        """Ends a job: at once where it waits, else within the step."""
        with self._lock:
            self._cancel(ticket)

    def _cancel(self, ticket: Ticket) -> None:
        _, hand = self._line.running.get(ticket.id, (None, None))
        if hand is not None and ticket.shares and ticket.job is not None:
            ticket.stop.set()  # the others go on
            self._line.end(ticket, None)
            self._commit(ticket, Outcome(ticket.job, tickets.CANCELLED))
        elif hand is not None:
            self._unwanted.add(ticket.id)
            hand.stop.set()
        elif self._line.leave(ticket) and ticket.job is not None:
            self._commit(ticket, Outcome(ticket.job, tickets.CANCELLED))

    def forget(self, ticket: Ticket) -> None:
        """Removes a job that is over, and its files."""
        with self._lock:
            if self._tickets.pop(ticket.id, None) is not None:
                self._results.forget(ticket.id)

    def numbers(self) -> tuple[bytes, int, int]:
        """The metrics as Prometheus reads them; jobs that wait; jobs at work."""
        from ...queue.prometheus import exposition

        with self._lock:
            waiting, running = len(self._line.waiting), len(self._line.running)
            return exposition(self._metrics.snapshot(by_stage=True)), waiting, running

    # --- the threads that draw, one for each hand

    def _work(self, hand: Hand) -> None:
        with self._lock:
            self._at_work += 1
        begin = partial(self._begin, hand)
        try:
            while (turn := self._next(hand)) is not None:
                for ticket, outcome in turn.outcomes(self.limits.seconds, begin):
                    self._end(ticket, outcome, turn.seconds)
        except Exception:
            log.exception("a thread that draws has ended by a fault")
        finally:
            with self._lock:
                self._at_work -= 1

    def _next(self, hand: Hand) -> Turn | None:
        with self._lock:
            chosen: list[Ticket] = []
            while not self._closing and not (chosen := self._line.take(hand)):
                self._lock.wait(1.0)
                self._expire()
            if not chosen:
                return None
            self._metrics.left = len(self._line.waiting)
            for ticket in chosen:
                ticket.state, ticket.shares = tickets.RUNNING, len(chosen) > 1
            hand.stop.clear()
            behind, near = list(self._line.waiting.values()), self._line.near(chosen[0])
        for one in (*chosen, *behind):
            one.touch()  # its place has changed
        return Turn(hand, chosen, near, self.again.answer)

    def _begin(self, hand: Hand, ticket: Ticket) -> bool:
        """What a job's own work begins with; False where it is over."""
        with self._lock:
            ticket.shares = False
            if not self._giving_up and ticket.id not in self._unwanted:
                hand.stop.clear()  # of the job before
            return not ticket.over

    def _end(self, ticket: Ticket, outcome: Outcome, seconds: float) -> None:
        with self._lock:
            done = outcome.status == journal.DONE
            self._line.end(ticket, seconds if done else None)
            cancelled = outcome.status == tickets.CANCELLED and ticket.id not in self._unwanted
            self._unwanted.discard(ticket.id)
            ticket.stopped |= self._closing and cancelled
            if ticket.stopped and self._is_kept(ticket):
                return  # handed back: the next start does it
            self._commit(ticket, outcome)
            self.again.keep(ticket)
            self._expire()

    def _commit(self, ticket: Ticket, outcome: Outcome) -> None:
        """The end of a job: in the journal first, then for those who wait."""
        self._tickets[ticket.id] = ticket
        ticket.hear(outcome.facts, partial(self._for_client, ticket.id))
        try:
            record = self._results.commit(replace(outcome, facts=ticket.facts(outcome.facts)))
            self._metrics.tally(record)
        except (InkstoneError, OSError) as error:
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
        ticket.read(record, self._results.folder)
        error = record.get("error")
        if error is not None:
            error = UNEXPECTED if ticket.unexpected else self._for_client(name, error)
        status = record["status"]
        self._tickets[name] = ticket
        ticket.end(status if status in (tickets.DONE, tickets.CANCELLED) else tickets.FAILED, error)
        ticket.ended = float(record.get("ended") or 0)

    def _for_client(self, name: str, sentence: str) -> str:
        places = (self._accepted.folder(name), self._results.work, self.call.models)
        return in_request(sentence, *places)

    def _expire(self) -> None:
        """Forgets results after their time."""
        oldest = time.time() - self.call.keep
        for ticket in [t for t in self._tickets.values() if t.over and t.ended < oldest]:
            self.forget(ticket)
        compact_long(self._results, self._tickets)
