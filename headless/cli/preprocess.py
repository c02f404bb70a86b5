"""`inkstone preprocess`: a picture file -> its control map, or keypoint JSON -> a picture."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from ...controlnet.preprocess.kinds import KINDS, Knob
from ...errors import CallError, InkstoneError
from ...files.paths import check_given, check_output, read_regular
from ...sampling.geometry import shorter_side_size
from ..arg_types import Commands, between, command, file_path
from ..node_types import Json
from .shared import add_json, print_files

if TYPE_CHECKING:
    from torch import Tensor

_MOST_BYTES = 64 << 20  # of a file of keypoints


def add(commands: Commands) -> None:
    """The options: one for each knob of the kinds."""
    p = command(
        commands,
        "preprocess",
        "make the control map of a picture, at the picture's size",
        "inkstone preprocess canny photo.png edges.png --low-threshold 50",
    )
    kinds = " ".join(f"{kind.name}: {kind.what}" for kind in KINDS.values())
    p.add_argument("type", choices=list(KINDS), metavar="TYPE", help=kinds)
    p.add_argument(
        "source", type=file_path, metavar="IN", help="a picture; for pose also keypoints as .json"
    )
    p.add_argument("out", type=file_path, metavar="OUT", help="the map, a .png file")
    knobs: dict[str, tuple[Knob, list[str]]] = {}
    for kind in KINDS.values():
        for knob in kind.knobs:
            knobs.setdefault(knob.name, (knob, []))[1].append(kind.name)
    for knob, users in knobs.values():
        _add_knob(p, knob, users)
    p.add_argument(
        "--save-keypoints",
        type=file_path,
        metavar="F",
        help="pose: also write the keypoints as OpenPose JSON (18 points per person)",
    )
    add_json(p)
    p.set_defaults(handler=run)


def _add_knob(parser: argparse.ArgumentParser, knob: Knob, users: list[str]) -> None:
    tip = f"{', '.join(users)}: {knob.tip}".replace("%", "%%")
    tip += " F may also be the path of a .json file." if knob.name == "keypoints" else ""
    tip += f" (default {knob.default})" if knob.default != "" else ""
    flag = "--" + knob.name.replace("_", "-")
    if isinstance(knob.default, bool):
        parser.add_argument(flag, action=argparse.BooleanOptionalAction, default=None, help=tip)
    elif isinstance(knob.default, str):
        parser.add_argument(flag, metavar="F", help=tip)
    else:
        assert knob.low is not None and knob.high is not None, f"{knob.name} is a number"
        number = between(knob.low, knob.high, type(knob.default))
        parser.add_argument(flag, type=number, metavar="N", help=tip)


def run(args: argparse.Namespace) -> int:
    """Make and write the map; print the files."""
    print_files(write_map(args), args.json)
    return 0


def write_map(args: argparse.Namespace) -> dict[str, Json]:
    """Make and write the map; return facts about it."""
    import torch

    from ...controlnet.preprocess.kinds import keypoints_of, preprocess
    from ...files.png import save_png

    knobs = _knobs(args)
    _check(args)
    call = json.dumps({"type": args.type, "picture": args.source.name, **knobs}, ensure_ascii=False)
    if args.type == "pose" and args.source.suffix == ".json":
        knobs.setdefault("keypoints", str(args.source))
    if "keypoints" in knobs:
        knobs["keypoints"] = _keypoints(str(knobs["keypoints"]))
    picture = _picture(args.source)
    people: list[Json] = keypoints_of(picture, knobs) if args.type == "pose" else []
    pose = {"keypoints": json.dumps(people)} if args.type == "pose" else {}
    control_map = preprocess(args.type, picture, knobs | pose)[0]  # [H,W,3]
    save_png(args.out, (control_map * 255).round().to(torch.uint8).numpy(), {"inkstone": call})
    files = [str(args.out)]
    height, width = control_map.shape[:2]
    facts: dict[str, Json] = {"files": files, "type": args.type, "width": width, "height": height}
    if args.type == "pose":
        facts["people"] = len(people[0]["people"])
    if args.save_keypoints is not None:
        files.append(_save_keypoints(args.save_keypoints, people))
    return facts


def _knobs(args: argparse.Namespace) -> dict[str, Json]:
    """The knobs on the command line, checked against those of the type."""
    names = {knob.name for kind in KINDS.values() for knob in kind.knobs}
    values = {name: getattr(args, name) for name in sorted(names)}
    values = {name: value for name, value in values.items() if value is not None}
    try:
        resolution = KINDS[args.type].values(values).get("resolution", 0)
        assert isinstance(resolution, int)
        shorter_side_size(1, 1, resolution)
    except InkstoneError as error:
        raise CallError(str(error)) from None
    return values


def _check(args: argparse.Namespace) -> None:
    check_given(args.source, kinds=("file",))
    if args.out.suffix.lower() != ".png":
        raise CallError(f"{args.out}: maps are written as PNG. Name a file that ends in .png.")
    for path in (args.out, args.save_keypoints):
        if path is not None:
            check_output(path)
    if args.save_keypoints is not None and args.type != "pose":
        raise CallError(f"--save-keypoints belongs to pose; {args.type} has no keypoints.")


def _picture(source: Path) -> Tensor:
    """The picture, or a blank one of the size that the keypoint JSON names."""
    if source.suffix != ".json":
        from ...files.images import read_picture

        return read_picture(source)
    import torch

    from ...controlnet.preprocess.keypoints import canvas_of

    width, height = canvas_of(_keypoints(str(source)))
    return torch.zeros(1, height, width, 3)


def _keypoints(given: str) -> str:
    """The JSON of --keypoints: the text itself, or what is in the file."""
    if given.strip()[:1] in ("{", "["):
        return given
    try:
        text = read_regular(Path(given), _MOST_BYTES).decode("utf-8-sig")
        if not text.strip():
            raise CallError(f"{given}: holds no keypoints, expected OpenPose JSON. Check the path.")
        return text
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise CallError(
            f"The keypoints {given[:80]!r} are neither JSON nor a readable file: {reason}. Check "
            "the path."
        ) from None


def _save_keypoints(path: Path, people: list[Json]) -> str:
    from ...files.atomic import write_text

    write_text(path, json.dumps(people, indent=1))
    return str(path)
