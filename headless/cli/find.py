"""`inkstone find`: boxes and a mask of what was named in a picture."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from ...errors import CallError, InkstoneError
from ...files.paths import check_given, check_output
from ...pipeline.find_choices import SHAPES, USUAL_TOKENS
from ..arg_types import Commands, command, file_path
from .encoder_options import (
    add_answer_limits,
    add_plan_switch,
    add_text_encoder,
    check_text_encoder,
    given_text_encoder,
    print_plan,
)
from .shared import add_json, as_text

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

    from ...pipeline.find import Found
    from ...pipeline.find_boxes import FoundBox


def add(commands: Commands) -> None:
    """The options."""
    p = command(
        commands,
        "find",
        "find what you name in a picture: its boxes and its mask",
        "inkstone find photo.jpg 'the red car' --mask car.png --overlay look.png --text-encoder "
        "Qwen2.5-VL-7B-Instruct-Q4_K_M.gguf\n  inkstone draw 'a blue car' --image photo.jpg "
        "--mask car.png --model Qwen-Image -o blue.png\n  inkstone find drawn.png star   "
        "(the embedded model, in its own pictures)",
    )
    p.add_argument("picture", type=file_path, metavar="PICTURE", help="the picture to search")
    p.add_argument(
        "what",
        metavar="WHAT",
        help="what to find; all that fit are found, several kinds can be named with commas",
    )
    p.add_argument(
        "--mask",
        type=file_path,
        metavar="F",
        help="write a mask of the picture's size, white where it was found, as .png",
    )
    p.add_argument(
        "--overlay",
        type=file_path,
        metavar="F",
        help="write the picture with boxes, labels and mask over it, to look at, as .png",
    )
    shapes = "; ".join(f"{name}: {text}" for name, text in SHAPES.items())
    p.add_argument(
        "--shape",
        choices=list(SHAPES),
        default=next(iter(SHAPES)),
        help=f"of the mask. {shapes} (default {next(iter(SHAPES))})",
    )
    add_text_encoder(p)
    add_answer_limits(p, USUAL_TOKENS)
    add_plan_switch(p)
    add_json(p, "print boxes and facts as JSON")
    p.set_defaults(handler=run)


def run(args: argparse.Namespace) -> int:
    """Find; print one box a line, and write the pictures."""
    from ...files.images import read_picture
    from ...pipeline.find import find, named_things, question_for

    _check(args)
    try:
        named_things(args.what)
    except InkstoneError as error:
        raise CallError(str(error)) from None
    with given_text_encoder(args) as text_encoder:
        if args.plan:
            question = question_for(args.what, text_encoder.family)
            return print_plan(text_encoder, [args.picture], question, args)
        picture = read_picture(args.picture)
        found = find(text_encoder, picture, args.what, args.max_tokens, most=args.max_pixels)
        files = _write(args, picture, found)
    if args.json:
        print(as_text({**found.facts(), "files": files}))
    else:
        print("\n".join(f"{_edges(box)}  {box.label}" for box in found.boxes))
    return 0


def _edges(box: FoundBox) -> str:
    """Left, top, right, bottom."""
    return " ".join(f"{edge:.1f}" for edge in box.span)


def _check(args: argparse.Namespace) -> None:
    check_given(args.picture, kinds=("file",))
    for name, path in (("--mask", args.mask), ("--overlay", args.overlay)):
        if path is None:
            continue
        if path.suffix.lower() != ".png":
            raise CallError(f"{name} {path}: it is written as PNG. Name a file that ends in .png.")
        check_output(path)
        if path.resolve() == args.picture.resolve():
            raise CallError(f"{name} {path} is the picture itself: name a new file.")
    if args.mask is not None and args.mask == args.overlay:
        raise CallError(f"--mask and --overlay both name {args.mask}: give each its own file.")
    check_text_encoder(args)


def _write(args: argparse.Namespace, picture: Tensor, found: Found) -> list[str]:
    """The mask and the overlay, where they are wanted; their paths."""
    from ...pipeline.box_masks import mask_of
    from ...pipeline.box_overlay import overlay

    if args.mask is None and args.overlay is None:
        return []
    mask = mask_of(picture, found.boxes, args.shape)
    files = []
    if args.mask is not None:
        files.append(_save(args.mask, mask[0]))
    if args.overlay is not None:
        files.append(_save(args.overlay, overlay(picture, found.boxes, mask)[0]))
    return files


def _save(path: Path, picture: Tensor) -> str:
    """Floats in 0..1 as a PNG."""
    import torch

    from ...files.png import save_png

    save_png(path, (picture * 255).round().to(torch.uint8).numpy())
    return str(path)
