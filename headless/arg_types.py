"""Argument types of the command line: a text becomes a size, a device, a LoRA, a number in a range.

Invalid text is refused with a sentence and exit status 2. Imports nothing heavy.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

from ..errors import InkstoneError
from ..files.paths import kind_of, path_fault
from ..pipeline.devices import parse_device, parse_memory
from ..sampling.geometry import parse_sides
from ..sampling.region_choices import (
    RegionOption,
    RegionSettings,
    parse_region,
    parse_region_method,
)
from ..sampling.step_cache_choices import StepCache, parse_step_cache
from ..sampling.variety_choices import VarietyOption, parse_variety

AUTO_SIZE = "auto"  # the same as no size

# what `add_subparsers` returns; argparse has no public name for it
Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"


def size(text: str) -> tuple[int, int] | None:
    """Parse WIDTHxHEIGHT, or auto: none is named. Whether it is a canvas, `check_call` checks: a
    picture's own size may be any.
    """
    try:
        return None if text.strip() == AUTO_SIZE else parse_sides(text)
    except InkstoneError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def memory(text: str) -> int:
    """Parse an amount of memory: 12GB -> bytes."""
    try:
        return parse_memory(text)
    except InkstoneError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def device(text: str) -> str:
    """Parse a torch device name."""
    try:
        return parse_device(text)
    except InkstoneError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def file_path(text: str) -> Path:
    """Parse a path; whether it leads anywhere is for the command to find out."""
    fault = path_fault(text)
    if fault is not None:
        shown = repr(text) if len(text) <= 80 else repr(text[:80]) + "..."
        raise argparse.ArgumentTypeError(f"the path {shown} {fault}")
    return Path(text)


def lora(text: str) -> tuple[Path, float]:
    """Parse F[:STRENGTH]. A path may hold colons (C:\\...): only a number at the end counts."""
    front, _, tail = text.rpartition(":")
    try:
        float(tail)
    except ValueError:
        return file_path(text), 1.0
    if not front or kind_of(file_path(text)) == "a file":
        return file_path(text), 1.0
    return file_path(front), between(-100, 100, float)(tail)


def step_cache(text: str) -> StepCache:
    """Parse NAME[:THRESHOLD][:force]."""
    try:
        return parse_step_cache(text)
    except InkstoneError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def region(text: str) -> RegionOption:
    """Parse "PROMPT":x,y,width,height or "PROMPT":MASK."""
    try:
        option = parse_region(text)
    except InkstoneError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    if option.mask is not None:
        file_path(str(option.mask))
    return option


def region_method(text: str) -> RegionSettings:
    """Parse METHOD[:BASE][:START-END]."""
    try:
        return parse_region_method(text)
    except InkstoneError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def variety(text: str) -> VarietyOption:
    """Parse NAME[:AMOUNT]."""
    try:
        return parse_variety(text)
    except InkstoneError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def between(low: float, high: float, kind: type[int] | type[float]) -> Callable[[str], int | float]:
    """A type for argparse: a number from low to high."""

    def parse(text: str) -> int | float:
        try:
            value = kind(text)
        except ValueError:
            value = None
        if value is None or not low <= value <= high:
            number = "whole number" if kind is int else "number"
            raise argparse.ArgumentTypeError(f"{text!r}: expected a {number} from {low} to {high}")
        return value

    return parse


def workers_range(text: str) -> tuple[int, int]:
    """Parse N or MIN:MAX, numbers of workers."""
    least, _, most = text.partition(":")
    number = between(1, 10000, int)
    try:
        pair = int(number(least)), int(number(most if ":" in text else least))
    except argparse.ArgumentTypeError:
        pair = (1, 0)
    if pair[0] > pair[1]:
        raise argparse.ArgumentTypeError(
            f"{text!r}: expected a number of workers from 1 to 10000, or the fewest and the most, "
            "such as 1:4"
        )
    return pair


def add_device(parser: argparse.ArgumentParser) -> None:
    """--device."""
    parser.add_argument(
        "--device",
        type=device,
        metavar="D",
        help="cpu, cuda, cuda:1, xpu or mps (default: cuda if there is one)",
    )


def command(commands: Commands, name: str, text: str, example: str) -> argparse.ArgumentParser:
    """Add a subcommand with its line of help and an example."""
    parser = commands.add_parser(
        name,
        help=text,
        description=text,
        epilog=f"example:\n  {example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--quiet", action="store_true", help="print only errors on stderr")
    return parser
