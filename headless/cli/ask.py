"""`inkstone ask`: questions about pictures, and captions, answered by the text encoder."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from ...errors import CallError
from ...files.paths import check_given
from ...pipeline.ask_choices import CAPTIONS, FREE
from ...sampling.next_token_limits import USUAL_PENALTY
from ..arg_types import Commands, between, command, file_path
from ..node_types import Json
from .encoder_options import (
    add_answer_limits,
    add_draws,
    add_plan_switch,
    add_text_encoder,
    check_text_encoder,
    given_text_encoder,
    print_plan,
)
from .shared import add_json, as_text

if TYPE_CHECKING:
    from ...loaders.models.text_encoder import TextEncoderModel
    from ...sampling.next_token import Decoding

_FLAGS = {"short": "short caption", "long": "long caption", "training": "training caption"}


def add(commands: Commands) -> None:
    """The options."""
    p = command(
        commands,
        "ask",
        "ask the text encoder about pictures, or let it caption them",
        "inkstone ask photo.jpg 'How many birds are there?' --text-encoder "
        "Qwen2.5-VL-7B-Instruct-Q4_K_M.gguf\n  inkstone ask *.jpg --training --model Qwen-Image"
        "\n  inkstone ask drawn.png --short   (the embedded model, about its own pictures)",
    )
    p.add_argument(
        "words",
        nargs="+",
        metavar="PICTURE ... QUESTION",
        help="one or more pictures, then the question; the pictures are Picture 1, 2, 3. With a "
        "caption there is no question, and each picture gets its own answer",
    )
    captions = p.add_mutually_exclusive_group()
    for flag, caption in _FLAGS.items():
        captions.add_argument(
            f"--{flag}",
            dest="caption",
            action="store_const",
            const=caption,
            help=f"{caption}: {CAPTIONS[caption]}",
        )
    add_text_encoder(p)
    _add_decoding(p)
    add_plan_switch(p)
    add_json(p, "print answers and facts as JSON")
    p.set_defaults(handler=run)


def _add_decoding(p: argparse.ArgumentParser) -> None:
    add_draws(p, 0.0)
    p.add_argument(
        "--top-p",
        type=between(1e-6, 1, float),
        default=1.0,
        metavar="P",
        help="draw only among the tokens that together have this probability (default 1, all)",
    )
    p.add_argument(
        "--top-k",
        type=between(0, 1 << 20, int),
        default=0,
        metavar="K",
        help="draw only among the K most likely tokens (default 0, all)",
    )
    p.add_argument(
        "--repetition-penalty",
        type=between(0.01, 100, float),
        default=USUAL_PENALTY,
        metavar="R",
        help="above 1: words that have occurred become less likely (default "
        f"{USUAL_PENALTY}, the publisher's)",
    )
    add_answer_limits(p)


def run(args: argparse.Namespace) -> int:
    """Answer; the text goes to stdout as it is written."""
    from ...pipeline.ask import question_of

    questions = _questions(args)
    for path in {path for paths, *_ in questions for path in paths}:
        check_given(path, kinds=("file",))
    check_text_encoder(args)
    with given_text_encoder(args) as text_encoder:
        asked = [
            (paths, question_of(caption, question, text_encoder.family))
            for paths, caption, question in questions
        ]
        if args.plan:
            return print_plan(text_encoder, *asked[0], args)
        answers = [_answer(text_encoder, paths, text, args) for paths, text in asked]
    if args.json:
        print(as_text(answers))
    return 0


def _questions(args: argparse.Namespace) -> list[tuple[list[Path], str, str]]:
    """(pictures, caption or FREE, question) of every answer."""
    words = list(args.words)
    if args.caption is not None:
        return [([_path(word)], args.caption, "") for word in words]
    if len(words) < 2:
        raise CallError(
            f"There is only {words[0][:80]!r}: expected a picture and a question. Write the "
            "question behind the picture, or add --short, --long or --training for a caption."
        )
    if not words[-1].strip():
        raise CallError("The question is empty: write what you want to know about the picture.")
    return [([_path(word) for word in words[:-1]], FREE, words[-1])]


def _path(word: str) -> Path:
    try:
        return file_path(word)
    except argparse.ArgumentTypeError as error:
        raise CallError(str(error)) from None


def _decoding(args: argparse.Namespace) -> Decoding:
    from ...sampling.next_token import Decoding
    from .shared import fields_of

    return Decoding(**fields_of(Decoding, args))


def _answer(
    text_encoder: TextEncoderModel, paths: list[Path], question: str, args: argparse.Namespace
) -> dict[str, Json]:
    """Answer one question; print it unless it is wanted as JSON."""
    from ...files.images import read_picture
    from ...pipeline.ask import ask

    def show(piece: str) -> None:
        if not args.json:
            sys.stdout.write(piece)
            sys.stdout.flush()

    pictures = [read_picture(path) for path in paths]
    if args.caption is not None and len(args.words) > 1:
        show(f"{paths[0]}: ")
    answer = ask(text_encoder, question, pictures, _decoding(args), show, args.max_pixels)
    show("\n")
    if not answer.ended:
        print(f"the answer was cut at {args.max_tokens} tokens: --max-tokens", file=sys.stderr)
    return {
        "files": [str(path) for path in paths],
        "question": question,
        "answer": answer.text,
        "ended": answer.ended,
        "prompt_tokens": answer.prompt_tokens,
        "tokens": len(answer.tokens),
        "seen": [list(size) for size in answer.seen],
        "seed": args.seed,
        "seconds": round(answer.seconds, 3),
        "tokens_per_second": round(1 / answer.seconds_per_token, 3)
        if answer.seconds_per_token
        else None,
    }
