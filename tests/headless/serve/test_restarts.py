"""What a state folder has after a restart: jobs that are still asked for, and nothing else."""

from __future__ import annotations

import json
import os
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from inkstone.errors import InkstoneError
from inkstone.headless.queue.jobs import Job
from inkstone.headless.queue.journal import DONE, JOURNAL, Outcome, Results
from inkstone.headless.serve.desk import leftovers
from inkstone.headless.serve.desk.accepted import Accepted
from inkstone.headless.serve.desk.hand import LocalHand
from inkstone.headless.serve.desk.settings import ServeCall

from .running import QUICK, serving
from .test_jobs import JOB, records


def filled(folder, names) -> None:
    """A journal of jobs with a file each, two lines for the first."""
    with Results(folder) as results:
        for name in (names[0], *names):
            file = results.work / f"{name}.png"
            file.write_bytes(name.encode())
            results.commit(Outcome(Job(0, name, name, ""), DONE, [file]))


def ids(folder) -> list[str]:
    return [json.loads(line)["id"] for line in (folder / JOURNAL).read_text().splitlines()]


def test_a_journal_without_the_jobs_that_are_not_wanted(tmp_path):
    filled(tmp_path, ["a", "b", "c"])
    with Results(tmp_path) as results:
        assert results.lines == 4
        results.compact(lambda record: record["id"] != "b")
        assert results.lines == 3 and results.lost() is None
        assert sorted(path.name for path in tmp_path.glob("*.png")) == ["a.png", "c.png"]
        file = results.work / "d.png"
        file.write_bytes(b"d")
        results.commit(Outcome(Job(0, "d", "d", ""), DONE, [file]))
    assert ids(tmp_path) == ["a", "a", "c", "d"]
    with Results(tmp_path) as results:
        assert [results.is_done(Job(0, name, name, "")) for name in "abcd"] == [1, 0, 1, 1]


def test_killed_while_it_compacts_it_is_the_old_journal(tmp_path, monkeypatch):
    filled(tmp_path, ["a", "b"])
    before = (tmp_path / JOURNAL).read_bytes()

    def fail(*_: object, **__: object) -> None:
        raise OSError(28, "no room")

    with Results(tmp_path) as results:
        monkeypatch.setattr("inkstone.files.atomic.os.replace", fail)
        with pytest.raises(InkstoneError, match="cannot be written to"):
            results.compact(lambda record: record["id"] != "a")
        monkeypatch.undo()
        assert (tmp_path / JOURNAL).read_bytes() == before
        results.compact(lambda record: record["id"] != "a")
    assert ids(tmp_path) == ["b"] and list(tmp_path.glob("*.tmp")) == []


def test_what_cannot_be_read_goes(tmp_path):
    filled(tmp_path, ["a"])
    with open(tmp_path / JOURNAL, "ab") as file:
        file.write(b'nonsense\n{"id": [], "status": "done"}\n[]\n')
    with Results(tmp_path) as results:
        results.compact(lambda record: True)
    assert ids(tmp_path) == ["a", "a"]


def test_a_restart_keeps_what_is_asked_for_only(tmp_path):
    call = ServeCall(models=tmp_path, state=tmp_path / "state")
    with serving(call) as server:
        names = [server.client.post("/v1/jobs", json=JOB).json()["id"] for _ in range(3)]
        for name in names:
            server.ended(name)
        drawn = {"prompt": "x", "size": "64x64", "inkstone": QUICK}
        server.client.post("/v1/images/generations", json=drawn).raise_for_status()
        server.client.delete(f"/v1/jobs/{names[0]}")
    assert len(records(tmp_path)) == 4
    (tmp_path / "state" / "input" / f"{'0' * 32}_1.png").write_bytes(b"of an order that never was")
    with serving(call) as server:
        states = [server.client.get(f"/v1/jobs/{name}").status_code for name in names]
        assert states == [404, 200, 200]
        assert server.client.get(f"/v1/jobs/{names[1]}").json()["files"]
    assert records(tmp_path) == names[1:]
    assert os.listdir(tmp_path / "state" / "input") == []
    path = tmp_path / "state" / "results" / JOURNAL
    lines = [json.loads(line) | {"ended": 1.0} for line in path.read_text().splitlines()]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    with serving(call):
        pass
    assert records(tmp_path) == [] and not list(path.parent.glob("*.png"))


