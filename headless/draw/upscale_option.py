"""Options of `inkstone draw` that enlarge what it draws."""

from __future__ import annotations

import argparse

from ...pipeline.upscale_choices import MOST_FACTOR, USUAL_STRENGTH
from ..arg_types import between


def add_upscale(p: argparse.ArgumentParser) -> None:
    """How often larger, and how much is redrawn."""
    p.add_argument(
        "--upscale",
        type=between(1, MOST_FACTOR, float),
        metavar="FACTOR",
        help="enlarge what was drawn by this factor and redraw it tile by tile, without seams. To "
        "enlarge a picture of yours as it is: --image F --strength 0 --upscale 2",
    )
    p.add_argument(
        "--upscale-strength",
        type=between(0, 1, float),
        metavar="S",
        help=f"how much --upscale redraws: 0 nothing, 0.2 to 0.3 invents detail (default "
        f"{USUAL_STRENGTH:g})",
    )
