"""Options of commands in which the text encoder writes: which one, LoRAs, limits, the machine."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from ...errors import CallError
from ...files.paths import check_given
from ...pipeline.ask_choices import ALL_PIXELS, LEAST_PIXELS, MOST_PIXELS
from ...pipeline.devices import check_device
from ...sampling.next_token_limits import MOST_TOKENS, USUAL_TOKENS
from ..arg_types import between, file_path, lora
from ..draw.options import add_machine
from .shared import as_text

if TYPE_CHECKING:
    from pathlib import Path

    from ...loaders.models.text_encoder import TextEncoderModel


def add_text_encoder(p: argparse.ArgumentParser) -> None:
    """--text-encoder, --model, --lora, and those of the machine."""
    p.add_argument(
        "--text-encoder",
        type=file_path,
        metavar="F",
        help="Qwen2.5-VL or Qwen3-VL file or folder with its output head (lm_head); a GGUF file "
        "needs its mmproj file in the same folder. Without it and --model: the embedded model",
    )
    p.add_argument(
        "--model",
        type=file_path,
        metavar="FILE_OR_FOLDER",
        help="a whole model folder or a checkpoint, whose text encoder is used",
    )
    p.add_argument(
        "--lora",
        type=lora,
        action="append",
        default=[],
        metavar="F[:STRENGTH]",
        help="LoRA file with text encoder modules and its strength; may be repeated",
    )
    add_machine(p, draws=False)


def add_answer_limits(p: argparse.ArgumentParser, tokens: int = USUAL_TOKENS) -> None:
    """--max-tokens, with its default, and --max-pixels."""
    p.add_argument(
        "--max-tokens",
        type=between(1, MOST_TOKENS, int),
        default=tokens,
        metavar="N",
        help=f"the longest answer, in tokens (default {tokens})",
    )
    add_max_pixels(p)


def add_max_pixels(p: argparse.ArgumentParser, usual: int = MOST_PIXELS) -> None:
    """--max-pixels, with its default."""
    p.add_argument(
        "--max-pixels",
        type=between(LEAST_PIXELS, ALL_PIXELS, int),
        default=usual,
        metavar="N",
        help="larger pictures are made smaller for the model; more pixels show finer detail and "
        f"take longer (default {usual})",
    )


def add_draws(p: argparse.ArgumentParser, temperature: float) -> None:
    """--temperature, with its default, and --seed."""
    p.add_argument(
        "--temperature",
        type=between(0, 100, float),
        default=temperature,
        metavar="T",
        help="0 takes the most likely token always; higher draws more freely (default "
        f"{temperature:g})",
    )
    p.add_argument(
        "--seed",
        type=between(0, 2**64 - 1, int),
        default=0,
        metavar="N",
        help="seed of the draws; the same on every machine (default 0)",
    )


def add_plan_switch(p: argparse.ArgumentParser) -> None:
    """--plan, of `print_plan`."""
    p.add_argument("--plan", action="store_true", help="print the memory plan and stop")


def check_text_encoder(args: argparse.Namespace) -> None:
    """Refuses files and devices that are not there."""
    for name, path in (("--text-encoder", args.text_encoder), ("--model", args.model)):
        if path is not None:
            check_given(path, name)
    for path, _ in args.lora:
        check_given(path, "--lora", kinds=("file",))
    if args.text_encoder is not None and args.model is not None:
        raise CallError("--text-encoder and --model both name a text encoder: give one of them.")
    check_device(args.device)


@contextmanager
def given_text_encoder(args: argparse.Namespace) -> Iterator[TextEncoderModel]:
    """The text encoder of a call, its weights not read yet."""
    from ...host.headless import HeadlessHost, using
    from ...loaders.lora.adapters import Adapter
    from ...loaders.lora.file import load_lora
    from ...loaders.models.load import EMBEDDED_FOLDER, load_text_encoder
    from ...nodes.load import AUTO, load_options

    with using(HeadlessHost(device=args.device, memory=args.memory)):
        path = args.text_encoder or args.model or EMBEDDED_FOLDER
        text_encoder = load_text_encoder(path, load_options(args.dtype or AUTO))
        text_encoder.head.open()  # a file without it is refused before pictures are read
        adapters = [Adapter(load_lora(file), strength) for file, strength in args.lora]
        yield text_encoder.with_loras(adapters) if adapters else text_encoder


def print_plan(
    text_encoder: TextEncoderModel,
    pictures: Sequence[Path],
    question: str,
    args: argparse.Namespace,
) -> int:
    """Print the memory that the answer takes."""
    from ...files.images import read_picture
    from ...pipeline.answer_stages import PlannedAnswer
    from ...pipeline.ask_plan import plan_answer

    shapes = [read_picture(path).shape for path in pictures]
    sizes = [(shape[2], shape[1]) for shape in shapes]
    answer = PlannedAnswer(text_encoder, question, sizes, args.max_pixels, args.max_tokens)
    plan = plan_answer(answer)
    print(as_text(plan.facts()) if args.json else plan.sentence())
    return 0
