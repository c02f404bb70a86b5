"""Hands whose replicas are elsewhere, without Ray: what is sent and comes back, losses, retries,
cancelling, deadlines; a desk with several hands.
"""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from inkstone.errors import InkstoneError
from inkstone.headless.draw.request import DrawCall
from inkstone.headless.queue.worker import Places
from inkstone.headless.serve.desk.deadline import Deadline, job_named
from inkstone.headless.serve.desk.desk import Desk
from inkstone.headless.serve.desk.orders import Order
from inkstone.headless.serve.desk.settings import Limits, ServeCall
from inkstone.headless.serve.desk.tickets import CANCELLED, Ticket
from inkstone.headless.serve.desk.turn import Turn
from inkstone.headless.serve.replicas.parcel import Finished, Progress
from inkstone.headless.serve.replicas.ray_hand import Lost, RayHand

CALL = DrawCall("a red circle", size=(64, 64), steps=3, seed=5)


class Answer:
    """What a replica answers: items in their order; an error is raised, None waits for cancel."""

    def __init__(self, items: list[object]) -> None:
        self._items, self.cancelled = items, threading.Event()

    def __iter__(self):
        for item in self._items:
            if item is None:
                assert self.cancelled.wait(20)
                return
            if isinstance(item, Exception):
                raise item
            yield item

    def cancel(self) -> None:
        self.cancelled.set()


class Scripted:
    """Replicas whose answers are known."""

    def __init__(self, *answers: list[object], running: int = 1) -> None:
        self.answers = [Answer(items) for items in answers]
        self.sent, self.count = [], running
        self.calls: list[str] = []

    def open(self, default: DrawCall) -> None:
        self.calls.append("open")

    def running(self) -> int:
        return self.count

    def send(self, parcel) -> Answer:
        self.sent.append(parcel)
        return self.answers[len(self.sent) - 1]

    def close(self) -> None:
        self.calls.append("close")


def done(**facts: object) -> Finished:
    return Finished("done", {"seconds": {}, **facts}, {"a.png": b"P", "a/b.png": b"Q"})


def hand_of(tmp_path: Path, replicas: Scripted, retries: int = 1) -> RayHand:
    work, inputs = tmp_path / "work", tmp_path / "input"
    for folder in (work, inputs):
        folder.mkdir(exist_ok=True)
    return RayHand(replicas, 0, retries, work, Places(input=inputs))


def ticket() -> Ticket:
    return Ticket("a", "anybody", lasting=False)


JOB = job_named("a", call=CALL)


def test_what_a_replica_draws_arrives_with_its_progress(tmp_path):
    replicas = Scripted([Progress(1, 3), Progress(2, 3, b"jpeg"), done(worker="x")])
    one = ticket()
    outcome = hand_of(tmp_path, replicas).run(JOB, one)
    assert (one.step, one.steps, one.preview, one.previewed) == (2, 3, b"jpeg", 1)
    assert outcome.status == "done" and one.facts(outcome.facts)["attempts"] == 1
    assert outcome.facts["worker"] == "x"
    work = tmp_path / "work"
    assert outcome.files == [work / "a.png", work / "a" / "b.png"]
    assert [path.read_bytes() for path in outcome.files] == [b"P", b"Q"]


def test_a_lost_replica_costs_a_retry(tmp_path):
    replicas = Scripted([Progress(2, 3), Lost("gone")], [Progress(1, 3), done()])
    one = ticket()
    outcome = hand_of(tmp_path, replicas).run(JOB, one)
    assert (outcome.status, one.facts(outcome.facts)["attempts"], one.step) == ("done", 2, 1)
    assert replicas.sent[0] == replicas.sent[1]


@pytest.mark.parametrize("retries", [0, 2])
def test_after_the_retries_the_job_has_failed(tmp_path, retries):
    replicas = Scripted(*[[Lost("gone")]] * (retries + 1))
    one = ticket()
    outcome = hand_of(tmp_path, replicas, retries).run(JOB, one)
    assert outcome.status == "failed" and one.facts(outcome.facts)["attempts"] == retries + 1
    assert "lost " + {0: "once", 2: "3 times"}[retries] in outcome.facts["error"]
    assert len(replicas.sent) == retries + 1


@pytest.mark.parametrize("last", [[Finished(CANCELLED)], []], ids=["it stops", "it says nothing"])
def test_a_replica_that_ends_without_a_result_is_lost(tmp_path, last):
    one = ticket()
    outcome = hand_of(tmp_path, Scripted(last, [done()])).run(JOB, one)
    assert (outcome.status, one.facts(outcome.facts)["attempts"]) == ("done", 2)


