"""The line of a server: jobs that wait, orders whose files are still coming, jobs at work.

Keys take turns: a job joins in the round after that of its key's last job, and no earlier than the
round that is being served (start-time fair queueing). Out of that order goes a job whose models a
hand has loaded already, since a swap may take longer than a picture: but no job is overtaken more
than a few times. Plain data; the desk holds its lock around every call.
"""

from __future__ import annotations

import itertools
import secrets
from collections import Counter, OrderedDict
from collections.abc import Hashable, Iterable, Sequence

from .hand import Hand
from .refusal import Full
from .settings import Limits
from .tickets import Ticket

_USUAL_SECONDS = 10.0  # of a job, until one has run
_NEWEST = 0.3  # weight of the newest job in the mean
OVERTAKEN = 4  # times that a job lets others go first whose models are loaded
_LOOK = 64  # jobs among which one with these models is looked for


class Line:
    """A bounded line. `hands`: how many jobs are at work at a time."""

    def __init__(self, limits: Limits, hands: int = 1) -> None:
        self._limits, self.hands = limits, hands
        self.waiting: OrderedDict[str, Ticket] = OrderedDict()
        self.running: dict[str, tuple[Ticket, Hand]] = {}
        self._reserved: dict[str, str] = {}  # orders whose files are still coming -> owner
        self._mean = _USUAL_SECONDS
        self._loaded: dict[Hand, Hashable] = {}  # models of each hand's last job
        self._round = 0  # that is being served
        self._ranks: dict[str, tuple[int, int]] = {}  # of jobs that wait: round, own jobs before
        self._served: dict[str, int] = {}  # owner -> round of the last job that was taken
        self._overtaken: Counter[str] = Counter()
        self._places: dict[str, int] | None = None  # as long as nothing changes

    def check_room(self, owner: str) -> None:
        """Raises Full where an owner's order would find no place."""
        held = [*self._reserved.values(), *(t.owner for t in self.waiting.values())]
        if len(held) >= self._limits.queue:
            wait = self._mean * (len(self.waiting) + 1) / self.hands
            raise Full(f"The queue is full ({len(held)} jobs). Try again later.", wait)
        mine = held.count(owner) + [t.owner for t, _ in self.running.values()].count(owner)
        if mine >= self._limits.per_key:
            raise Full(
                f"{mine} of your jobs wait or run, of at most {self._limits.per_key}. Wait for "
                "one of them.",
                self._mean / self.hands,
            )

    def reserve(self, owner: str) -> str:
        """A place for an order that is coming; its name. Raises Full."""
        self.check_room(owner)
        name = secrets.token_hex(16)
        self._reserved[name] = owner
        return name

    def owner(self, name: str) -> str:
        """Who reserved a place."""
        return self._reserved[name]

    def release(self, name: str) -> None:
        """Gives a reserved place back."""
        self._reserved.pop(name, None)

    def join(self, ticket: Ticket) -> None:
        """A job waits, in the place that was reserved for it."""
        self._reserved.pop(ticket.id, None)
        mine = [self._ranks[t.id][0] for t in self.waiting.values() if t.owner == ticket.owner]
        last = max(self._round, self._served.get(ticket.owner, 0), *mine)
        self._ranks[ticket.id] = last + 1, len(mine)
        self.waiting[ticket.id] = ticket
        self._places = None

    def leave(self, ticket: Ticket) -> bool:
        """A job waits no more; False where it did not."""
        self._places = None
        self._ranks.pop(ticket.id, None)
        del self._overtaken[ticket.id]
        return self.waiting.pop(ticket.id, None) is not None

    def take(self, hand: Hand) -> Ticket | None:
        """The next job for a hand, at work from now on."""
        order = self._order()
        if not order:
            return None
        others = {models for other, models in self._loaded.items() if other is not hand}
        at = _choice(order, self._overtaken, self._loaded.get(hand), others)
        ticket = order[at]
        self._overtaken.update(passed.id for passed in order[:at])
        self._round = max(self._round, self._ranks[order[0].id][0])
        self._served[ticket.owner] = self._ranks[ticket.id][0]
        self.leave(ticket)
        self._loaded[hand] = _models(ticket)
        self.running[ticket.id] = ticket, hand
        return ticket

    def end(self, ticket: Ticket, seconds: float | None) -> None:
        """A job is at work no more; seconds: that it took, where it was done."""
        self.running.pop(ticket.id, None)
        if seconds is not None:
            self._mean += _NEWEST * (seconds - self._mean)

    def place(self, ticket: Ticket) -> int | None:
        """The place of a job from 1, if nothing more came; None where it does not wait."""
        if self._places is None:
            self._places = {name: k for k, name in enumerate(self._foreseen(), 1)}
        return self._places.get(ticket.id)

    def _order(self) -> list[Ticket]:
        """The jobs that wait, in the rounds of their keys."""
        return sorted(self.waiting.values(), key=lambda ticket: self._ranks[ticket.id])

    def _foreseen(self) -> Iterable[str]:
        """The ids in the order in which `take` will give them, to one hand after the other."""
        order, overtaken = self._order(), self._overtaken.copy()
        loaded: list[Hashable] = [*self._loaded.values()][: self.hands]
        loaded += [None] * (self.hands - len(loaded))
        for turn in itertools.count():
            if not order:
                return
            hand = turn % self.hands
            others = {models for other, models in enumerate(loaded) if other != hand}
            at = _choice(order, overtaken, loaded[hand], others)
            overtaken.update(passed.id for passed in order[:at])
            loaded[hand] = _models(order[at])
            yield order.pop(at).id


def _models(ticket: Ticket) -> Hashable:
    """Equal for jobs that are drawn with the same models; a graph has its own."""
    job = ticket.job
    assert job is not None, "only jobs wait"
    return job.call.models_key if job.call is not None else job.graph


def _choice(
    order: Sequence[Ticket], overtaken: Counter[str], own: Hashable, others: set[Hashable]
) -> int:
    """Which job of the order a hand takes: one with the models that it has loaded, else the first
    that no other hand has loaded, else the first; none behind a job that waits no longer.
    """
    near = list(itertools.islice(order, _LOOK))
    last = next(
        (at for at, job in enumerate(near) if overtaken[job.id] >= OVERTAKEN), len(near) - 1
    )
    models = [_models(job) for job in near[: last + 1]]
    rank = [0 if of == own else 2 if of in others else 1 for of in models]
    return rank.index(min(rank))
