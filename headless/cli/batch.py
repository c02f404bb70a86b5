"""`inkstone batch`: a queue of jobs from a file."""

from __future__ import annotations

import argparse
import contextlib
import logging
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from ..arg_types import Commands, between, command, file_path
from ..draw.option_values import options
from ..draw.options import add_for_all
from ..node_types import Json
from ..queue.job_line import read_defaults
from .shared import add_folders, add_json, add_ray, as_text

if TYPE_CHECKING:
    from ..queue.jobs import Job

log = logging.getLogger(__name__)


def add(commands: Commands) -> None:
    """The options."""
    p = command(
        commands,
        "batch",
        "run a queue of jobs; the same command resumes it after a stop or a kill",
        "inkstone batch jobs.jsonl --output out --steps 20\n"
        '  where a line of jobs.jsonl is {"prompt": "a red circle", "seed": 1, "id": "red"}\n'
        '  or {"graph": "text_to_image.json", "set": {"7.seed": 3}}',
    )
    p.add_argument(
        "jobs",
        type=file_path,
        metavar="JOBS.jsonl",
        help="one JSON object per line: an id, and options with the names that draw uses",
    )
    p.add_argument(
        "--output", type=file_path, required=True, metavar="DIR", help="folder for results"
    )
    p.add_argument(
        "--retry-failed", action="store_true", help="run jobs again that failed in an earlier run"
    )
    p.add_argument(
        "--defaults",
        type=file_path,
        metavar="F.json",
        help="a JSON object with values for all jobs; options here override it, lines override "
        "both",
    )
    add_folders(p, "models", "input", prefix="for graphs: ")
    add_ray(p, "auto, HOST:PORT, ray://HOST:PORT")
    p.add_argument(
        "--workers",
        type=between(1, 10000, int),
        metavar="N",
        help="with --ray: number of workers (default: one per GPU, or one without a GPU)",
    )
    add_json(p, "print counts and metrics as JSON")
    add_for_all(p)
    unset: dict[str, Json] = {name: None for name in options()}  # None = not on this command line
    p.set_defaults(handler=run, **unset)


def run(args: argparse.Namespace) -> int:
    """Run the queue; 1 if a job failed."""
    from ..queue.journal import JOURNAL
    from ..queue.run import BatchCall, QueueCallbacks, batch
    from ..queue.worker import Places

    call = BatchCall(
        jobs=args.jobs,
        output=args.output,
        defaults=_defaults(args),
        places=Places(args.models, args.input, args.device),
        retry_failed=args.retry_failed,
        ray=args.ray,
        workers=args.workers,
        retries=args.retries,
    )
    bar = None if args.quiet or not sys.stderr.isatty() else _show_step
    out = sys.stdout
    lost: list[OSError] = []  # why stdout takes nothing any more

    def on_record(record: dict[str, Json]) -> None:
        try:
            if not args.json and not lost:
                _print_files(record, args.output, out)
        except OSError as error:  # hours of work must not end for a list of names
            lost.append(error)
            log.warning("%s\nThe queue goes on; %s lists its files.", error, args.output / JOURNAL)

    with contextlib.redirect_stdout(sys.stderr):  # Ray prints about lost workers by itself
        facts = batch(call, QueueCallbacks(bar, on_record))
    if args.json:
        print(as_text(facts))
    if lost:
        raise lost[0]
    return 1 if facts["failed"] else 0


def _defaults(args: argparse.Namespace) -> dict[str, Json]:
    """Values for all jobs: those of the file, overridden by those of the command line."""
    options_here = {name: getattr(args, name, None) for name in options()}
    from_file = read_defaults(args.defaults) if args.defaults else {}
    return from_file | {name: value for name, value in options_here.items() if value is not None}


def _print_files(record: Mapping[str, Json], folder: Path, out: TextIO) -> None:
    for name in record["files"]:
        print(folder / name, file=out, flush=True)


def _show_step(job: Job, done: int, of: int) -> None:
    sys.stderr.write(f"\r{job.name}: step {done}/{of}" + ("\n" if done == of else ""))
    sys.stderr.flush()
