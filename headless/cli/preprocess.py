"""`inkstone preprocess`: a picture file to its control map, or keypoint JSON to a picture."""

from __future__ import annotations

import argparse
import json
import logging
from argparse import Namespace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...controlnet.preprocess.kinds import KINDS, Knob
from ...errors import CallError, InkstoneError
from ...sampling.geometry import shorter_side_size
from ..arg_types import between, command

if TYPE_CHECKING:
    from torch import Tensor

log = logging.getLogger(__name__)


def knobs_of(args: Namespace) -> dict[str, Any]:
    """The knobs that were given, checked against the type's own."""
    names = {knob.name for kind in KINDS.values() for knob in kind.knobs}
    given = {name: getattr(args, name) for name in sorted(names)}
    given = {name: value for name, value in given.items() if value is not None}
    try:
        values = KINDS[args.type].values(given)
        shorter_side_size(1, 1, values.get("resolution", 0))
    except InkstoneError as error:
        raise CallError(str(error)) from None
    return given


def run_preprocess(args: Namespace) -> dict[str, Any]:
    """Makes and writes the map; returns facts."""
    import torch

    from ...controlnet.preprocess.kinds import keypoints_of, preprocess
    from ...files.png import save_png

    knobs = knobs_of(args)
    _check(args)
    if args.type == "pose" and args.source.suffix == ".json":
        knobs.setdefault("keypoints", str(args.source))
    picture = _picture(args.source)
    people = keypoints_of(picture, knobs) if args.type == "pose" else []
    drawn = {"keypoints": json.dumps(people)} if args.type == "pose" else {}
    made = preprocess(args.type, picture, knobs | drawn)[0]
    said = json.dumps({"type": args.type, "picture": args.source.name, **knobs}, ensure_ascii=False)
    save_png(args.out, (made * 255).round().to(torch.uint8).numpy(), {"inkstone": said})
    height, width = made.shape[:2]
    facts = {"files": [str(args.out)], "type": args.type, "width": width, "height": height}
    if args.type == "pose":
        facts["people"] = len(people[0]["people"])
    if args.save_keypoints is not None:
        facts["files"].append(_save_keypoints(args.save_keypoints, people))
    return facts


def _check(args: Namespace) -> None:
    if not args.source.is_file():
        raise CallError(f"{args.source}: no such file. Check the path.")
    if args.out.suffix.lower() != ".png":
        raise CallError(f"{args.out}: maps are written as PNG. Name a file that ends in .png.")
    if args.save_keypoints is not None and args.type != "pose":
        raise CallError(f"--save-keypoints belongs to pose; {args.type} has no keypoints.")


def _picture(source: Path) -> Tensor:
    """The picture, or a blank one of the size that keypoint JSON says."""
    if source.suffix != ".json":
        from ...files.images import read_picture

        return read_picture(source)
    import torch

    from ...controlnet.preprocess.keypoints import canvas_of

    width, height = canvas_of(str(source))
    return torch.zeros(1, height, width, 3)


def _save_keypoints(path: Path, people: list[dict]) -> str:
    from ...files.atomic import atomic

    with atomic(path) as file:
        file.write(json.dumps(people, indent=1).encode())
    return str(path)


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
