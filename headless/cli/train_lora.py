"""`inkstone train-lora`: a LoRA for any model that draws here, trained on pictures of a folder."""

from __future__ import annotations

import argparse
import logging
import sys
from typing import TYPE_CHECKING

from ...errors import CallError
from ...pipeline.train_choices import DEFAULTS, OPTIONS, TrainSettings
from ...pipeline.train_file import read_settings
from ...pipeline.train_option import Option, flag_of, flags, is_rank
from ..arg_types import Commands, between, command, device, file_path, memory
from .progress import ProgressLine
from .shared import add_json, as_text

if TYPE_CHECKING:
    from ...training.lora.progress import StepReport

log = logging.getLogger(__name__)

_EXAMPLE = (
    "inkstone train-lora pictures -o hexagons.safetensors --steps 1000\n"
    "  inkstone train-lora pictures -o style.safetensors --model qwen-image-Q4_K_M.gguf "
    "--text-encoder Qwen2.5-VL-7B-Instruct-Q4_K_M.gguf --vae vae.safetensors --memory 12GB\n"
    "  torchrun --nproc-per-node 2 --no-python inkstone train-lora --settings style.json"
)


def add(commands: Commands) -> None:
    """The options: those of the record, and what to do with it."""
    p = command(
        commands, "train-lora", "train a LoRA; the same command resumes after a stop", _EXAMPLE
    )
    for name, option in OPTIONS.items():
        _add(p, name, option)
    p.add_argument(
        "--settings",
        type=file_path,
        metavar="FILE.json",
        help="settings in a file, as the node Train LoRA writes it; options of the command line "
        "are used instead of its own",
    )
    only = p.add_mutually_exclusive_group()
    only.add_argument(
        "--report", action="store_true", help="print what the pictures are and lack, and stop"
    )
    only.add_argument("--plan", action="store_true", help="print the memory plan and stop")
    add_json(p)
    p.set_defaults(handler=run)


def _add(p: argparse.ArgumentParser, name: str, option: Option) -> None:
    default = DEFAULTS.get(name)
    usual = f" (default {default})" if default not in (None, "", (), False) else ""
    text = (option.text + usual).replace("%", "%%")
    if name == "data":
        p.add_argument(name, nargs="?", type=file_path, metavar=option.metavar, help=text)
    elif option.kind == "flag":
        p.add_argument(flag_of(name), action="store_true", default=None, help=text)
    elif option.kind == "choice":
        p.add_argument(flag_of(name), choices=option.choices, help=text)
    else:
        many = option.kind in ("texts", "paths", "ranks")
        p.add_argument(
            *(["-o"] if name == "output" else []),
            flag_of(name),
            type=_type(option),
            action="append" if many else "store",
            metavar=option.metavar,
            help=text,
        )


def _type(option: Option):  # type: ignore[no-untyped-def]  # whatever argparse takes
    if option.kind in ("whole", "number"):
        return between(option.low, option.high, int if option.kind == "whole" else float)
    kinds = {
        "path": file_path,
        "paths": file_path,
        "memory": memory,
        "device": device,
        "ranks": _rank,
    }
    return kinds.get(option.kind, str)


def _rank(text: str) -> tuple[str, int]:
    """Parse PATTERN=RANK."""
    pattern, _, number = text.rpartition("=")
    if not pattern or not number.isdecimal() or not is_rank((pattern, int(number))):
        raise argparse.ArgumentTypeError(f"{text!r}: expected PATTERN=RANK, such as 0-9=32")
    return pattern, int(number)


def settings_of(args: argparse.Namespace) -> TrainSettings:
    """The settings of a call: the command line's, those of its file, the defaults."""
    values = {name: getattr(args, name) for name in OPTIONS}
    given = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items() if v is not None}
    stored = {} if args.settings is None else read_settings(args.settings)
    both = [name for name in given if name in stored and stored[name] != given[name]]
    if both:
        log.info("%s of the command line, not of %s", flags(both), args.settings)
    settings = {**stored, **given}
    for name, wanted in (("data", "a folder of pictures"), ("output", "-o OUT.safetensors")):
        if name not in settings:
            raise CallError(f"{flag_of(name)} is missing: expected {wanted}, or --settings.")
    return TrainSettings(**settings)  # type: ignore[arg-type]  # checked by the record


def run(args: argparse.Namespace) -> int:
    """Train; print the file. Or print the report, or the plan."""
    from ...training.lora import session

    settings = settings_of(args)
    if args.report:
        report = session.report_of(settings)
        print(as_text(report.facts) if args.json else report)
        return 0
    if args.plan:
        plan = session.plan_of(settings)
        print(as_text(plan.facts()) if args.json else plan.sentence())
        return 0
    silent = args.quiet or not session.is_first()
    if silent:
        logging.getLogger().setLevel(logging.ERROR)
    line = ProgressLine(silent)

    def on_step(report: StepReport) -> None:
        line(report.line.step, report.steps, report.text())

    path = session.train(settings, on_step, None if silent else _show_item)
    if session.is_first():
        print(as_text({"file": str(path)}) if args.json else path)
    return 0


def _show_item(what: str, done: int, total: int) -> None:
    if sys.stderr.isatty():
        sys.stderr.write(f"\r{what} {done}/{total}" + ("\n" if done == total else ""))
        sys.stderr.flush()
