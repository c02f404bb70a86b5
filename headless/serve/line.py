"""The line of a server: jobs that wait, orders whose files are still coming, jobs at work.

Plain data; the desk holds its lock around every call.
"""

from __future__ import annotations

import secrets
from collections import OrderedDict
from collections.abc import Iterable

from .hand import Hand
from .refusal import Full
from .settings import Limits
from .tickets import Ticket

_USUAL_SECONDS = 10.0  # of a job, until one has run
_NEWEST = 0.3  # weight of the newest job in the mean


class Line:
    """A bounded line. `hands`: how many jobs are at work at a time."""

    def __init__(self, limits: Limits, hands: int = 1) -> None:
        self._limits, self.hands = limits, hands
        self.waiting: OrderedDict[str, Ticket] = OrderedDict()
        self.running: dict[str, tuple[Ticket, Hand]] = {}
        self._reserved: dict[str, str] = {}  # orders whose files are still coming -> owner
        self._mean = _USUAL_SECONDS

    def reserve(self, owner: str) -> str:
        """A place for an order that is coming; its name. Raises Full."""
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
        self.waiting[ticket.id] = ticket

    def take(self, hand: Hand) -> Ticket | None:
        """The next job for a hand, at work from now on."""
        if not self.waiting:
            return None
        name, ticket = self.waiting.popitem(last=False)
        self.running[name] = ticket, hand
        return ticket

    def end(self, ticket: Ticket, seconds: float | None) -> None:
        """A job is at work no more; seconds: that it took, where it was done."""
        self.running.pop(ticket.id, None)
        if seconds is not None:
            self._mean += _NEWEST * (seconds - self._mean)

    def place(self, ticket: Ticket) -> int | None:
        """The place of a job from 1; None where it does not wait."""
        names: Iterable[str] = self.waiting
        return next((k for k, name in enumerate(names, 1) if name == ticket.id), None)
