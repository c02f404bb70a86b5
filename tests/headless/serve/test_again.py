"""The same request once more, where a server may answer it with the files that it has."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from inkstone.headless.serve.desk.settings import ServeCall

from .running import Served, as_text, keys_file, png, serving

JOB = {"prompt": "a red circle", "size": "64x64", "steps": 1, "cfg": 1.0, "seed": 5}
ONE, TWO = "k" * 20, "m" * 20


@pytest.fixture
def server(tmp_path):
    """A server with two keys that caches results."""
    keys = keys_file(tmp_path, ONE, TWO)
    call = ServeCall(models=tmp_path / "models", api_key_file=keys, cache_results=True)
    with serving(call) as served:
        yield served


def ended(server: Served, job: dict, key: str = ONE) -> dict:
    """The job of a key once it is over."""
    server.client.headers["Authorization"] = f"Bearer {key}"
    return server.ended(server.client.post("/v1/jobs", json=job).json()["id"])


def data(server: Served, job: dict) -> list[bytes]:
    """The files of a job."""
    return [server.client.get(address).content for address in job["files"]]


def test_the_same_request_has_the_same_files_of_its_own(server):
    first, second = (ended(server, {**JOB, "n": 2}) for _ in range(2))
    assert (first["cached"], second["cached"]) == (False, True)
    assert data(server, first) == data(server, second) and len(second["files"]) == 2
    assert first["id"] != second["id"] and not set(first["files"]) & set(second["files"])
    records = (server.desk._results.folder / "results.jsonl").read_text().splitlines()
    assert [json.loads(line)["id"] for line in records] == [first["id"], second["id"]]
    assert "inkstone_serve_cached_total 1\n" in server.client.get("/metrics").text
    server.client.delete(f"/v1/jobs/{first['id']}")
    assert data(server, second)[0][:4] == b"\x89PNG", "it does not go with the first"
    assert ended(server, {**JOB, "n": 2})["cached"], "a copy is as good"


def test_another_key_is_not_answered_with_it(server):
    assert not ended(server, JOB)["cached"]
    assert not ended(server, JOB, TWO)["cached"]
    assert ended(server, JOB, TWO)["cached"]


@pytest.mark.parametrize(
    "other", [{"seed": 6}, {"prompt": "a red square"}, {"steps": 2}, {"n": 2}, {"size": "64x80"}]
)
def test_another_request_is_drawn(server, other):
    ended(server, JOB)
    assert not ended(server, {**JOB, **other})["cached"]


def test_pictures_count_by_what_is_in_them(server):
    job = {name: value for name, value in JOB.items() if name != "size"} | {"strength": 0.5}
    first = ended(server, {**job, "image": [as_text(png(colour=10))]})
    assert first["state"] == "done", first
    assert ended(server, {**job, "image": [as_text(png(colour=10))]})["cached"]
    assert not ended(server, {**job, "image": [as_text(png(colour=11))]})["cached"]


def test_what_failed_expired_or_was_removed_is_drawn(server):
    first = ended(server, JOB)
    server.client.delete(f"/v1/jobs/{first['id']}")
    second = ended(server, JOB)
    assert second["state"] == "done" and not second["cached"]
    Path(server.desk._tickets[second["id"]].files[0]).unlink()
    third = ended(server, JOB)
    assert third["state"] == "done" and not third["cached"]
    slow = {**JOB, "steps": 100}
    name = server.client.post("/v1/jobs", json=slow).json()["id"]
    server.client.delete(f"/v1/jobs/{name}")
    assert not ended(server, slow)["cached"], "a cancelled job answers nothing"


def test_it_is_off_by_default(tmp_path):
    with serving(ServeCall(models=tmp_path)) as server:
        assert [ended(server, JOB)["cached"] for _ in range(2)] == [False, False]
