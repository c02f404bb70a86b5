"""`inkstone enhance`: a prompt rewritten in more detail by the text encoder."""

from __future__ import annotations

import argparse
import sys
import time
from typing import TYPE_CHECKING

from ...errors import CallError
from ...files.paths import check_given
from ...pipeline.enhance_choices import SEEN_PIXELS, USUAL_TEMPERATURE
from ..arg_types import Commands, command, file_path
from ..draw.options import add_instructions
from .encoder_options import (
    add_draws,
    add_max_pixels,
    add_text_encoder,
    check_text_encoder,
    given_text_encoder,
)
from .shared import add_json, as_text

if TYPE_CHECKING:
    from ...loaders.models.text_encoder import TextEncoderModel
    from ...pipeline.enhance import EnhanceRequest


def add(commands: Commands) -> None:
    """The options."""
    p = command(
        commands,
        "enhance",
        "rewrite a prompt in more detail with the text encoder",
        "inkstone enhance 'a shop with a sign \"OPEN\"' --text-encoder "
        "Qwen2.5-VL-7B-Instruct-Q4_K_M.gguf\n  inkstone enhance 'remove the car' --image "
        "street.jpg --model Qwen-Image-Edit\n  inkstone enhance 'sign \"INK\", star'   "
        "(the embedded model, in its own small language)",
    )
    p.add_argument(
        "prompt",
        metavar="PROMPT",
        help="description of the picture, or what to edit in --image, in any language; text in "
        "quotes stays as it is",
    )
    p.add_argument(
        "--image",
        type=file_path,
        action="append",
        default=[],
        metavar="F",
        help="picture that is edited; repeat for Picture 1, 2, 3",
    )
    add_text_encoder(p)
    add_instructions(p)
    add_draws(p, USUAL_TEMPERATURE)
    add_max_pixels(p, SEEN_PIXELS)
    p.add_argument("--plan", action="store_true", help="print the memory plan and stop")
    add_json(p, "print the prompt and facts as JSON")
    p.set_defaults(handler=run)


def run(args: argparse.Namespace) -> int:
    """Print the enhanced prompt; where none was right, the prompt itself, which is logged."""
    if not args.prompt.strip():
        raise CallError("The prompt is empty: write what is to be drawn or changed.")
    for path in args.image:
        check_given(path, "--image", kinds=("picture file",))
    if args.instructions is not None:
        check_given(args.instructions, "--instructions", kinds=("file",))
    check_text_encoder(args)
    with given_text_encoder(args) as text_encoder:
        request = _request(args)
        if args.plan:
            return _plan(text_encoder, request, args.json)
        return _enhance(text_encoder, request, args.json, _Answers(args.quiet))


def _request(args: argparse.Namespace) -> EnhanceRequest:
    from ...files.images import read_picture
    from ...pipeline.enhance import EnhanceRequest, read_instructions

    return EnhanceRequest(
        prompt=args.prompt,
        pictures=[read_picture(path) for path in args.image],
        instructions=read_instructions(args.instructions) if args.instructions else "",
        temperature=args.temperature,
        seed=args.seed,
        pixels=args.max_pixels,
    )


class _Answers:
    """Shows answers on a terminal while they are written; what is right is printed at the end."""

    def __init__(self, quiet: bool) -> None:
        self._shows = sys.stderr.isatty() and not quiet
        self._number = -1

    def __call__(self, number: int, piece: str) -> None:
        if not self._shows:
            return
        if number != self._number:
            self._number = number
            sys.stderr.write(f"\nanswer {number + 1}: ")
        sys.stderr.write(piece)
        sys.stderr.flush()

    def end(self) -> None:
        """The last line."""
        if self._number >= 0:
            sys.stderr.write("\n\n")


def _enhance(
    text_encoder: TextEncoderModel, request: EnhanceRequest, as_json: bool, answers: _Answers
) -> int:
    from ...pipeline.enhance import enhance

    start = time.perf_counter()
    enhanced = enhance(text_encoder, request, answers)
    answers.end()
    facts = {
        "prompt": request.prompt,
        "enhanced": enhanced.text,
        "kept": bool(enhanced.note),
        "note": enhanced.note or None,
        "tries": enhanced.tries,
        "seed": request.seed,
        "seconds": round(time.perf_counter() - start, 3),
    }
    print(as_text(facts) if as_json else enhanced.text)
    return 0


def _plan(text_encoder: TextEncoderModel, request: EnhanceRequest, as_json: bool) -> int:
    from ...pipeline.ask_plan import plan_answer
    from ...pipeline.enhance import planned

    plan = plan_answer(planned(text_encoder, request))
    print(as_text(plan.facts()) if as_json else plan.sentence())
    return 0