def test_a_journal_does_not_grow_for_ever(tmp_path, monkeypatch):
    monkeypatch.setattr(leftovers, "_OLD_LINES", 2)
    call = ServeCall(models=tmp_path, state=tmp_path / "state")
    with serving(call) as server:
        for _ in range(6):
            name = server.client.post("/v1/jobs", json=JOB).json()["id"]
            server.ended(name)
            server.client.delete(f"/v1/jobs/{name}")
        last = server.client.post("/v1/jobs", json=JOB).json()["id"]
        assert server.ended(last)["state"] == "done"
    assert len(records(tmp_path)) <= 4 and records(tmp_path)[-1] == last


def test_half_removed_orders_go_at_the_next_start(tmp_path, monkeypatch):
    accepted = Accepted(tmp_path)
    accepted.open("a")
    accepted.seal("a", {"order": None})
    monkeypatch.setattr("inkstone.headless.serve.desk.accepted.shutil.rmtree", lambda *a, **b: None)
    accepted.remove("a")  # and killed
    monkeypatch.undo()
    assert Accepted(tmp_path).waiting() == [] and os.listdir(tmp_path) == []


def test_orders_keep_their_order_through_restarts(tmp_path):
    names = [f"{k:02}" for k in (5, 3, 9, 1)]
    for k, name in enumerate(names):
        accepted = Accepted(tmp_path)
        assert [one.id for one in accepted.waiting()] == names[:k]
        accepted.open(name)
        accepted.seal(name, {"order": None})


def test_an_order_that_cannot_be_read_fails_and_the_others_are_drawn(tmp_path):
    call = ServeCall(models=tmp_path, state=tmp_path / "state")
    with serving(call, start=False) as server:
        names = [server.client.post("/v1/jobs", json=JOB).json()["id"] for _ in range(4)]
    damages = ({"number": 1, "lasting": True}, {"order": 5}, {"order": {"prompt": "x", "loras": 3}})
    for name, damage in zip(names, damages):
        path = tmp_path / "state" / "accepted" / name / "order.json"
        kept = json.loads(path.read_text())
        path.write_text(json.dumps(damage if "number" in damage else kept | damage))
    with serving(call) as server:
        assert server.ended(names[3])["state"] == "done"
    lines = (tmp_path / "state" / "results" / JOURNAL).read_text().splitlines()
    failed = {one["id"]: one["error"] for one in map(json.loads, lines) if one.get("error")}
    assert set(failed) == set(names[:3]) and "cannot be read" in failed[names[0]]


def test_a_fault_of_what_draws_ends_its_job_and_no_other(tmp_path, monkeypatch):
    run, faults = LocalHand.run, [RuntimeError("lost")]

    def once(self: LocalHand, *given: object) -> Outcome:
        if faults:
            raise faults.pop()
        return run(self, *given)

    monkeypatch.setattr(LocalHand, "run", once)
    with serving(ServeCall(models=tmp_path)) as server:
        names = [server.client.post("/v1/jobs", json=JOB).json()["id"] for _ in range(2)]
        ended = [server.ended(name) for name in names]
        assert [one["state"] for one in ended] == ["failed", "done"]
        assert "fault of the server" in ended[0]["error"] and "lost" not in ended[0]["error"]


@pytest.mark.parametrize("drawn", [False, True])
def test_a_stop_is_said_to_those_who_wait(tmp_path, drawn):
    """Nobody cancelled their picture."""
    with serving(ServeCall(models=tmp_path), start=drawn) as server, server.slowly(60):
        with ThreadPoolExecutor(1) as pool:
            ask = {"prompt": "x", "size": "64x64"}
            asked = pool.submit(server.client.post, "/v1/images/generations", json=ask)
            until = time.monotonic() + 30
            while server.desk.numbers()[1:] != ((0, 1) if drawn else (1, 0)):
                assert time.monotonic() < until, "it did not come"
                time.sleep(0.01)
            server.desk.drain(0)
            answer = asked.result(30)
    assert answer.status_code == 503, answer.text
    assert answer.json()["error"]["message"].startswith("The server is stopping.")
