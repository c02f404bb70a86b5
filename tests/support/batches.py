"""A queue run by a process of its own, so that it can be killed; and what must be true of a folder
whatever happened to the process.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

from ..conftest import ROOT

QUICK = {"size": "64x64", "steps": 1, "cfg": 1}
_RUN = "import sys; from tests import conftest; from inkstone.headless.cli.main import main; "
_RUN += "sys.exit(main(sys.argv[1:]))"


def write_jobs(path: Path, jobs: list[dict]) -> Path:
    """A jobs file."""
    path.write_text("".join(json.dumps(job) + "\n" for job in jobs), encoding="utf-8")
    return path


def started(arguments: list[object], **more: object) -> subprocess.Popen:
    """`inkstone batch` as a process, on this tree."""
    command = [sys.executable, "-c", _RUN, "batch", *map(str, arguments)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True} | more
    return subprocess.Popen(command, cwd=ROOT, **pipes)


def importable(folder: Path) -> dict[str, str]:
    """An environment in which every process, also a worker of Ray, can import this tree."""
    folder.mkdir(exist_ok=True)
    (folder / "inkstone").symlink_to(ROOT, target_is_directory=True)
    paths = [str(folder), *filter(None, [os.environ.get("PYTHONPATH")])]
    return os.environ | {"PYTHONPATH": os.pathsep.join(paths)}


def records(folder: Path) -> list[dict]:
    """All whole lines of the journal."""
    path = folder / "results.jsonl"
    text = path.read_text("utf-8") if path.exists() else ""
    return [json.loads(line) for line in text.split("\n")[:-1]]


def check_whole(folder: Path, count: int) -> None:
    """Every job has exactly one record and its files, every PNG opens, and nothing else lies there.

    Raises AssertionError.
    """
    from PIL import Image

    lines = records(folder)
    names = [record["id"] for record in lines]
    assert len(names) == count, f"{len(names)} records for {count} jobs"
    assert len(set(names)) == count, "a job has two records"
    listed = {name for record in lines for name in record["files"]}
    here = {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}
    known = {"results.jsonl", "metrics.jsonl", "metrics.prom", ".lock"}
    assert here - known == listed, f"files that do not fit the journal: {(here - known) ^ listed}"
    for name in listed:
        if name.endswith(".png"):
            with Image.open(folder / name) as picture:
                picture.load()


def pixels(path: Path) -> str:
    """A hash of a picture's values."""
    from PIL import Image

    with Image.open(path) as picture:
        return hashlib.sha256(picture.tobytes()).hexdigest()
