"""The command `inkstone`: runs the subcommand and reports.

Exit status 0 done, 1 the run failed, 2 the call was wrong. Progress and logs go to stderr, results
to stdout.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Callable

from ...errors import CallError, InkstoneError, bounded
from .parser import build_parser
from .streams import Results, standard_streams

RESUMABLE = (
    "quantize",
    "batch",
    "score",
    "train-lora",
)  # the same call continues from their journals


def main(argv: list[str] | None = None) -> int:
    """Entry point; returns the exit status."""
    with standard_streams() as results:
        args = argparse.Namespace(command="")  # until it is parsed
        return _reported(args, lambda: _run(_parsed(argv, args, results)))


def _parsed(
    argv: list[str] | None, args: argparse.Namespace, results: Results
) -> argparse.Namespace:
    """The call; help and version are results as well, which argparse drops where stdout fails."""
    try:
        return build_parser().parse_args(argv, args)
    except SystemExit:
        results.flush()
        if results.fault is not None:
            raise results.fault from None
        raise


def _run(args: argparse.Namespace) -> int:
    level = logging.ERROR if args.quiet else logging.INFO
    lines = logging.StreamHandler(sys.stderr)
    lines.setFormatter(_Line("%(message)s"))
    logging.basicConfig(level=level, handlers=[lines])
    handler: Callable[[argparse.Namespace], int] = args.handler
    return handler(args)


class _Line(logging.Formatter):
    """A log line with the bounds of an error: names in it come from anybody's files too."""

    def format(self, record: logging.LogRecord) -> str:
        return bounded(super().format(record))


def _reported(args: argparse.Namespace, work: Callable[[], int]) -> int:
    """The status of the work, whose errors become sentences."""
    try:
        status = work()
        sys.stdout.flush()  # a full disk shows here
        return status
    except CallError as error:
        print(f"inkstone {args.command}: {error}", file=sys.stderr)
        return 2
    except InkstoneError as error:
        print(f"inkstone {args.command}".rstrip() + f": {error}", file=sys.stderr)
        return 1
    except BrokenPipeError:  # the reader closed our output early, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (MemoryError, RuntimeError) as error:
        from ...host.exhaustion import memory_fault

        fault = memory_fault(error)
        if fault is None:
            raise
        print(f"inkstone {args.command}: {fault}", file=sys.stderr)
        return 1
    except OSError as error:  # a disk that fails in the middle of a file, and the like
        name = f"{error.filename}: " if error.filename else ""
        print(
            f"inkstone {args.command}: {name}{error.strerror or error}. The system refused a file; "
            "check the disk and the files that this call names.",
            file=sys.stderr,
        )
        return 1
    except KeyboardInterrupt:
        resumes = args.command in RESUMABLE
        state = "run the same command to continue" if resumes else "no incomplete file was left"
        print(f"\nstopped; {state}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
