"""Draws the pictures of a score: a file of jobs for the queue, which resumes after a stop."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path

from ...errors import CallError, shorten
from ...files.atomic import write_text
from ...files.json_text import parse_json
from ..node_types import Json
from ..queue.journal import JOURNAL
from ..queue.run import BatchCall, QueueCallbacks, batch
from ..queue.worker import OnStep
from .call import JOBS, PICTURES, SOURCES, ScoreCall

log = logging.getLogger(__name__)


def check_own_folder(folder: Path) -> None:
    """CallError for a folder that has files, and none of a score: it would be filled with pictures,
    and files that have our names be replaced.
    """
    try:
        names = sorted(file.name for file in folder.iterdir() if not file.name.startswith("."))
    except FileNotFoundError:
        return
    except OSError as error:
        raise CallError(
            f"--output {folder}: cannot be read: {error.strerror}. Choose another folder."
        ) from None
    if names and not {JOBS, PICTURES} <= set(names):
        shown = ", ".join(map(shorten, names[:3])) + (", ..." if len(names) > 3 else "")
        raise CallError(
            f"--output {folder}: this folder is not empty and is not that of a score: expected "
            f"{JOBS} and {PICTURES} in it, got {shown}. Name a new or empty folder, or the one of "
            "a score to continue it."
        )


def draw_all(call: ScoreCall, on_step: OnStep | None) -> dict[str, str]:
    """Draws what is not drawn yet. Returns the reason of each picture that could not be drawn, by
    its job. KeyboardInterrupt after a stop.
    """
    try:
        call.output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CallError(
            f"--output {call.output}: cannot be made: {error.strerror}. Choose another folder."
        ) from None
    jobs = call.output / JOBS
    lines = [json.dumps(line, ensure_ascii=False) for line in job_lines(call)]
    write_text(jobs, "\n".join(lines) + "\n")
    options = {name: value for name, value in call.options.items() if name != "seed"}
    pictures = call.output / PICTURES
    facts = batch(
        BatchCall(jobs=jobs, output=pictures, defaults=options, retry_failed=True),
        QueueCallbacks(on_step),
    )
    return _faults(pictures / JOURNAL) if facts["failed"] else {}


def job_lines(call: ScoreCall) -> Iterator[dict[str, Json]]:
    """One line of the queue per picture."""
    for given in call.given:
        for task in given.prompts.tasks:
            line: dict[str, Json] = {
                "id": given.job(task),
                "prompt": task.prompt,
                "seed": call.seed + task.number,
            }
            if task.size and "size" not in call.options and not given.edits:
                line["size"] = task.size
            source = given.write_source(task, call.output / SOURCES)
            if source is not None:
                line["image"] = [str(source)]
            yield line


def _faults(journal: Path) -> dict[str, str]:
    """The last error of every job that has one."""
    faults: dict[str, str] = {}
    for line in journal.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            record = parse_json(line)
            faults[record["id"]] = str(record.get("error", ""))
        except (ValueError, TypeError, KeyError, AttributeError):
            continue  # the queue has said so
    return {name: error for name, error in faults.items() if error}
