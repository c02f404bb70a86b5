"""`inkstone draw` and `inkstone plan`: a picture from a prompt, and the memory that it takes."""

from __future__ import annotations

import argparse

from ..arg_types import Commands
from ..draw.options import add_draw, add_plan
from ..draw.request import DrawCall, check_call, without_own_size
from .progress import ProgressLine
from .shared import as_text, fields_of, print_files


def add(commands: Commands) -> None:
    """The options of both."""
    add_draw(commands)
    add_plan(commands)
    commands.choices["draw"].set_defaults(handler=run)
    commands.choices["plan"].set_defaults(handler=run_plan)


def run(args: argparse.Namespace) -> int:
    """Draw; print the files that were saved."""
    from ..draw.run import draw

    call = DrawCall(**fields_of(DrawCall, args))
    if args.plan:
        return _print_plan(call, args.json)
    print_files(draw(call, ProgressLine(args.quiet)), args.json)
    return 0


def run_plan(args: argparse.Namespace) -> int:
    """Print the memory plan."""
    return _print_plan(DrawCall(**{"prompt": "", **fields_of(DrawCall, args)}), args.json)


def _print_plan(call: DrawCall, as_json: bool) -> int:
    from ..draw.drawer import Drawer

    call = without_own_size(call)
    check_call(call, partly=True)
    plan = Drawer(once=True).plan(call)
    print(as_text(plan.facts()) if as_json else plan.sentence())
    return 0
