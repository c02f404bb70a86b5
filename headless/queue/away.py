"""A worker in another process than the journal's: a folder of its own, its warnings, its files as
bytes, its paths.
"""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import fields, replace
from pathlib import Path

from ..node_types import Json
from .jobs import Job
from .journal import FolderFull, Outcome

_FOLDER = "inkstone-batch-"  # and the id of the process that works in it


class WarningLog(logging.Handler):
    """Collects warnings, for the driver to print."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self._lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Add a warning."""
        self._lines.append(record.getMessage())

    def drain(self) -> list[str]:
        """The lines since the last call."""
        lines, self._lines = self._lines, []
        return lines


def own_folder() -> Path:
    """A folder of this process; those of killed workers on this machine are deleted."""
    _clean_up()
    return Path(tempfile.mkdtemp(prefix=f"{_FOLDER}{os.getpid()}-"))


def _clean_up() -> None:
    """Delete the folders of killed workers on this machine."""
    if not Path("/proc/self").exists():
        return  # only Linux has a simple way to see which processes are alive
    for folder in Path(tempfile.gettempdir()).glob(f"{_FOLDER}*"):
        owner = folder.name.removeprefix(_FOLDER).partition("-")[0]
        if owner.isdecimal() and not _is_alive(owner):
            shutil.rmtree(folder, ignore_errors=True)


def _is_alive(process: str) -> bool:
    """False for one that has ended, also where nobody has asked for its status yet."""
    try:
        status = Path("/proc", process, "stat").read_text(errors="replace")
    except OSError:
        return False
    return status.rpartition(")")[2].split()[:1] != ["Z"]


def files_of(outcome: Outcome, work: Path) -> dict[str, bytes]:
    """The files of an outcome by their names below the folder for work."""
    return {path.relative_to(work).as_posix(): path.read_bytes() for path in outcome.files}


def write_files(files: Mapping[str, bytes], work: Path) -> list[Path]:
    """Files that a worker sent, below the folder for work. Raises FolderFull."""
    paths = []
    try:
        for name, data in files.items():
            path = work / name
            if path.parent != work:
                path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
            paths.append(path)
    except OSError as error:
        raise FolderFull.of(work.parent, error) from error
    return paths


def with_paths(job: Job, change: Callable[[Path], Path]) -> Job:
    """The job with all its paths changed."""
    if job.call is None:
        assert job.graph is not None
        return replace(job, graph=change(job.graph))
    call = job.call
    values = {field.name: getattr(call, field.name) for field in fields(call)}
    paths: dict[str, Json] = {k: change(v) for k, v in values.items() if isinstance(v, Path)}
    paths |= {
        "image": [change(path) for path in call.image],
        "control_model": [change(path) for path in call.control_model],
        "lora": [(change(path), strength) for path, strength in call.lora],
        "control": [replace(item, path=change(item.path)) for item in call.control],
        "region": [
            one if one.mask is None else replace(one, place=change(one.mask)) for one in call.region
        ],
    }
    return replace(job, call=replace(call, **paths))
