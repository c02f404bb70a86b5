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
import time
from pathlib import Path
from typing import TYPE_CHECKING

from ..kernels.errors import InkstoneError
from .draw import CallError, DrawCall
from .options import build_parser

if TYPE_CHECKING:
    from ..loaders.detect import FileFacts


class ProgressLine:
    """A bar on a terminal, one line per tenth otherwise."""

    def __init__(self, quiet: bool) -> None:
        self.quiet, self.start, self.told = quiet, time.time(), -1

    def __call__(self, value: int, total: int) -> None:
        if self.quiet:
            return
        passed = time.time() - self.start
        text = f"step {value}/{total}, {passed:.1f} s"
        if sys.stderr.isatty():
            filled = 30 * value // total
            end = "\n" if value == total else ""
            sys.stderr.write(f"\r[{'#' * filled}{'.' * (30 - filled)}] {text}{end}")
        elif value == total or value * 10 // total > self.told:
            self.told = value * 10 // total
            sys.stderr.write(text + "\n")
        sys.stderr.flush()


def _draw(args: argparse.Namespace) -> int:
    from .draw import draw

    names = DrawCall.__dataclass_fields__
    call = DrawCall(**{k: v for k, v in vars(args).items() if k in names})
    if args.plan:
        return _print_plan(call, args.json)
    facts = draw(call, ProgressLine(args.quiet))
    print(
        json.dumps(facts, ensure_ascii=False, indent=1) if args.json else "\n".join(facts["files"])
    )
    return 0


def _plan(args: argparse.Namespace) -> int:
    names = DrawCall.__dataclass_fields__
    return _print_plan(
        DrawCall("", **{k: v for k, v in vars(args).items() if k in names}), args.json
    )


def _print_plan(call: DrawCall, as_json: bool) -> int:
    from ..loaders.plan import plan
    from .controls import read_controls
    from .draw import check_paths, load, want_of, wanted
    from .sources import read_given, task_of

    check_paths(call)
    given, controls = read_given(call), read_controls(call, want_of(call))
    models = load(call, partly=True)
    task = controls.task(task_of(call, models.model, given), call, models)
    made = plan(models, wanted(call, task, controls))
    print(json.dumps(made.facts(), indent=1) if as_json else made.sentence())
    return 0


def _run(args: argparse.Namespace) -> int:
    from ..nodes.host import HeadlessHost
    from .run import run_file

    if not args.graph.is_file():
        raise CallError(f"{args.graph}: no such graph file. Check the path.")
    host = HeadlessHost(
        models=(args.models,), input=args.input, output=args.output, device=args.device
    )
    facts = run_file(args.graph, args.set, host, ProgressLine(args.quiet))
    print(
        json.dumps(facts, ensure_ascii=False, indent=1) if args.json else "\n".join(facts["files"])
    )
    return 0


def _batch(args: argparse.Namespace) -> int:
    from .batch_options import run_batch

    return run_batch(args)


def _inspect(args: argparse.Namespace) -> int:
    from dataclasses import asdict

    absent = [f for f in args.files if not f.exists()]
    if absent:
        raise CallError(f"{absent[0]}: no such file or folder. Check the path.")
    found = [_identified(part) for path in args.files for part in _parts(path)]
    if args.json:
        print(json.dumps([asdict(f) for f in found], indent=1, default=str))
    else:
        print("\n".join(f"{f.path}: {f.sentence}" for f in found))
    return 1 if any(f.problem for f in found) else 0


def _identified(path: Path) -> FileFacts:
    """Facts of one file; a damaged one is told in its own line, the others still follow."""
    from ..loaders.detect import FileFacts, identify

    try:
        return identify(path)
    except InkstoneError as error:
        text = str(error).removeprefix(f"{path}: ")
        return FileFacts("unknown", problem=text, sentence=text, path=str(path))


def _parts(path: Path) -> list[Path]:
    """The weight folders of a whole model folder, else the path itself."""
    parts = [path / name for name in ("transformer", "text_encoder", "vae", "controlnet")]
    return [p for p in parts if p.is_dir()] or [path]


def _quantize(args: argparse.Namespace) -> int:
    from .quantise import QuantiseCall, quantise

    names = QuantiseCall.__dataclass_fields__
    call = QuantiseCall(**{k: v for k, v in vars(args).items() if k in names})
    facts = quantise(call, ProgressLine(args.quiet))
    print(json.dumps(facts, ensure_ascii=False, indent=1) if args.json else facts["file"])
    return 0


def _preprocess(args: argparse.Namespace) -> int:
    from .preprocess import run_preprocess

    facts = run_preprocess(args)
    print(
        json.dumps(facts, ensure_ascii=False, indent=1) if args.json else "\n".join(facts["files"])
    )
    return 0


def _train(args: argparse.Namespace) -> int:
    from ..training import control_scores, edit_scores, evaluate, recipe

    seed = recipe.SEED if args.seed is None else args.seed
    if args.start is not None and not (args.start / "transformer").is_dir():
        raise CallError(f"--start {args.start}: expected a model folder, such as embedded/model.")
    if args.only and args.start is None and not args.score:
        raise CallError(f"--only {args.only} needs --start MODEL, the model that it is taught to.")
    if args.only and not args.score:
        recipe.copy_model(args.start, args.out)
        recipe.teach_control(args.out / "checkpoints", args.out, seed)
    elif not args.score:
        recipe.train(args.out / "checkpoints", args.out, seed, args.start)
    if not args.only:
        print(evaluate.report(args.out, args.prompts))
        print(edit_scores.report(args.out, args.prompts))
    print(control_scores.report(args.out, max(1, args.prompts // 4)))
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