def test_a_fault_of_the_replica_is_no_loss(tmp_path):
    replicas = Scripted([Lost("gone")], [ValueError("secret words")])
    one = ticket()
    one.job = JOB
    turn = Turn(hand_of(tmp_path, replicas), [one], (), lambda _: None)
    ((_, outcome),) = turn.outcomes(20, lambda _: True)
    assert outcome.status == "failed" and outcome.facts["unexpected"]
    assert "secret" not in outcome.facts["error"] and len(replicas.sent) == 2
    assert one.facts(outcome.facts)["attempts"] == 2, "the loss before it is counted"


def test_a_full_disk_here_is_no_fault_of_the_job(tmp_path):
    hand = hand_of(tmp_path, Scripted([done()]))
    (tmp_path / "work").rmdir()
    with pytest.raises(InkstoneError, match="cannot be written to"):
        hand.run(JOB, ticket())


@pytest.mark.parametrize("items", [[None], [Progress(1, 3), None]], ids=["waiting", "drawing"])
def test_a_stop_reaches_the_replica(tmp_path, items):
    replicas = Scripted(items)
    hand = hand_of(tmp_path, replicas)
    threading.Timer(0.2, hand.stop.set).start()
    with pytest.raises(KeyboardInterrupt):
        hand.run(JOB, ticket())
    assert replicas.answers[0].cancelled.is_set()


def test_a_deadline_ends_a_job_elsewhere(tmp_path):
    hand = hand_of(tmp_path, Scripted([None]))
    deadline = Deadline(0.1, hand.stop)
    with pytest.raises(KeyboardInterrupt), deadline:
        hand.run(JOB, ticket())
    assert "longer than 0.1 s" in deadline.outcome(JOB).facts["error"]


def test_a_hand_is_able_while_there_is_a_replica_for_it(tmp_path):
    replicas = Scripted(running=1)
    hands = [RayHand(replicas, k, 1, tmp_path, Places()) for k in range(2)]
    assert [hand.able for hand in hands] == [True, False]


def desk_of(tmp_path: Path, replicas: Scripted, hands: int, **limits: int) -> Desk:
    call = ServeCall(models=tmp_path, limits=Limits(**limits))
    return Desk(
        call, lambda work, places: [RayHand(replicas, k, 1, work, places) for k in range(hands)]
    )


def submitted(desk: Desk) -> Ticket:
    name, _ = desk.open("anybody")
    return desk.submit(name, Order("x", {"seed": 1}), lasting=True)


def wait(condition, seconds: float = 10) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.01)


def test_a_desk_has_a_job_at_work_on_every_hand_and_counts_retries(tmp_path):
    answers = [[Progress(1, 2), None], [Progress(1, 2), None], [Lost("gone")], [Finished("done")]]
    replicas = Scripted(*answers, running=2)
    desk = desk_of(tmp_path, replicas, 2)
    desk.start()
    try:
        assert desk.drawing == 2
        jobs = [submitted(desk) for _ in range(3)]
        wait(lambda: all(job.step for job in jobs[:2]))
        assert [job.state for job in jobs] == ["running", "running", "queued"]
        assert desk.place(jobs[2]) == 1
        desk.cancel(jobs[0])
        wait(lambda: jobs[0].over and jobs[2].over)
        assert [job.state for job in jobs] == ["cancelled", "running", "done"]
        text, waiting, running = desk.numbers()
        assert b"\ninkstone_batch_retries_total 1.0\n" in text
        assert (waiting, running) == (0, 1)
        replicas.count = 1
        assert desk.drawing == 1
        replicas.count = 0
        assert desk.drawing == 0
    finally:
        desk.close(0)
    assert replicas.calls == ["open"] * 2 + ["close"] * 2
    assert jobs[1].state == "cancelled"


def test_what_a_key_may_have_counts_jobs_on_all_hands(tmp_path):
    from inkstone.headless.serve.desk.refusal import Full

    desk = desk_of(tmp_path, Scripted([None], [None], running=2), 2, per_key=3, queue=1)
    desk.start()
    try:
        for k in range(2):
            submitted(desk)
            wait(lambda k=k: len(desk._line.running) == k + 1)
        submitted(desk)  # waits
        with pytest.raises(Full, match="queue is full"):
            desk.open("somebody else")
        desk._line._limits = Limits(per_key=3, queue=9)
        with pytest.raises(Full, match="3 of your jobs"):
            desk.open("anybody")
        desk.drop(desk.open("somebody else")[0])
    finally:
        desk.close(0)


def test_the_time_to_wait_is_shared_by_the_hands():
    from inkstone.headless.serve.desk.line import Line
    from inkstone.headless.serve.desk.refusal import Full

    waits = []
    for hands in (1, 5):
        line = Line(Limits(queue=1), [RayHand] * hands)
        line.reserve("a")
        with pytest.raises(Full) as full:
            line.reserve("a")
        waits.append(float(full.value.headers["Retry-After"]))
    assert waits == [10, 2], "10 s for a job, by five hands 2 s"
