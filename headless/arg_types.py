"""What the subcommands share: how one is made, and how a text becomes a size, a file, a number.

A wrong one is refused in words, with exit status 2; nothing heavy is imported.
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path

from ..errors import InkstoneError

_UNITS = {
    "": 1,
    "b": 1,
    "kb": 10**3,
    "mb": 10**6,
    "gb": 10**9,
    "kib": 2**10,
    "mib": 2**20,
    "gib": 2**30,
}


def size(text: str) -> tuple[int, int]:
    """WIDTHxHEIGHT, multiples of 16."""
    from ..sampling.geometry import parse_size

    return _checked(parse_size, text)


def _checked(parse, text):
    try:
        return parse(text)
    except InkstoneError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def memory(text: str) -> int:
    """12GB -> bytes."""
    match = re.fullmatch(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([a-zA-Z]*)\s*", text)
    unit = _UNITS.get(match[2].lower()) if match else None
    if unit is None or float(match[1]) <= 0:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not an amount of memory: write for example 12GB"
        )
    return int(float(match[1]) * unit)


def device(text: str) -> str:
    """A device name of torch."""
    if not re.fullmatch(r"cpu|mps|(cuda|xpu)(:\d+)?", text):
        raise argparse.ArgumentTypeError(f"{text!r}: expected cpu, cuda, cuda:1, xpu or mps")
    return text


def check_device(device: str | None) -> None:
    """Refuses a device that this torch does not have."""
    import torch

    from ..errors import CallError

    kind, _, index = (device or "cpu").partition(":")
    there = {
        "cpu": 1,
        "cuda": torch.cuda.device_count(),
        "xpu": torch.xpu.device_count(),
        "mps": int(torch.backends.mps.is_available()),
    }
    if int(index or 0) >= there[kind]:
        raise CallError(
            f"--device {device}: this torch ({torch.__version__}) finds {there[kind]} {kind} "
            f"devices. "
            "Use --device cpu, or install the torch build of your card."
        )


def lora(text: str) -> tuple[Path, float]:
    """F[:STRENGTH]. A path may hold colons itself (C:\\...): only a number at the end counts."""
    path, _, tail = text.rpartition(":")
    try:
        float(tail)
    except ValueError:
        return Path(text), 1.0
    if not path or Path(text).is_file():
        return Path(text), 1.0
    return Path(path), between(-100, 100, float)(tail)


def between(low: float, high: float, kind: type):
    """A number from low to high."""

    def parse(text: str):
        try:
            value = kind(text)
        except ValueError:
            value = None
        if value is None or not low <= value <= high:
            raise argparse.ArgumentTypeError(f"{text!r}: expected a number from {low} to {high}")
        return value

    return parse


def command(commands, name: str, text: str, example: str) -> argparse.ArgumentParser:
    """A subcommand with its line of help and an example."""
    parser = commands.add_parser(
        name,
        help=text,
        description=text,
        epilog=f"example:\n  {example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--quiet", action="store_true", help="only errors on stderr")
    return parser
