"""The command `inkstone`: calls what was asked, reports. Exit status 0 done, 1 the run failed, 2
the call was wrong.

Progress and logs go to stderr, results to stdout. Nothing heavy is imported before a subcommand
runs.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys

from ...errors import CallError, InkstoneError
from .draw import _draw, _plan
from .inspect import _inspect
from .parser import build_parser
from .quantize import _quantize
from .run import _run
from .train import _train


def _batch(args: argparse.Namespace) -> int:
    from .batch import run_batch

    return run_batch(args)


def _preprocess(args: argparse.Namespace) -> int:
    from .preprocess import run_preprocess

    facts = run_preprocess(args)
    print(
        json.dumps(facts, ensure_ascii=False, indent=1) if args.json else "\n".join(facts["files"])
    )
    return 0


def _doctor(args: argparse.Namespace) -> int:
    from .doctor import facts

    found = facts()
    print(
        json.dumps(found, indent=1)
        if args.json
        else "\n".join(f"{k}: {v}" for k, v in found.items())
    )
    return 0


def _convert(args: argparse.Namespace) -> int:
    from .convert import run_convert

    return run_convert(args)


def _check(args: argparse.Namespace) -> int:
    from .check import run_check

    return run_check(args)


_HANDLERS = {
    "draw": _draw,
    "plan": _plan,
    "run": _run,
    "batch": _batch,
    "convert": _convert,
    "check": _check,
    "inspect": _inspect,
    "quantize": _quantize,
    "preprocess": _preprocess,
    "train": _train,
    "doctor": _doctor,
}


def main(argv: list[str] | None = None) -> int:
    """Entry point; returns the exit status."""
    args = build_parser().parse_args(argv)
    level = logging.ERROR if args.quiet else logging.INFO
    for stream in (sys.stdout, sys.stderr):  # a name that the terminal cannot show ends no queue
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    logging.basicConfig(level=level, stream=sys.stderr, format="%(message)s")
    try:
        return _HANDLERS[args.command](args)
    except CallError as error:
        print(f"inkstone {args.command}: {error}", file=sys.stderr)
        return 2
    except InkstoneError as error:
        print(f"inkstone {args.command}: {error}", file=sys.stderr)
        return 1
    except BrokenPipeError:  # whoever read our output has enough, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        kept = args.command in ("quantize", "batch")  # their journals
        left = "the same call goes on where it was" if kept else "nothing half-written is left"
        print(f"\nstopped; {left}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
