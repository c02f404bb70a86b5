"""Options of `inkstone batch`, and what runs it."""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from ..arg_types import between, command
from ..draw.options import add_for_all
from ..queue.jobs import options, read_defaults

if TYPE_CHECKING:
    from ..queue.jobs import Job


def add_batch(commands) -> None:
    """`inkstone batch`."""
    p = command(
        commands,
        "batch",
        "run a queue of jobs; after a stop or a kill the same call goes on",
        "inkstone batch jobs.jsonl --output out --steps 20\n"
        '  where a line of jobs.jsonl is {"prompt": "a red circle", "seed": 1, "id": "red"}\n'
        '  or {"graph": "text_to_image.json", "set": {"7.seed": 3}}',
    )
    p.add_argument(
        "jobs",
        type=Path,
        metavar="JOBS.jsonl",
        help="one JSON object a line, with the names of draw's options, and id",
    )
    p.add_argument("--output", type=Path, required=True, metavar="DIR", help="folder for results")
    p.add_argument(
        "--retry-failed", action="store_true", help="run those that failed before once more"
    )
    p.add_argument(
        "--defaults",
        type=Path,
        metavar="F.json",
        help="a JSON object with values for all jobs; options here win over it, lines over both",
    )
    for name, what in (("models", "models laid out as ComfyUI's"), ("input", "input pictures")):
        p.add_argument(
            f"--{name}",
            type=Path,
            default=Path(name),
            metavar="DIR",
            help=f"for graphs: folder of {what} (default {name})",
        )
    p.add_argument(
        "--ray",
        metavar="ADDRESS",
        help="run on a Ray cluster, one worker on each GPU: auto, HOST:PORT, ray://HOST:PORT, or "
        "local to start one on this machine",
    )
    p.add_argument(
        "--workers",
        type=between(1, 10000, int),
        metavar="N",
        help="with --ray: so many workers (default: one for each GPU; one where there is none)",
    )
    p.add_argument(
        "--retries",
        type=between(0, 100, int),
        default=1,
        metavar="N",
        help="with --ray: how often a job begins again when its worker is lost (default 1)",
    )
    p.add_argument("--json", action="store_true", help="print counts and metrics as JSON")
    add_for_all(p)
    p.set_defaults(**{name: None for name in options()})  # None = not said here


def run_batch(args: argparse.Namespace) -> int:
    """Runs it; 1 where a job failed."""
    from ..queue.run import BatchCall, QueueCallbacks, batch
    from ..queue.worker import Places

    call = BatchCall(
        args.jobs,
        args.output,
        _defaults(args),
        Places(args.models, args.input, args.device),
        args.retry_failed,
        args.ray,
        args.workers,
        args.retries,
    )
    bar = None if args.quiet or not sys.stderr.isatty() else _show_step
    out = sys.stdout
    tell = _nothing if args.json else partial(_print_files, args, out)
    with contextlib.redirect_stdout(sys.stderr):  # Ray prints of lost workers on its own
        facts = batch(call, QueueCallbacks(bar, tell))
    if args.json:
        print(json.dumps(facts, ensure_ascii=False, indent=1))
    return 1 if facts["failed"] else 0


def _defaults(args: argparse.Namespace) -> dict[str, Any]:
    """Of the file, and over them those of the command line."""
    said = {name: getattr(args, name, None) for name in options()}
    of_file = read_defaults(args.defaults) if args.defaults else {}
    return of_file | {name: value for name, value in said.items() if value is not None}


def _print_files(args: argparse.Namespace, out: TextIO, record: dict) -> None:
    for name in record["files"]:
        print(args.output / name, file=out, flush=True)


def _nothing(record: dict) -> None:
    """The record is not shown."""


def _show_step(job: Job, done: int, of: int) -> None:
    sys.stderr.write(f"\r{job.name}: step {done}/{of}" + ("\n" if done == of else ""))
    sys.stderr.flush()
