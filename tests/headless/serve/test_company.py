"""Jobs of a server that share a pass, and prompts that are encoded ahead."""

from __future__ import annotations

import io
import time

import pytest
from PIL import Image, ImageChops

from inkstone.headless.draw.drawer import Drawer
from inkstone.headless.queue.worker import Worker
from inkstone.headless.serve.desk import hand as hands
from inkstone.headless.serve.desk.hand import LocalHand
from inkstone.headless.serve.desk.settings import ServeCall
from inkstone.loaders.memory.residency import Residency, residencies

from .running import Served, httpx, serving

JOB = {"size": "64x64", "steps": 3}
PROMPTS = ("a red circle", "a large blue square on a yellow background", "a green star")
LONG = {"prompt": "a red circle", "size": "64x64", "steps": 100, "cfg": 1.0}


@pytest.fixture
def server(tmp_path, monkeypatch):
    """A server whose jobs share passes of up to four."""
    monkeypatch.setattr(LocalHand, "most", lambda self, job: 4)
    with serving(ServeCall(models=tmp_path)) as served:
        yield served


def sent(server: Served, *jobs: dict) -> list[str]:
    """The ids of jobs that came while another one ran, which is over now."""
    with server.slowly(60, first=True):
        first = server.client.post("/v1/jobs", json={**LONG, "seed": 0}).json()["id"]
        server.running(first)
        names = [server.client.post("/v1/jobs", json=job).json()["id"] for job in jobs]
        server.client.delete(f"/v1/jobs/{first}")
    return names


def pixels(server: Served, job: dict) -> Image.Image:
    """The picture of a job."""
    return Image.open(io.BytesIO(server.client.get(job["files"][0]).content)).convert("RGB")


def passes(server: Served, names: list[str]) -> list[object]:
    """How many jobs shared the pass of each, as the journal says."""
    import json

    path = server.desk._results.folder / "results.jsonl"
    records = {one["id"]: one for one in map(json.loads, path.read_text().splitlines())}
    return [records[name].get("shared_pass") for name in names]


def test_jobs_in_one_pass_are_the_pictures_that_they_are_alone(server, monkeypatch):
    jobs = [{**JOB, "prompt": text, "seed": seed} for seed, text in enumerate(PROMPTS)]
    names = sent(server, *jobs)
    together = [server.ended(name) for name in names]
    assert passes(server, names) == [3, 3, 3]
    assert [(job["state"], job["step"], job["steps"]) for job in together] == [("done", 3, 3)] * 3
    assert all(job["seconds"]["denoise"] > 0 for job in together)
    monkeypatch.setattr(LocalHand, "most", lambda self, job: 1)
    for job, mate in zip(jobs, together, strict=True):
        alone = server.ended(server.client.post("/v1/jobs", json=job).json()["id"])
        assert passes(server, [alone["id"]]) == [None]
        assert not ImageChops.difference(pixels(server, alone), pixels(server, mate)).getbbox()


def test_jobs_of_another_size_or_with_pictures_draw_alone(server):
    names = sent(
        server,
        {**JOB, "prompt": PROMPTS[0]},
        {**JOB, "prompt": PROMPTS[1], "size": "64x80"},
        {**JOB, "prompt": PROMPTS[2]},
        {**JOB, "prompt": PROMPTS[2], "n": 2},
    )
    for name in names:
        assert server.ended(name)["state"] == "done"
    assert passes(server, names) == [2, None, 2, None]


@pytest.mark.parametrize("which", [0, 1])
def test_one_of_a_pass_is_cancelled_within_a_step_and_the_other_goes_on(server, which):
    with server.slowly(0.1):
        names = sent(server, {**LONG, "seed": 1}, {**LONG, "prompt": PROMPTS[1], "seed": 2})
        for name in names:
            server.running(name)
        step = server.client.get(f"/v1/jobs/{names[which]}").json()["step"]
        job = server.client.delete(f"/v1/jobs/{names[which]}").json()
    assert job["state"] == "cancelled" and job["step"] <= step + 1
    other = server.ended(names[1 - which])
    assert (other["state"], other["step"]) == ("done", 100)
    assert server.ended(names[which])["state"] == "cancelled"
    assert passes(server, [names[1 - which]]) == [2]


def test_a_fault_of_a_pass_costs_no_job(server, monkeypatch):
    def broken(*args):
        raise RuntimeError("of the pass")

    monkeypatch.setattr(hands, "denoise_ahead", broken)
    names = sent(server, *({**JOB, "prompt": text} for text in PROMPTS))
    for name in names:
        assert server.ended(name)["state"] == "done"
    assert passes(server, names) == [None] * 3


