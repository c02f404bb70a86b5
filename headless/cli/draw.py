"""`inkstone draw` and `inkstone plan`."""

from __future__ import annotations

import argparse
import json

from ..draw.request import DrawCall
from .progress import ProgressLine


def _draw(args: argparse.Namespace) -> int:
    from ..draw.pipeline import draw

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
    from ...pipeline.memory_plan import plan
    from ..draw.controls import read_controls
    from ..draw.pipeline import check_paths, wanted
    from ..draw.session import load, want_of
    from ..draw.task import read_given, task_of

    check_paths(call)
    given, controls = read_given(call), read_controls(call, want_of(call))
    models = load(call, partly=True)
    task = controls.task(task_of(call, models.model, given), call, models)
    made = plan(models, wanted(call, task, controls))
    print(json.dumps(made.facts(), indent=1) if as_json else made.sentence())
    return 0
