"""What a hand takes from the line at a time: one job, or several that share a pass."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field

from ....errors import InkstoneError
from ...queue.jobs import Job
from ...queue.journal import FAILED, Outcome
from .deadline import Deadline
from .hand import Hand, Sharing
from .tickets import Ticket

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Turn:
    """Jobs for a hand. near: those that wait and come next, of the same models."""

    hand: Hand
    tickets: Sequence[Ticket]
    near: Sequence[Ticket]
    known: Callable[[Ticket], Outcome | None]  # the outcome of one that need not be drawn
    began: float = field(default_factory=time.monotonic)

    def outcomes(
        self, limit: float, begin: Callable[[Ticket], bool]
    ) -> Iterator[tuple[Ticket, Outcome]]:
        """Does the jobs. limit: seconds that each may take; begin: False for one that is over."""
        left = []
        for ticket in self.tickets:
            known = self.known(ticket)
            if known is None:
                left.append(ticket)
            elif begin(ticket):
                yield ticket, known
        with ExitStack() as stack:
            if left and isinstance(self.hand, Sharing):
                with Deadline(limit, self.hand.stop, self.began):
                    self.hand.ahead([job_of(one) for one in (*left, *self.near)])
                    if len(left) > 1:
                        stack.enter_context(self.hand.together(left))
            for ticket in left:
                if begin(ticket):
                    yield ticket, self._outcome(ticket, limit)

    def _outcome(self, ticket: Ticket, limit: float) -> Outcome:
        job, deadline = job_of(ticket), Deadline(limit, self.hand.stop, self.began)
        try:
            with deadline:
                return self.hand.run(job, ticket)
        except KeyboardInterrupt:
            return deadline.outcome(job)
        except InkstoneError as error:  # the disk
            log.error("%s", error)
            return Outcome(job, FAILED, (), {"error": str(error)})
        except Exception as error:  # of the hand, not of the job: the next job is not lost with it
            log.exception("job %s: its drawing failed by a fault", job.name)
            facts = {"error": type(error).__name__, "unexpected": True}  # its text may have prompts
            return Outcome(job, FAILED, (), facts)

    @property
    def seconds(self) -> float:
        """Since it began, for one job."""
        return (time.monotonic() - self.began) / len(self.tickets)


def job_of(ticket: Ticket) -> Job:
    """The job of a ticket that has waited."""
    assert ticket.job is not None, "only jobs wait"
    return ticket.job
