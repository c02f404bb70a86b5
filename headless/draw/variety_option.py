"""--variety NAME[:AMOUNT], and its help."""

from __future__ import annotations

import argparse

from ...sampling.variety_choices import METHODS
from ..arg_types import variety


def add_variety(p: argparse.ArgumentParser) -> None:
    """--variety."""
    usual = ", ".join(f"{name} {method.usual:g}" for name, method in METHODS.items())
    p.add_argument(
        "--variety",
        type=variety,
        action="append",
        default=[],
        metavar="NAME[:AMOUNT]",
        help="make the pictures of different seeds differ more: text-noise (noise on the words in "
        "the first steps; text-noise:AMOUNT:STEPS names their fraction), no-early-cfg (no CFG in "
        "the first fraction of the steps), rewrite (each picture's prompt is rewritten by the text "
        f"encoder's language model). 0 = off; usual: {usual}. May be repeated (default: off)",
    )
