"""A job that is cancelled in any phase ends there: nothing that would follow runs.

The phase itself waits until the cancel has come, so that no test depends on time.
"""

from __future__ import annotations

import json
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from inkstone.headless.draw import save
from inkstone.headless.draw.drawer import Drawer
from inkstone.headless.serve.desk.settings import ServeCall

from .running import as_text, png, serving
from .test_jobs import JOB
from .test_slow_clients import POST, linked, until

LONG = 40  # seconds: only a fault waits for so long
UPSCALED = {**JOB, "upscale": 2, "n": 2, "size": "128x128"}
PHASES = [
    ("LoadAll", JOB),
    ("EncodePrompt", JOB),
    ("Denoise", JOB),
    ("Decode", JOB),
    ("UpscalePicture", UPSCALED),
    ("EncodeEdit", {**{k: v for k, v in JOB.items() if k != "size"}, "image": as_text(png())}),
]


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with serving(ServeCall(models=tmp_path_factory.mktemp("models"))) as served:
        yield served


class Phase:
    """Stops a drawing at a node until its job is cancelled, and counts what runs."""

    def __init__(self, monkeypatch, kind: str) -> None:
        self.kind, self.ran, self.there = kind, [], threading.Event()
        plain = Drawer._count

        def counted(drawer: Drawer, event) -> None:
            name = event.data["class_type"].removeprefix("Inkstone")
            self.ran.append(name)
            if name.startswith(kind) and not self.there.is_set():
                self.there.set()
                assert drawer.stop.wait(LONG), "no cancel came"
            plain(drawer, event)

        monkeypatch.setattr(Drawer, "_count", counted)


def fresh(server) -> None:
    """No model and no prompt is kept from an earlier job."""
    for hand in server.desk._hands:
        hand._worker.drawer.clear()


@pytest.mark.parametrize("kind, job", PHASES, ids=[kind for kind, _ in PHASES])
def test_a_job_ends_in_the_phase_in_which_it_is_cancelled(server, monkeypatch, kind, job):
    fresh(server)
    phase = Phase(monkeypatch, kind)
    name = server.client.post("/v1/jobs", json=job).json()["id"]
    assert phase.there.wait(LONG), phase.ran
    ended = server.client.delete(f"/v1/jobs/{name}").json()
    assert ended["state"] == "cancelled" and ended["files"] == []
    assert phase.ran[-1].startswith(kind), phase.ran
    monkeypatch.undo()
    assert server.ended(server.client.post("/v1/jobs", json=JOB).json()["id"])["state"] == "done"


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("kind", ["LoadAll", "EncodePrompt", "Denoise", "Decode"])
def test_a_request_ends_where_its_client_hangs_up(server, monkeypatch, kind, stream):
    fresh(server)
    phase = Phase(monkeypatch, kind)
    data = {"prompt": "a red circle", "size": "64x64", "stream": stream, "inkstone": {"steps": 2}}
    body = json.dumps(data).encode()
    head = POST.replace(b"/v1/jobs", b"/v1/images/generations")
    with linked(server) as link:
        link.sendall(head + b"Content-Length: %d\r\n\r\n" % len(body) + body)
        assert phase.there.wait(LONG), phase.ran
    until(lambda: server.desk.numbers()[2] == 0, "it still draws for nobody", LONG)
    assert phase.ran[-1].startswith(kind), phase.ran


def test_saving_ends_between_two_pictures(server, monkeypatch):
    saved, there, plain = [], threading.Event(), save.save_png
    (hand,) = server.desk._hands

    def slowly(path, *rest) -> None:
        saved.append(path)
        there.set()
        assert hand.stop.wait(LONG), "no cancel came"
        plain(path, *rest)

    monkeypatch.setattr(save, "save_png", slowly)
    name = server.client.post("/v1/jobs", json={**JOB, "n": 3}).json()["id"]
    assert there.wait(LONG)
    ended = server.client.delete(f"/v1/jobs/{name}").json()
    assert (ended["state"], ended["files"], len(saved)) == ("cancelled", [], 1)


def test_a_waiting_job_ends_at_once_and_leaves_nothing(tmp_path):
    call = ServeCall(models=tmp_path, state=tmp_path / "state")
    with serving(call, start=False) as server:
        names = [server.client.post("/v1/jobs", json=JOB).json()["id"] for _ in range(3)]
        with ThreadPoolExecutor(3) as pool:  # all at the same time, each of them twice
            answers = list(pool.map(lambda n: server.client.delete(f"/v1/jobs/{n}"), names * 2))
        assert {answer.status_code for answer in answers} <= {200, 404}
        assert server.desk.numbers()[1] == 0
        assert list((tmp_path / "state" / "accepted").iterdir()) == []
