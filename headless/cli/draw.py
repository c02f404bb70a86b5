"""`inkstone draw` and `inkstone plan`."""

from __future__ import annotations

import argparse
import json

from ..draw.request import DrawCall, check_call
from .progress import ProgressLine


def _draw(args: argparse.Namespace) -> int:
    from ..draw.run import draw

    call = _call(args, args.prompt)
    if args.plan:
        return _print_plan(call, args.json)
    facts = draw(call, ProgressLine(args.quiet))
    print(
        json.dumps(facts, ensure_ascii=False, indent=1) if args.json else "\n".join(facts["files"])
    )
    return 0


def _plan(args: argparse.Namespace) -> int:
    return _print_plan(_call(args, ""), args.json)


def _call(args: argparse.Namespace, prompt: str) -> DrawCall:
    names = DrawCall.__dataclass_fields__
    return DrawCall(**{k: v for k, v in vars(args).items() if k in names} | {"prompt": prompt})


def _print_plan(call: DrawCall, as_json: bool) -> int:
    from ..draw.drawer import Drawer

    check_call(call, partly=True)
    plan = Drawer(once=True).plan(call)
    print(json.dumps(plan.facts(), indent=1) if as_json else plan.sentence())
    return 0
