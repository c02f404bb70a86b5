"""The output folder of a queue is taken away, replaced or closed while it runs: nothing is lost in
silence, nothing is done twice, and nothing goes into a folder of somebody else.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import tempfile
from pathlib import Path

import pytest

from inkstone.errors import InkstoneError
from inkstone.headless.queue import worker as queue_worker
from inkstone.headless.queue.journal import FolderFull, FolderLost
from inkstone.headless.queue.run import BatchCall, QueueCallbacks, batch

from ...support.batches import check_whole, records, write_jobs

IMAGE = {"width": 8, "height": 8, "batch_size": 1, "color": 0}
GRAPH = {
    "1": {"class_type": "EmptyImage", "inputs": IMAGE},
    "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "x"}},
}
COUNT = 4
unix = pytest.mark.skipif(os.name == "nt", reason="Windows keeps open files in their place")


@pytest.fixture
def jobs(place) -> Path:
    """Jobs that take no time."""
    Path("g.json").write_text(json.dumps(GRAPH))
    lines = [{"id": f"j{n}", "graph": "g.json"} for n in range(COUNT)]
    return write_jobs(Path("jobs.jsonl"), lines)


def run(jobs: Path, after_first=lambda: None) -> dict:
    """The queue; after_first is called once its first record is written."""
    left = [after_first]
    return batch(
        BatchCall(jobs, Path("out")), QueueCallbacks(record=lambda r: left and left.pop()())
    )


def replaced() -> None:
    """Another run's folder has the name now."""
    os.rename("out", "away")
    shutil.copytree("away", "out")


def emptied() -> None:
    shutil.rmtree("out")
    os.mkdir("out")
    Path("out/mine").write_text("mine")


def lock_of_another() -> None:
    os.unlink("out/.lock")
    Path("out/.lock").touch()


def longer() -> None:
    with open("out/results.jsonl", "a") as file:
        file.write('{"id": "other", "status": "failed", "files": []}\n')


LOSSES = {
    "removed": lambda: shutil.rmtree("out"),
    "renamed": lambda: os.rename("out", "away"),
    "replaced": replaced,
    "emptied": emptied,
    "the journal removed": lambda: os.unlink("out/results.jsonl"),
    "the journal cut": lambda: os.truncate("out/results.jsonl", 0),
    "another writes to the journal": longer,
    "the lock removed": lambda: os.unlink("out/.lock"),
    "the lock replaced": lock_of_another,
}


@unix
@pytest.mark.parametrize("what", LOSSES)
def test_a_folder_that_is_lost_ends_the_run(what, jobs):
    with pytest.raises((FolderLost, FolderFull), match="out.*: .*run the same command again"):
        run(jobs, LOSSES[what])
    if what == "emptied":
        assert os.listdir("out") == ["mine"], "another's folder is not touched"
        os.unlink("out/mine")
    if what == "replaced":
        assert Path("out/.work").is_dir(), "another run may be at work there"
    assert len(records(Path("out"))) <= 2 and len(records(Path("away"))) <= 1
    assert run(jobs)["done"] == COUNT
    if what != "another writes to the journal":
        check_whole(Path("out"), COUNT)


@unix
def test_a_loss_after_the_last_job_is_seen_too(jobs):
    seen = []

    def on_record(record: dict) -> None:
        seen.append(record)
        if len(seen) == COUNT:
            shutil.rmtree("out")

    with pytest.raises(FolderLost, match="removed or renamed"):
        batch(BatchCall(jobs, Path("out")), QueueCallbacks(record=on_record))


def test_a_folder_for_work_that_vanishes_is_made_again(jobs):
    run(jobs, lambda: shutil.rmtree("out/.work"))
    check_whole(Path("out"), COUNT)


@pytest.mark.parametrize("number", [errno.EACCES, errno.EROFS, errno.ENOENT, errno.ENOSPC])
def test_a_folder_that_takes_no_files_is_no_fault_of_a_job(number, jobs, monkeypatch):
    """Read-only, gone or full: the job is not written down as failed."""

    def fails(*_: object, **__: object) -> None:
        raise PermissionError(number, os.strerror(number))

    def broken(self, job: object) -> None:
        raise InkstoneError("cannot be saved")

    with monkeypatch.context() as patch:
        patch.setattr(queue_worker.Worker, "_run_graph", broken)
        patch.setattr(tempfile, "TemporaryFile", fails)
        with pytest.raises(FolderFull, match=f"{os.strerror(number)}.*continues where"):
            run(jobs)
    assert records(Path("out")) == []
    assert run(jobs)["done"] == COUNT


@pytest.mark.skipif(not Path("/proc/self/mem").exists(), reason="no file whose reads fail")
@pytest.mark.parametrize("option", ["vae", "lora", "image"])
def test_a_file_that_cannot_be_read_is_the_fault_of_its_job(option, jobs):
    """An input/output error of a model's disk is none of the output folder's."""
    line = {"prompt": "x", "steps": 1, option: "/proc/self/mem"}
    jobs.write_text(json.dumps({"id": "bad", **line}) + "\n" + jobs.read_text())
    assert run(jobs)["done"] == COUNT
    (error,) = [record["error"] for record in records(Path("out")) if record["id"] == "bad"]
    assert "/proc/self/mem" in error and "out" not in error.replace("Input/output", ""), error
