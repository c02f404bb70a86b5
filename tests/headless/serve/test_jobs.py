"""Jobs of a server: states, events, cancelling, full queues, restarts and kills."""

from __future__ import annotations

import io
import json
import os
import signal
import time
from pathlib import Path

import pytest
from PIL import Image

from inkstone.headless.serve.desk.settings import Limits, ServeCall

from .running import SLOW, Process, as_text, httpx, keys_file, png, serving

JOB = {"prompt": "a red circle", "size": "64x64", "steps": 2, "seed": 1}


def test_a_job_from_line_to_file(server):
    answer = server.client.post("/v1/jobs", json=JOB)
    job = answer.json()
    assert answer.status_code == 202 and answer.headers["location"] == f"/v1/jobs/{job['id']}"
    done = server.ended(job["id"])
    assert (done["state"], done["step"], done["steps"], done["seed"]) == ("done", 2, 2, 1)
    (address,) = done["files"]
    file = server.client.get(address)
    assert file.headers["content-type"] == "image/png" and file.content[:4] == b"\x89PNG"
    assert len(job["id"]) == 32 and job["id"] in address, "128 bits that nobody guesses"
    server.client.delete(f"/v1/jobs/{job['id']}")
    assert server.client.get(address).status_code == 404
    assert server.client.get(f"/v1/jobs/{job['id']}").status_code == 404


def test_a_job_with_pictures_and_two_results(server):
    job = {**JOB, "image": [as_text(png())], "mask": as_text(png(colour=255)), "n": 2}
    del job["size"]
    name = server.client.post("/v1/jobs", json=job).json()["id"]
    assert len(server.ended(name)["files"]) == 2


def test_a_negative_prompt_that_is_not_read_is_a_note(server):
    job = {**JOB, "cfg": 1, "negative": "red"}
    notes = server.ended(server.client.post("/v1/jobs", json=job).json()["id"])["notes"]
    (note,) = [one for one in notes if "negative" in one]
    assert note.startswith("the negative prompt has no effect")
    error = server.client.post("/v1/jobs", json={**JOB, "control_fit": "crop"}).json()["error"]
    assert error["param"] == "control_fit" and "--" not in error["message"]


@pytest.mark.parametrize("more", [{}, {"image": as_text(png(61, 47))}])
def test_auto_is_no_size(server, more):
    job = {**JOB, **more, "size": "auto"}
    name = server.client.post("/v1/jobs", json=job).json()["id"]
    data = server.client.get(server.ended(name)["files"][0]).content
    assert Image.open(io.BytesIO(data)).size == ((61, 47) if more else (128, 128))


def test_a_jobs_options_stand_beside_its_prompt(server):
    answer = server.client.post("/v1/jobs", json={"prompt": "x", "inkstone": {"steps": 2}})
    error = answer.json()["error"]
    assert answer.status_code == 400 and error["param"] == "inkstone"
    assert "beside the prompt" in error["message"] and "no option" not in error["message"]


def test_events_end_with_the_state(server):
    states, previews = [], 0
    with server.slowly(0.05):
        name = server.client.post("/v1/jobs", json={**SLOW, "steps": 30}).json()["id"]
        with server.client.stream("GET", f"/v1/jobs/{name}/events") as events:
            for line in events.iter_lines():
                if line.startswith("data: {"):
                    data = json.loads(line[6:])
                    states.append((data["state"], data["step"]))
                    previews += bool(data["preview"])
    assert states[-1] == ("done", 30) and ("running", 1) <= states[-2] and previews
    assert sorted(step for _, step in states) == [step for _, step in states]


@pytest.mark.parametrize("size", ["64x64", "512x512"])
def test_a_running_job_is_cancelled_within_a_step(server, size):
    with server.slowly(0.1):
        name = server.client.post("/v1/jobs", json={**SLOW, "size": size}).json()["id"]
        if size == "64x64":
            server.running(name)
        else:
            while server.client.get(f"/v1/jobs/{name}").json()["state"] != "running":
                time.sleep(0.01)
            time.sleep(0.3)  # within a step
        step = server.client.get(f"/v1/jobs/{name}").json()["step"]
        job = server.client.delete(f"/v1/jobs/{name}").json()
    assert job["state"] == "cancelled" and job["files"] == [] and job["step"] <= step + 1
    assert server.ended(server.client.post("/v1/jobs", json=JOB).json()["id"])["state"] == "done"


def test_a_waiting_job_has_its_place_and_leaves_it(tmp_path):
    with serving(ServeCall(models=tmp_path), start=False) as server:
        names = [server.client.post("/v1/jobs", json=JOB).json()["id"] for _ in range(3)]
        places = [server.client.get(f"/v1/jobs/{name}").json()["place"] for name in names]
        assert places == [1, 2, 3]
        assert server.desk.place(server.desk.ticket(names[2], "anybody")) == 3


def test_a_full_queue_answers_429_before_anything_is_read(tmp_path):
    limits = Limits(queue=2, per_key=2)
    with serving(ServeCall(models=tmp_path, limits=limits), start=False) as server:
        for _ in range(2):
            assert server.client.post("/v1/jobs", json=JOB).status_code == 202
        for text in (b"no json", b"[" * 10_000, b"\xff" * (4 << 20)):
            answer = server.client.post("/v1/jobs", content=text)
            assert answer.status_code == 429 and int(answer.headers["retry-after"]) >= 1
            assert answer.json()["error"]["type"] == "rate_limit_error"


