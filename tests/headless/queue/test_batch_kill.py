"""Killed anywhere: no half-written file, no job lost, none twice.

The first test ends a process before every single thing that a commit does to the disk, the second
kills real runs with signal 9 (more of them: bench/batch.py).
"""

from __future__ import annotations

import os
import random
import time
from pathlib import Path

import pytest

from inkstone.headless.queue import journal as batch_results
from inkstone.headless.queue.jobs import Job
from inkstone.headless.queue.journal import DONE, Outcome, Results

from ...support.batches import QUICK, check_whole, pixels, records, started, write_jobs

JOBS = [Job(line, name, name * 8, "") for line, name in enumerate("abc", 1)]
unix = pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are forked and killed")


class Countdown:
    """Ends this process before the nth call of anything that it stands for."""

    def __init__(self, calls: int) -> None:
        self.left = calls

    def before(self, function):
        """The function; at the end of the count nothing of it happens, no `finally` runs."""

        def call(*args):
            self.left -= 1
            if self.left < 0:
                os._exit(9)
            return function(*args)

        return call


def draw_all(folder: Path) -> None:
    """Runs the jobs that are not done, as a real run does: two files for each."""
    with Results(folder) as results:
        for job in JOBS:
            if not results.is_done(job):
                files = [results.work / f"{job.name}_{k}.bin" for k in (1, 2)]
                for file in files:
                    file.write_bytes(job.name.encode() * 5000)
                results.commit(Outcome(job, DONE, files, {"call": {"prompt": "x" * 100}}))


def killed_at(folder: Path, calls: int) -> bool:
    """Runs draw_all in a process that ends after so many calls; False where it got through."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    count = Countdown(calls)
    real = batch_results.Results._open_journal

    def open_journal(self):
        real(self)
        journal = self._journal

        class Torn:
            """Writes a line in two pieces, so that it can be cut off."""

            fileno, truncate, close = journal.fileno, journal.truncate, journal.close

            @staticmethod
            def write(data):
                return count.before(journal.write)(bytes(data[: max(1, len(data) // 2)]))

        self._journal = Torn

    batch_results.Results._open_journal = open_journal
    for name in ("replace", "fsync", "unlink"):
        setattr(os, name, count.before(getattr(os, name)))
    try:
        draw_all(folder)
    finally:
        os._exit(0)


@pytest.mark.slow
@unix
def test_killed_before_every_step_of_a_commit(tmp_path):
    for calls in range(1000):
        folder = tmp_path / str(calls)
        killed = killed_at(folder, calls)
        before = records(folder)
        for record in before:  # a record that is there has its files, whole
            for name in record["files"]:
                assert (folder / name).read_bytes() == record["id"].encode() * 5000
        if killed and calls % 3 == 0:  # once more, early in the second run
            killed_at(folder, calls % 7)
        draw_all(folder)
        lines = records(folder)
        assert lines[: len(before)] == before, "what was done stays as it is"
        assert sorted(record["id"] for record in lines) == list("abc")
        left = {p.name for p in folder.iterdir()} - {"results.jsonl", ".lock"}
        assert left == {f"{name}_{k}.bin" for name in "abc" for k in (1, 2)}
        if not killed:
            break
    assert calls > 20, f"a commit has more steps than {calls}"


@pytest.mark.slow
@unix
def test_kill_9_of_real_runs(tmp_path):
    jobs = [{"prompt": f"a red circle {k % 3}", "seed": k, **QUICK} for k in range(30)]
    jobs += [jobs[0]] * 2  # equal ones
    path, folder = write_jobs(tmp_path / "jobs.jsonl", jobs), tmp_path / "out"
    chance = random.Random(7)
    for _ in range(4):
        done, process = len(records(folder)), started([path, "--output", folder, "--quiet"])
        while len(records(folder)) < done + 2 and process.poll() is None:
            time.sleep(0.02)
        time.sleep(chance.uniform(0, 0.3))
        process.kill()
        process.communicate()
    last = started([path, "--output", folder, "--quiet"])
    _, stderr = last.communicate()
    assert last.returncode == 0, stderr
    check_whole(folder, len(jobs))
    lines = records(folder)
    first, *others = [r["files"][0] for r in lines if r["call"]["seed"] == 0]
    assert len(others) == 2 and all(pixels(folder / n) == pixels(folder / first) for n in others)
