"""An output folder from somebody else: nothing outside of it is deleted, cut or written to."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from inkstone.errors import CallError
from inkstone.headless.queue.jobs import Job
from inkstone.headless.queue.journal import DONE, Outcome, Results

OWN = ("a.png", "a_2.png", "a.safetensors", "a/x_00001_.png")
OTHERS = ("b.png", "photo.jpg", "results.jsonl", ".lock", "b/x.png", "ab.png", "sub/out/victim")


def journal(folder: Path, files: object) -> None:
    """Two records of one job: the second drops the files of the first."""
    lines = [{"id": "a", "status": DONE, "job": "x", "files": f} for f in (files, [])]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (folder / "results.jsonl").write_text(text, encoding="utf-8")


@pytest.fixture
def shared(tmp_path):
    folder = tmp_path / "shared"
    for name in (*OWN, "b.png", "photo.jpg", "b/x.png", "ab.png"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("x")
    for name in ("victim", "a.png", "target/x.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("precious")
    return folder


def test_only_files_of_the_job_are_deleted(shared, tmp_path):
    (shared / "a" / "out").symlink_to(tmp_path / "target")
    out = ("../victim", "../a.png", str(tmp_path / "victim"), "a/../../victim", "a/out/x.png")
    out += ("..\\victim", "C:\\victim", "a\\..\\..\\victim", "x\0", "")
    journal(shared, [*OWN, *OTHERS, *out, 5, None, {"x": 1}])
    before = {p for p in tmp_path.rglob("*") if p.is_file()}
    with Results(shared):
        pass
    gone = before - {p for p in tmp_path.rglob("*") if p.is_file()}
    assert gone == {shared / name for name in OWN}


@pytest.mark.parametrize("files", [5, "../victim", {"../victim": 1}, [["../victim"]]])
def test_a_list_of_files_that_is_none(shared, tmp_path, files):
    journal(shared, files)
    with Results(shared):
        pass
    assert (tmp_path / "victim").exists()


@pytest.mark.parametrize("name", ["results.jsonl", ".lock", ".lock.pid", "metrics.jsonl", ".work"])
def test_files_of_the_queue_that_are_links(shared, tmp_path, name):
    victim = tmp_path / ("target" if name == ".work" else "victim")
    (shared / name).symlink_to(victim)
    with pytest.raises(CallError, match=f"{name} is a link"), Results(shared):
        pass
    assert (
        (tmp_path / "victim").read_text() == (tmp_path / "target/x.png").read_text() == "precious"
    )


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no FIFOs on this system")
def test_a_journal_that_is_a_fifo(shared):
    os.mkfifo(shared / "results.jsonl")
    with pytest.raises(CallError, match="no file, expected a file"), Results(shared):
        pass


def test_results_are_not_moved_through_a_link(shared, tmp_path):
    (shared / "c").symlink_to(tmp_path / "target")
    with Results(shared) as results:
        (results.work / "c").mkdir()
        (results.work / "c" / "x.png").write_text("new")
        outcome = Outcome(Job(1, "c", "k", ""), DONE, [results.work / "c" / "x.png"])
        with pytest.raises(Exception, match="by a link"):
            results.commit(outcome)
    assert (tmp_path / "target" / "x.png").read_text() == "precious"