def test_a_deadline_ends_all_of_a_pass(tmp_path, monkeypatch):
    from inkstone.headless.serve.desk.settings import Limits

    monkeypatch.setattr(LocalHand, "most", lambda self, job: 4)
    limits = Limits(seconds=1)
    with serving(ServeCall(models=tmp_path, limits=limits)) as server:
        slow = {**LONG, "size": "256x256"}
        names = sent(server, {**slow, "seed": 1}, {**slow, "seed": 2})
        for name in names:
            job = server.ended(name)
            assert job["state"] == "failed" and "longer than 1 s" in job["error"], job
        done = server.client.post("/v1/jobs", json={**JOB, "prompt": PROMPTS[0]}).json()["id"]
        assert server.ended(done)["state"] == "done"


def test_previews_are_each_jobs_own(server):
    with server.slowly(0.1):
        names = sent(server, {**LONG, "seed": 1}, {**LONG, "prompt": PROMPTS[1], "seed": 2})
        until = time.monotonic() + 30
        while True:
            assert time.monotonic() < until
            jobs = [
                server.client.get(f"/v1/jobs/{name}", params={"preview": "true"}).json()
                for name in names
            ]
            if all(job.get("preview") for job in jobs):
                break
    assert jobs[0]["preview"] != jobs[1]["preview"]


@pytest.mark.parametrize(("absent", "ahead"), [(True, [3]), (False, [])])
def test_prompts_are_encoded_ahead_where_the_encoder_has_to_be_loaded(
    tmp_path, monkeypatch, absent, ahead
):
    calls = []
    real = Worker.ahead

    def noted(self, jobs):
        before = self.drawer.prompts_encoded
        real(self, jobs)
        calls.append(self.drawer.prompts_encoded - before)

    monkeypatch.setattr(Worker, "ahead", noted)
    with serving(ServeCall(models=tmp_path)) as server:
        monkeypatch.setattr(Drawer, "needs_encoder", lambda self, call: absent)
        jobs = [{**JOB, "prompt": f"{text} left", "cfg": 1.0} for text in PROMPTS]
        for name in sent(server, *jobs):
            assert server.ended(name)["state"] == "done"
        assert calls[:1] == ahead and not any(calls[1:])
        assert server.desk._hands[0]._worker.drawer.prompts_encoded == 4


def test_one_prompt_of_many_requests_is_encoded_once(tmp_path):
    with serving(ServeCall(models=tmp_path)) as server:
        for seed in range(3):
            job = {**JOB, "prompt": PROMPTS[0], "cfg": 1.0, "seed": seed}
            assert server.ended(server.client.post("/v1/jobs", json=job).json()["id"])
        answer = server.client.post(
            "/v1/images/generations",
            json={
                "prompt": PROMPTS[0],
                "size": "64x64",
                "inkstone": {"steps": 1, "cfg": 1.0, "seed": 9},
            },
        )
        assert answer.status_code == httpx.codes.OK
        text = server.client.get("/metrics").text
        assert "\ninkstone_batch_prompts_encoded_total 1.0\n" in text, text


@pytest.mark.parametrize("streamed", [False, True])
def test_jobs_share_a_pass_where_the_models_weights_are_streamed(tmp_path, monkeypatch, streamed):
    """A hand knows it once such a job has run."""
    if streamed:
        for one in residencies():  # of other tests: to unload them would make room for all blocks
            one.park()
        monkeypatch.setattr(Residency, "_room", two_blocks)
    with serving(ServeCall(models=tmp_path)) as server:
        jobs = [{**JOB, "prompt": text, "seed": 1} for text in PROMPTS]
        first = server.client.post("/v1/jobs", json=jobs[0]).json()["id"]
        assert server.ended(first)["state"] == "done"
        names = sent(server, *jobs)
        pictures = [pixels(server, server.ended(name)) for name in names]
        assert passes(server, names) == ([3] * 3 if streamed else [None] * 3)
        assert not ImageChops.difference(pictures[0], pixels(server, server.ended(first))).getbbox()


def two_blocks(self: Residency, budget: object, working: int, makes: bool = True) -> int:
    """Room for two blocks of each network, and for all of one that has none."""
    rest, groups = self.sizes
    others = sum(one.reserved for one in self._others())
    return working + others + rest + 2 * max(groups, default=0)
