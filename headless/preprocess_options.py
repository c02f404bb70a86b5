"""What `inkstone preprocess` accepts: the knobs of the table of kinds, by the same names."""

from __future__ import annotations

import argparse
from pathlib import Path

from ..controlnet.preprocess.kinds import KINDS, Knob
from .arguments import between, command


def add_preprocess(commands) -> None:
    p = command(
        commands,
        "preprocess",
        "make the control map of a picture, at the picture's size",
        "inkstone preprocess canny photo.png edges.png --low-threshold 50",
    )
    what = " ".join(f"{kind.name}: {kind.what}" for kind in KINDS.values())
    p.add_argument("type", choices=list(KINDS), metavar="TYPE", help=what)
    p.add_argument(
        "source", type=Path, metavar="IN", help="a picture; for pose also keypoints as .json"
    )
    p.add_argument("out", type=Path, metavar="OUT", help="the map, a .png file")
    knobs: dict[str, tuple[Knob, list[str]]] = {}
    for kind in KINDS.values():
        for knob in kind.knobs:
            knobs.setdefault(knob.name, (knob, []))[1].append(kind.name)
    for knob, users in knobs.values():
        _add_knob(p, knob, users)
    p.add_argument(
        "--save-keypoints", type=Path, metavar="F", help="pose: write OpenPose JSON of 18 points"
    )
    p.add_argument("--json", action="store_true", help="print facts as JSON")


def _add_knob(parser: argparse.ArgumentParser, knob: Knob, users: list[str]) -> None:
    kind = type(knob.default)
    tip = f"{', '.join(users)}: {knob.tip}".replace("%", "%%")
    tip += f" (default {knob.default})" if knob.default != "" else ""
    flag = "--" + knob.name.replace("_", "-")
    if kind is bool:
        parser.add_argument(flag, action=argparse.BooleanOptionalAction, default=None, help=tip)
        return
    parse = str if kind is str else between(knob.low, knob.high, kind)
    parser.add_argument(flag, type=parse, metavar="F" if kind is str else "N", help=tip)
