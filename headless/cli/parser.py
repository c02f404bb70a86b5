"""The command line as a whole: every subcommand with its options and its handler.

Each command is one file: `add` declares its options, `run` does the work and returns the exit
status. Nothing heavy is imported before a command runs; invalid values are refused with a sentence
and exit status 2.
"""

from __future__ import annotations

import argparse
import difflib
from collections.abc import Sequence
from typing import Any

from ... import __version__
from ...errors import shorten
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


class _Parser(argparse.ArgumentParser):
    """argparse, but an option that is not known is named with the nearest one in place of the usage
    of all."""

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> tuple[Any, list[str]]:
        """As argparse; nothing is left over."""
        known, left = super().parse_known_args(args, namespace)
        if left:
            self.exit(2, f"{self.prog}: {self._not_known(left)}\n")
        return known, left

    def _not_known(self, left: Sequence[str]) -> str:
        name = next((text.partition("=")[0] for text in left if text.startswith("-")), None)
        if name is None:
            extra = repr(shorten(left[0]))
            return f"{extra} is one argument too many. Put texts with spaces in quotes."
        names = [option for action in self._actions for option in action.option_strings]
        begin = [one for one in names if one.startswith(name) and len(name) > 3]
        near = begin or difflib.get_close_matches(name, names, 1, 0.6)
        meant = f"; did you mean {' or '.join(near)}?" if near else "."
        return f"there is no option {shorten(name)}{meant} `{self.prog} --help` lists all."


def build_parser() -> argparse.ArgumentParser:
    """The whole command line."""
    parser = _Parser(prog="inkstone", description="Qwen-Image on its own kernels.")
    parser.add_argument("--version", action="version", version=f"inkstone {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for module in COMMANDS:
        module.add(commands)
    return parser
