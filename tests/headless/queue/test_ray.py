"""A queue on a local Ray cluster with two workers, one of which is killed; how jobs are shared out.

Ray is no part of the test extra: `pip install ray` runs the first test (a minute).
"""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import time

import pytest

from inkstone.headless.draw.request import DrawCall
from inkstone.headless.queue.jobs import Job

from ...support.batches import QUICK, check_whole, importable, records, started, write_jobs

needs_ray = pytest.mark.skipif(
    importlib.util.find_spec("ray") is None, reason="Ray is not installed: pip install ray"
)


@pytest.mark.ray
@needs_ray
def test_a_killed_worker_costs_its_job_one_retry(tmp_path):
    jobs = [
        {"id": f"j{k}", "prompt": "a red circle", "seed": k, **QUICK, "steps": 40}
        for k in range(24)
    ]
    path, folder = write_jobs(tmp_path / "jobs.jsonl", jobs), tmp_path / "out"
    call = [path, "--output", folder, "--ray", "local", "--workers", "2", "--json"]
    process = started(call, env=importable(tmp_path / "packages"))
    while len(records(folder)) < 4 and process.poll() is None:
        time.sleep(0.02)
    if process.poll() is None:
        os.kill(records(folder)[-1]["process"], signal.SIGKILL)
    stdout, stderr = process.communicate()
    assert process.returncode == 0, stderr
    check_whole(folder, len(jobs))
    tries = [record["attempts"] for record in records(folder)]
    assert sorted(tries) == [1] * 23 + [2], f"attempts {tries}\n{stderr}"
    assert {record["status"] for record in records(folder)} == {"done"}
    assert json.loads(stdout)["metrics"]["retries"] == 1
    assert len({record["process"] for record in records(folder)}) == 3, "another took its place"


def jobs_of(*models: str) -> list[Job]:
    return [Job(k, f"{m}{k}", f"{k}", "", DrawCall("x", dtype=m)) for k, m in enumerate(models)]


def share_of(*models: str, workers: int = 2):
    from inkstone.headless.queue.share import Share

    return Share(jobs_of(*models), workers)


def test_each_worker_keeps_to_its_models():
    share = share_of(*"a" * 8, *"b" * 8)
    first, second = [], []
    for _ in range(8):
        first.append(share.take(0)[0].name[0])
        second.append(share.take(1)[0].name[0])
    assert first == ["a"] * 8 and second == ["b"] * 8
    assert share.take(0) is None and share.take(1) is None and len(share) == 0


def test_every_job_is_given_once_and_the_last_ones_are_taken_from_others():
    share, got = share_of(*"a" * 40), []
    while (pair := share.take(0)) is not None:
        got.append(pair[0].name)
        if len(got) == 3:
            got.append(share.take(1)[0].name)  # takes some, then is busy for long
    assert sorted(got) == sorted(job.name for job in jobs_of(*"a" * 40))


def test_what_a_lost_worker_had_waits_again_first():
    share = share_of(*"a" * 12)
    job, near = share.take(0)
    assert near[0] is job and len(near) == 3
    share.give_back(0, job)
    names = [share.take(1)[0].name for _ in range(12)]
    assert names == [f"a{k}" for k in range(12)]


def test_without_ray_the_call_is_wrong(place, capsys, monkeypatch):
    from inkstone.headless.cli.main import main

    monkeypatch.setitem(__import__("sys").modules, "ray", None)
    write_jobs(place / "jobs.jsonl", [{"prompt": "x"}])
    assert main(["batch", "jobs.jsonl", "--output", "out", "--ray", "auto", "--quiet"]) == 2
    assert "pip install 'inkstone[ray]'" in capsys.readouterr().err
