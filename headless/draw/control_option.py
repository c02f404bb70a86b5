"""The option `--control TYPE:PICTURE[:STRENGTH[:START-END]]`."""

from __future__ import annotations

import argparse
import re
from dataclasses import dataclass
from pathlib import Path

from ...files.paths import kind_of

MAP = "map"  # the picture is the control map itself
_NUMBER = r"[-+]?\d+(?:\.\d*)?|[-+]?\.\d+"
_TAIL = re.compile(rf":({_NUMBER})(?::(\d*\.?\d+)-(\d*\.?\d+))?$")


@dataclass(frozen=True)
class ControlOption:
    """One --control: the type of map, its picture, and how strongly and when it acts."""

    kind: str
    path: Path
    strength: float = 1.0
    start: float = 0.0
    end: float = 1.0

    def words(self) -> str:
        """The option as the command line writes it, without the folder."""
        return f"{self.kind}:{self.path.name}:{self.strength:g}:{self.start:g}-{self.end:g}"


def kinds() -> tuple[str, ...]:
    """Types of --control."""
    from ...controlnet.preprocess.kinds import KINDS

    return (MAP, *KINDS)


def control(text: str) -> ControlOption:
    """Parses TYPE:PICTURE[:STRENGTH[:START-END]]. The path may hold colons: only numbers at the end
    are taken off. Raises argparse.ArgumentTypeError.
    """
    kind, _, rest = text.partition(":")
    if kind not in kinds() or not rest:
        raise argparse.ArgumentTypeError(
            f"{text!r}: expected TYPE:PICTURE[:STRENGTH[:START-END]], for example "
            f"canny:photo.png:0.8:0-0.5, with a type of {', '.join(kinds())}"
        )
    tail = None if kind_of(Path(rest)) == "a file" else _TAIL.search(rest)
    if tail is None:
        return ControlOption(kind, Path(rest))
    strength, start, end = float(tail[1]), float(tail[2] or 0), float(tail[3] or 1)
    if not -10 <= strength <= 10 or not 0 <= start < end <= 1:
        raise argparse.ArgumentTypeError(
            f"{text!r}: expected a strength from -10 to 10 and steps from START to END as "
            "fractions, 0 <= START < END <= 1"
        )
    return ControlOption(kind, Path(rest[: tail.start()]), strength, start, end)
