"""What the command `inkstone` accepts: every subcommand, option, range and default.

Nothing heavy is imported here; wrong values are refused in words with exit status 2.
"""

from __future__ import annotations

import argparse

from ..draw.options import add_draw, add_plan
from .batch import add_batch
from .check import add_check
from .convert import add_convert
from .doctor import _add_doctor
from .inspect import _add_inspect
from .preprocess import add_preprocess
from .quantize import _add_quantize
from .run import _add_run
from .train import _add_train


def build_parser() -> argparse.ArgumentParser:
    """The whole command line."""
    from ... import __version__

    parser = argparse.ArgumentParser(prog="inkstone", description="Qwen-Image on its own kernels.")
    parser.add_argument("--version", action="version", version=f"inkstone {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    add_draw(commands)
    add_plan(commands)
    _add_run(commands)
    add_batch(commands)
    add_convert(commands)
    add_check(commands)
    _add_inspect(commands)
    _add_quantize(commands)
    add_preprocess(commands)
    _add_train(commands)
    _add_doctor(commands)
    return parser
