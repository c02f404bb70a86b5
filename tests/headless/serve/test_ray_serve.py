"""A server on a local Ray cluster with two replicas, one of which is killed.

Ray is no part of the test extra: `pip install '.[ray]'` runs the first test (a minute).
"""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import tempfile
import time
from pathlib import Path

import pytest

from inkstone.errors import CallError
from inkstone.headless.arg_types import workers_range
from inkstone.headless.cli.main import main
from inkstone.headless.queue.worker import Places
from inkstone.headless.serve.desk.settings import Limits, RayCall

from ...support.batches import importable
from .running import Process, as_text, png

needs_ray = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("ray", "grpc", "grpc_reflection")),
    reason="Ray is not installed: pip install '.[ray]'",
)
PROMPT = "a red zyzzogeton"  # the embedded model warns of words that it does not know


def metric(server: Process, name: str) -> float:
    lines = server.client.get("/metrics").text.splitlines()
    return next(float(line.split()[1]) for line in lines if line.startswith(f"{name} "))


def wait(condition, seconds: float = 60) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "it takes too long"
        time.sleep(0.02)


def records(folder: Path) -> list[dict]:
    path = folder / "state" / "results" / "results.jsonl"  # of jobs that have ended
    return [json.loads(line) for line in path.read_text().splitlines()]


def ours(folder: Path) -> list[Path]:
    """Processes that were started in the environment of this test."""
    mark, found = str(folder / "packages").encode(), []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if mark in (process / "environ").read_bytes():
                found.append(process)
        except OSError:
            continue
    return found


def replicas(folder: Path) -> list[int]:
    """The processes that draw."""
    lines = {process: (process / "cmdline").read_bytes() for process in ours(folder)}
    return [int(process.name) for process, line in lines.items() if b"ServeReplica" in line]


@pytest.fixture
def temporary():
    """A folder with a short name: Ray's sockets lie below it."""
    with tempfile.TemporaryDirectory(prefix="ink") as folder:
        yield Path(folder)


@pytest.mark.ray
@needs_ray
def test_a_killed_replica_costs_a_retry_and_nothing_stays(tmp_path, temporary):
    env = importable(tmp_path / "packages") | {"TMPDIR": str(temporary)}
    server = Process(tmp_path, "--ray", "local", "--workers", "2", env=env, seconds=150)
    get, post = server.client.get, server.client.post
    try:
        wait(lambda: metric(server, "inkstone_serve_workers") == 2)
        assert get("/ready").status_code == 200
        work = {"prompt": PROMPT, "size": "128x128", "steps": 100}
        edit = {"prompt": PROMPT, "image": as_text(png()), "mask": as_text(png(colour=255)), "n": 2}
        names = [post("/v1/jobs", json=work | {"seed": k}).json()["id"] for k in range(2)]
        names += [post("/v1/jobs", json=edit | {"steps": 2}).json()["id"] for _ in range(4)]
        wait(lambda: all(get(f"/v1/jobs/{name}").json()["step"] >= 2 for name in names[:2]))
        os.kill(replicas(tmp_path)[0], signal.SIGKILL)
        wait(lambda: len(records(tmp_path)) == len(names))
        jobs = [get(f"/v1/jobs/{name}").json() for name in names]
        assert [job["state"] for job in jobs] == ["done"] * len(names)
        assert [len(job["files"]) for job in jobs] == [1] * 2 + [2] * 4
        assert get(jobs[-1]["files"][1]).content[:4] == b"\x89PNG"
        tries = sorted(record["attempts"] for record in records(tmp_path))
        assert tries == [1] * 5 + [2], f"attempts {tries}"
        assert metric(server, "inkstone_batch_retries_total") == 1

        long = post("/v1/jobs", json=work | {"size": "256x256"}).json()["id"]
        wait(lambda: get(f"/v1/jobs/{long}?preview=true").json().get("preview"))
        began = time.monotonic()
        assert server.client.delete(f"/v1/jobs/{long}").json()["state"] == "cancelled"
        assert time.monotonic() - began < 1, "a second"
        last = post("/v1/jobs", json=edit).json()["id"]
        wait(lambda: get(f"/v1/jobs/{last}").json()["state"] == "done")
    except BaseException:
        server.process.kill()
        print((tmp_path / "log").read_text())
        raise
    assert server.end(signal.SIGTERM) == 0
    wait(lambda: not ours(tmp_path), 20)
    assert not list(temporary.glob("inkstone-*")), "folders of replicas"
    logs = [path for path in temporary.rglob("*") if path.is_file()]
    assert logs and not [path for path in logs if b"zyzzogeton" in path.read_bytes()]
    assert "zyzzogeton" not in (tmp_path / "log").read_text()


@pytest.mark.parametrize("text, pair", [("2", (2, 2)), ("1:4", (1, 4)), ("3:3", (3, 3))])
def test_workers_are_a_number_or_two(text, pair):
    assert workers_range(text) == pair


@pytest.mark.parametrize("text", ["0", "4:1", ":2", "2:", "1:2:3", "x", "", "1.5", "99999"])
def test_other_workers_are_refused(text, capsys):
    with pytest.raises(SystemExit) as end:
        main(["serve", "--ray", "local", "--workers", text])
    assert end.value.code == 2 and "such as 1:4" in capsys.readouterr().err


def test_workers_are_for_ray(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["serve", "--workers", "2"]) == 2
    assert "--workers is for --ray" in capsys.readouterr().err


def test_without_ray_the_call_is_wrong(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(__import__("sys").modules, "ray", None)
    assert main(["serve", "--ray", "auto", "--port", "0", "--quiet"]) == 2
    assert "pip install 'inkstone[ray]'" in capsys.readouterr().err


def test_an_address_without_streams_is_refused():
    from inkstone.headless.serve.replicas.ray_replicas import ray_hands

    with pytest.raises(CallError, match="--ray auto"):
        ray_hands(RayCall("ray://head:10001"), Limits())(Path("work"), Places())
