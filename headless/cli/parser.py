"""The command line as a whole: every subcommand with its options and its handler.

Each command is one file: `add` declares its options, `run` does the work and returns the exit
status. Nothing heavy is imported before a command runs; invalid values are refused with a sentence
and exit status 2.
"""

from __future__ import annotations

import argparse
import difflib
from collections.abc import Sequence
from typing import Any, NoReturn

from ... import __version__
from ...errors import shorten
from ..draw.option_values import elsewhere
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


_MISSING = "the following arguments are required"  # argparse's words


class _Parser(argparse.ArgumentParser):
    """argparse, but what is wrong is one sentence, without the usage of all options, and names that
    are not known come with the nearest one.
    """

    _given: Any = None

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> tuple[Any, list[str]]:
        """As argparse; nothing is left over."""
        self._given = args
        known, left = super().parse_known_args(args, namespace)
        if left:
            self._end(self._not_known(left))
        return known, left

    def error(self, message: str) -> NoReturn:
        """Ends the call."""
        needed = [action for action in self._actions if action.required]
        if message.startswith(_MISSING) and needed:  # perhaps it is there, misspelt
            for action in needed:
                action.required = False
            self.parse_known_args(self._given)
        self._end(f"error: {message.rstrip('.')}. `{self.prog} --help` lists all.")

    def _end(self, sentence: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {sentence}\n")

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if isinstance(action, argparse._SubParsersAction) and value not in action.choices:
            meant = _meant(str(value), list(action.choices))
            raise argparse.ArgumentError(
                None,
                f"there is no command {shorten(str(value))!r}{meant or '. '}The command comes "
                'first, its options after it: inkstone draw "a red circle" -o circle.png',
            )
        super()._check_value(action, value)

    def _not_known(self, left: Sequence[str]) -> str:
        name = next((text.partition("=")[0] for text in left if text.startswith("-")), None)
        if name is None:
            extra = repr(shorten(left[0]))
            if left[0][:1] in "\u2013\u2014":
                return f"{extra} begins with a long dash: options begin with two hyphens, --."
            return (
                f"{extra} is one argument too many. Put texts with spaces in quotes, and repeat an "
                "option that takes several values."
            )
        names = [option for action in self._actions for option in action.option_strings]
        if name in names:
            return f"{name} stands after --, where options are none. Put it before."
        meant = _meant(name, names)
        if not meant:
            for action in self._actions:
                own = str(action.metavar or action.dest)
                if not action.option_strings and _meant(name, [f"--{own.casefold()}"]):
                    return f"there is no option {shorten(name)}: give {own} as it is, without it."
        meant = meant or ". "
        return f"there is no option {shorten(name)}{meant}`{self.prog} --help` lists all."


def _meant(name: str, names: Sequence[str]) -> str:
    """ "; did you mean NAME? ", or "" where none is near."""
    bare, *own = (one.strip("-").replace("-", "_") for one in (name.casefold(), *names))
    plain = dict(zip(own, names, strict=True))
    here = elsewhere(bare, own)
    begin = [one for one in plain if one.startswith(bare) and len(bare) > 1]
    near = [here[0]] if here else begin or difflib.get_close_matches(bare, plain, 1, 0.7)
    near = [plain[one] for one in near]
    return f"; did you mean {' or '.join(near)}? " if near else ""


def build_parser() -> argparse.ArgumentParser:
    """The whole command line."""
    parser = _Parser(prog="inkstone", description="Qwen-Image on its own kernels.")
    parser.add_argument("--version", action="version", version=f"inkstone {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for module in COMMANDS:
        module.add(commands)
    return parser
