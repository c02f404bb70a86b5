"""The command line as a whole: every subcommand with its options and its handler.

Each command is one file: `add` declares its options, `run` does the work and returns the exit
status. Nothing heavy is imported before a command runs; invalid values are refused with a sentence
and exit status 2.
"""

from __future__ import annotations

import argparse

from ... import __version__
from . import (
    ask,
    batch,
    check,
    convert,
    doctor,
    draw,
    enhance,
    find,
    inspect,
    preprocess,
    quantize,
    run,
    score,
    serve,
    train,
    train_lora,
)

COMMANDS = (
    draw,
    enhance,
    ask,
    find,
    run,
    batch,
    convert,
    check,
    inspect,
    quantize,
    preprocess,
    score,
    serve,
    train,
    train_lora,
    doctor,
)


def build_parser() -> argparse.ArgumentParser:
    """The whole command line."""
    parser = argparse.ArgumentParser(prog="inkstone", description="Qwen-Image on its own kernels.")
    parser.add_argument("--version", action="version", version=f"inkstone {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for module in COMMANDS:
        module.add(commands)
    return parser
