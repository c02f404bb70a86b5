"""The line of a server: jobs that wait, orders whose files are still coming, jobs at work.

Keys take turns: a job joins in the round after that of its key's last job, and no earlier than the
round that is being served (start-time fair queueing). Out of that order goes a job whose models a
hand has loaded already, since a swap may take longer than a picture, or that shares a pass with
another: but no job is overtaken more than a few times. Plain data; the desk holds its lock around
every call.
"""

from __future__ import annotations

import itertools
import secrets
from collections import Counter, OrderedDict
from collections.abc import Hashable, Iterable, Sequence

from ...draw.company import company_key
from ...queue.worker import AHEAD
from .hand import Hand, Sharing
from .refusal import Full
from .settings import Limits
from .tickets import Ticket

_USUAL_SECONDS = 10.0  # of a job, until one has run
_NEWEST = 0.3  # weight of the newest job in the mean
OVERTAKEN = 4  # times that a job lets others go first whose models are loaded
_LOOK = 64  # jobs among which one with these models is looked for


class Line:
    """A bounded line for some hands."""

    def __init__(self, limits: Limits, hands: Sequence[Hand]) -> None:
        self._limits, self._hands = limits, hands
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
            wait = self._mean * (len(self.waiting) + 1) / len(self._hands)
            raise Full(f"The queue is full ({len(held)} jobs). Try again later.", wait)
        mine = held.count(owner) + [t.owner for t, _ in self.running.values()].count(owner)
        if mine >= self._limits.per_key:
            raise Full(
                f"{mine} of your jobs wait or run, of at most {self._limits.per_key}. Wait for "
                "one of them.",
                self._mean / len(self._hands),
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

    def take(self, hand: Hand) -> list[Ticket]:
        """The next job for a hand, at work from now on, and those that share a pass with it."""
        order = self._order()
        if not order:
            return []
        others = {models for other, models in self._loaded.items() if other is not hand}
        at = _choice(order, self._overtaken, self._loaded.get(hand), others)
        chosen = [order[k] for k in _company(order, self._overtaken, at, _most(hand, order[at]))]
        self._round = max(self._round, self._ranks[order[0].id][0])
        self._loaded[hand] = _models(order[at])
        for ticket in chosen:
            last = self._served.get(ticket.owner, 0)
            self._served[ticket.owner] = max(last, self._ranks[ticket.id][0])
            self.leave(ticket)
            self.running[ticket.id] = ticket, hand
        return chosen

    def near(self, ticket: Ticket) -> list[Ticket]:
        """Jobs that wait and come soon, drawn with the same models and LoRAs as this one."""
        job = ticket.job
        same = (
            one for one in self._order()[:_LOOK] if one.job and job and one.job.group == job.group
        )
        return list(itertools.islice(same, AHEAD - 1))

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
        loaded = self._loaded.copy()
        for hand in itertools.cycle(self._hands):
            if not order:
                return
            others = {models for other, models in loaded.items() if other is not hand}
            at = _choice(order, overtaken, loaded.get(hand), others)
            loaded[hand] = _models(order[at])
            chosen = _company(order, overtaken, at, _most(hand, order[at]))
            yield from [order[k].id for k in chosen]
            for k in sorted(chosen, reverse=True):
                del order[k]


def _models(ticket: Ticket) -> Hashable:
    """Equal for jobs that are drawn with the same models; a graph has its own."""
    job = ticket.job
    assert job is not None, "only jobs wait"
    return job.call.models_key if job.call is not None else job.graph


def _most(hand: Hand, ticket: Ticket) -> int:
    """How many jobs like this one a hand does in one pass."""
    return hand.most(ticket.job) if isinstance(hand, Sharing) and ticket.job else 1


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


def _company(order: Sequence[Ticket], overtaken: Counter[str], at: int, most: int) -> list[int]:
    """The job at this place of the order and those that share a pass with it, `most` in all. Counts
    those that they overtake.
    """
    chosen, kind = [at], _kind(order[at]) if most > 1 else None
    overtaken.update(passed.id for passed in order[:at])
    for k, ticket in enumerate(order[:_LOOK]):
        if kind is None or len(chosen) == most:
            break
        if k == at or _kind(ticket) != kind:
            continue
        passed = [one.id for n, one in enumerate(order[:k]) if n not in chosen]
        if any(overtaken[name] >= OVERTAKEN for name in passed):
            break
        overtaken.update(passed)
        chosen.append(k)
    return chosen


def _kind(ticket: Ticket) -> object | None:
    """Equal for jobs that can share a pass; None for one that cannot."""
    return company_key(ticket.job.call) if ticket.job and ticket.job.call else None
