"""The line of a server: turns of keys, models that are not swapped at every job, places."""

from __future__ import annotations

import itertools
import random
from pathlib import Path
from typing import Any

import pytest

from inkstone.headless.draw.request import DrawCall
from inkstone.headless.serve.desk.deadline import job_named
from inkstone.headless.serve.desk.line import OVERTAKEN, Line
from inkstone.headless.serve.desk.settings import Limits
from inkstone.headless.serve.desk.tickets import Ticket


class Queue:
    """A line with hands that only have names. Jobs are words: key, model, number."""

    def __init__(self, *jobs: str, hands: str = "h") -> None:
        self.line = Line(Limits(), list(hands))
        self.at_work: dict[str, Ticket] = {}
        self.tickets: dict[str, Ticket] = {}
        for job in jobs:
            self.join(job)

    def join(self, job: str) -> None:
        """A job comes."""
        ticket = self.tickets[job] = Ticket(job, job[0], lasting=True)
        ticket.job = job_named(job, call=DrawCall("", model=Path(job[1])))
        self.line.join(ticket)

    def take(self, hand: Any = "h") -> str | None:
        """The hand has done its job, and takes the next."""
        before = self.at_work.pop(hand, None)
        if before is not None:
            self.line.end(before, 1.0)
        taken = self.line.take(hand)
        if not taken:
            return None
        (self.at_work[hand],) = taken
        return taken[0].id

    def all(self) -> list[str]:
        """All jobs, as one hand takes them."""
        return list(iter(self.take, None))

    def places(self) -> list[str]:
        """The jobs that wait, by the places that clients see."""
        places = {self.line.place(t): name for name, t in self.tickets.items()}
        places.pop(None, None)
        assert sorted(places) == list(range(1, len(self.line.waiting) + 1)), places
        return [places[k] for k in sorted(places)]


def swaps(jobs: list[str]) -> int:
    """How often the model is another one than before."""
    return sum(a[1] != b[1] for a, b in itertools.pairwise(jobs))


def test_jobs_of_one_key_and_model_go_in_their_order():
    jobs = [f"ax{k}" for k in range(9)]
    assert Queue(*jobs).all() == jobs


def test_a_key_with_many_jobs_does_not_hold_back_anothers_one():
    queue = Queue(*[f"ax{k}" for k in range(16)])
    assert [queue.take(), queue.take()] == ["ax0", "ax1"]
    queue.join("bx0")
    assert queue.line.place(queue.tickets["bx0"]) == 1
    assert queue.take() == "bx0"


def test_a_key_that_sends_one_job_after_the_other_does_not_hold_back_one_with_many():
    queue, done = Queue(*[f"ax{k}" for k in range(4)]), []
    for k in range(4):
        queue.join(f"bx{k}")
        done += [queue.take(), queue.take()]
    lead = list(itertools.accumulate(1 if job[0] == "a" else -1 for job in done))
    assert max(map(abs, lead)) <= 1 and lead[-1] == 0, done


def test_jobs_with_the_loaded_model_go_first():
    queue = Queue("ax0", "ay0", "ax1", "ay1", "ax2", "ay2")
    assert queue.all() == ["ax0", "ax1", "ax2", "ay0", "ay1", "ay2"]


def test_no_job_is_overtaken_more_often_than_it_waits():
    queue = Queue("ax0", "by0", *[f"ax{k}" for k in range(1, 16)])
    done = queue.all()
    assert done.index("by0") == 1 + OVERTAKEN, done
    assert swaps(done) == 2, done


def test_two_models_in_turn_are_swapped_less_than_at_each_job():
    jobs = [f"a{'xy'[k % 2]}{k}" for k in range(32)]
    done = Queue(*jobs).all()
    assert sorted(done) == sorted(jobs)
    assert swaps(jobs) == 31 and swaps(done) <= 7, f"{swaps(done)} swaps: {done}"
    late = {job: done.index(job) - jobs.index(job) for job in jobs}
    assert max(late.values()) <= 2 * OVERTAKEN, late


def test_a_second_hand_takes_the_model_that_the_first_has_not():
    queue = Queue("ax0", "ax1", "ay0", "ax2", "ay1", hands="hk")
    assert [queue.take("h"), queue.take("k"), queue.take("h"), queue.take("k")] == [
        "ax0",
        "ay0",
        "ax1",
        "ay1",
    ]
    assert queue.take("k") == "ax2", "rather than nothing"


def test_a_job_that_left_holds_nobody_back():
    queue = Queue("ax0", "ay0", "ax1", "ax2")
    queue.take()
    assert queue.line.leave(queue.tickets["ay0"]) and not queue.line.leave(queue.tickets["ay0"])
    assert queue.places() == ["ax1", "ax2"] and queue.line.place(queue.tickets["ay0"]) is None
    assert queue.all() == ["ax1", "ax2"]


@pytest.mark.parametrize("seed", range(20))
def test_places_are_the_order_in_which_jobs_are_taken(seed):
    dice = random.Random(seed)
    queue = Queue(*[f"{dice.choice('abc')}{dice.choice('xyz')}{k}" for k in range(40)])
    for _ in range(dice.randrange(10)):
        queue.take()
    foreseen = queue.places()
    assert foreseen == queue.all()


@pytest.mark.parametrize("seed", range(20))
def test_places_only_fall_while_nothing_comes(seed):
    dice = random.Random(seed)
    queue = Queue(*[f"{dice.choice('abc')}{dice.choice('xyz')}{k}" for k in range(30)])
    before = queue.places()
    while queue.take() is not None:
        assert queue.places() == before[1:]
        before = before[1:]


def test_a_job_waits_for_its_turn_and_a_few_more_whatever_comes():
    dice = random.Random(1)
    queue = Queue(*[f"ax{k}" for k in range(4)])
    queue.take()
    queue.join("by0")
    for k in range(4, 40):
        queue.join(f"{dice.choice('acd')}x{k}")
        if queue.take() == "by0":
            break
    assert k - 4 <= OVERTAKEN, f"{k - 4} jobs of others went first"