def test_a_key_has_its_own_share_and_sees_its_own_jobs(tmp_path):
    one, two = "k" * 20, "m" * 20
    call = ServeCall(
        models=tmp_path,
        api_key_file=keys_file(tmp_path, one, two),
        limits=Limits(queue=9, per_key=1),
    )
    with serving(call, start=False) as server:

        def ask(method: str, path: str, key: str, **more: object) -> httpx.Response:
            headers = {"Authorization": f"Bearer {key}"}
            return server.client.request(method, path, headers=headers, **more)

        name = ask("POST", "/v1/jobs", one, json=JOB).json()["id"]
        assert ask("POST", "/v1/jobs", one, json=JOB).status_code == 429
        assert ask("POST", "/v1/jobs", two, json=JOB).status_code == 202
        assert ask("GET", f"/v1/jobs/{name}", one).status_code == 200
        for method in ("GET", "DELETE"):
            assert ask(method, f"/v1/jobs/{name}", two).status_code == 404


def test_results_expire(tmp_path):
    with serving(ServeCall(models=tmp_path, keep=2)) as server:
        name = server.client.post("/v1/jobs", json=JOB).json()["id"]
        (address,) = server.ended(name)["files"]
        until = time.monotonic() + 10
        while server.client.get(address).status_code != 404:
            assert time.monotonic() < until
            time.sleep(0.1)
        assert server.client.get(f"/v1/jobs/{name}").status_code == 404


def test_no_prompt_is_kept_after_a_job(tmp_path):
    secret = "an unmistakable sentence"
    state = tmp_path / "state"
    with serving(ServeCall(models=tmp_path, state=state)) as server:
        job = {**JOB, "prompt": secret, "negative": secret, "region": f"{secret}:0,0,32,32"}
        name = server.client.post("/v1/jobs", json=job).json()["id"]
        assert server.ended(name)["state"] == "done"
    texts = [path for path in state.rglob("*") if path.is_file() and path.suffix != ".png"]
    assert (state / "results" / "results.jsonl") in texts
    assert not [path for path in texts if secret.encode() in path.read_bytes()]


def test_metrics_count(server):
    server.ended(server.client.post("/v1/jobs", json=JOB).json()["id"])
    text = server.client.get("/metrics").text
    for name in ("jobs_total", "job_seconds_bucket", "images_per_hour", "peak_memory_bytes"):
        assert f"\ninkstone_batch_{name}" in text, name
    assert 'stage_duration_seconds_bucket{le="0.1",stage="denoise"}' in text
    assert "\ninkstone_serve_waiting 0\n" in text
    assert server.client.get("/ready").json() == {"status": "ready"}
    assert server.client.get("/health").status_code == 200


def records(folder: Path) -> list[str]:
    """The ids in the journal."""
    lines = (folder / "state" / "results" / "results.jsonl").read_text().splitlines()
    return [json.loads(line)["id"] for line in lines]


@pytest.mark.slow
@pytest.mark.parametrize("kills", [3])
def test_every_accepted_job_ends_once_through_kills(tmp_path, kills):
    accepted: list[str] = []
    for k in range(kills):
        server = Process(tmp_path)
        for _ in range(4):
            accepted.append(server.client.post("/v1/jobs", json=JOB).json()["id"])
        time.sleep(0.05 + 0.15 * k)
        server.end(signal.SIGKILL)
    server = Process(tmp_path)
    until = time.monotonic() + 60
    while any(server.client.get(f"/v1/jobs/{name}").json()["state"] != "done" for name in accepted):
        assert time.monotonic() < until
        time.sleep(0.1)
    files = server.client.get(f"/v1/jobs/{accepted[0]}").json()["files"]
    assert server.client.get(files[0]).content[:4] == b"\x89PNG", "of an earlier process"
    assert server.end(signal.SIGTERM) == 0
    assert sorted(records(tmp_path)) == sorted(accepted)
    assert os.listdir(tmp_path / "state" / "accepted") == []


@pytest.mark.slow
def test_a_stop_finishes_what_runs_and_hands_back_the_rest(tmp_path):
    server = Process(tmp_path)
    first = server.client.post("/v1/jobs", json={**JOB, "steps": 100}).json()["id"]
    rest = [server.client.post("/v1/jobs", json=JOB).json()["id"] for _ in range(3)]
    while not server.client.get(f"/v1/jobs/{first}").json()["step"]:
        time.sleep(0.01)
    assert server.end(signal.SIGTERM) == 0
    assert first in records(tmp_path)
    left = os.listdir(tmp_path / "state" / "accepted")
    assert sorted(left + records(tmp_path)) == sorted([first, *rest]) and left


@pytest.mark.slow
def test_no_word_of_a_prompt_is_logged(tmp_path):
    server = Process(tmp_path)
    job = {
        **JOB,
        "prompt": "a red zyzzogeton",
    }  # the embedded model warns of words it does not know
    name = server.client.post("/v1/jobs", json=job).json()["id"]
    while server.client.get(f"/v1/jobs/{name}").json()["state"] != "done":
        time.sleep(0.05)
    server.end(signal.SIGTERM)
    text = (tmp_path / "log").read_text()
    assert "serving at" in text and "zyzzogeton" not in text and name not in text
