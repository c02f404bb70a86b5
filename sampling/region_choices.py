"""Regional prompts as people write them: a method, its numbers, boxes, files of masks; without
torch.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import Path

from ..errors import InkstoneError
from .geometry import Box

COMPOSED, ELIGEN = "composed", "eligen"
METHODS = (COMPOSED, ELIGEN)
USUAL_BASE = 0.1  # of 0 to 0.5 on the embedded model (bench/regions.py)
MOST = 64  # regions of a drawing
EXAMPLE = '"a red circle":0,0,64,128'

_SIDE = r"\s*(\d+(?:\.\d+)?)\s*(%?)\s*"
_BOX = re.compile(",".join([_SIDE] * 4))
_FILE = re.compile(r".*\.[A-Za-z]\w*")  # what ends as file names do; no box does
_PARTS = (  # prompt and place: in quotes; before a drive; else the last colon counts
    re.compile(r'\s*"([^"]*)"\s*:(.*)', re.DOTALL),
    re.compile(r"(.*):([A-Za-z]:[\\/].*)", re.DOTALL),
    re.compile(r"(.*):([^:]*)", re.DOTALL),
)


@dataclass(frozen=True)
class BoxSpec:
    """x, y, width, height of a box; each in pixels of the picture, or in percent of its side."""

    sides: tuple[float, float, float, float]
    percent: tuple[bool, bool, bool, bool] = (False, False, False, False)

    def words(self) -> str:
        """As it is written."""
        return ",".join(f"{n:g}{'%' * p}" for n, p in zip(self.sides, self.percent))

    def on(self, width: int, height: int) -> Box:
        """The box in whole pixels of a picture. Raises InkstoneError where it is outside, in part
        too, by more than a pixel.
        """
        whole = (width, height, width, height)
        sides = [n * w / 100 if p else n for n, p, w in zip(self.sides, self.percent, whole)]
        x, y, w, h = sides
        left, top, right, bottom = round(x), round(y), round(x + w), round(y + h)
        if right > width + 1 or bottom > height + 1 or left >= width or top >= height:
            raise InkstoneError(
                f"The box {self.words()} of a region reaches to {right}x{bottom}, the picture is "
                f"{width}x{height}: expected x,y,width,height inside of it. Move the box, or give "
                "it in percent, such as 0,0,50%,100%."
            )
        return Box(left, top, min(right, width), min(bottom, height))


def parse_box(text: str) -> BoxSpec:
    """x,y,width,height in pixels, or with % of the picture's sides. Raises InkstoneError."""
    match = _BOX.fullmatch(text)
    if match is None:
        raise InkstoneError(
            f"{text!r} is no box: expected x,y,width,height in pixels of the picture or in "
            "percent, for example 0,0,64,128 or 50%,0,50%,100%."
        )
    numbers = tuple(float(n) for n in match.groups()[::2])
    if min(numbers[2:]) <= 0 or not all(map(math.isfinite, numbers)):
        raise InkstoneError(
            f"The box {text.strip()} is empty: expected a width and a height above 0."
        )
    x, y, width, height = numbers
    percent = tuple(bool(p) for p in match.groups()[1::2])
    if any(n <= 1 and not p for n, p in zip(numbers[2:], percent[2:])):
        raise InkstoneError(
            f"The box {text.strip()} is a pixel wide or high: shares of a side are written in "
            "percent, for example 50%,0,50%,100% for the right half."
        )
    return BoxSpec((x, y, width, height), (percent[0], percent[1], percent[2], percent[3]))


@dataclass(frozen=True)
class RegionOption:
    """One --region: a prompt, and its box or the file of its mask."""

    prompt: str
    place: BoxSpec | Path

    @property
    def mask(self) -> Path | None:
        """The file, where it is no box."""
        return self.place if isinstance(self.place, Path) else None

    @property
    def box(self) -> str:
        """The box as it is written; "" where it is a mask."""
        return "" if isinstance(self.place, Path) else self.place.words()

    def words(self) -> str:
        """As the command line writes it, without the folder of a mask."""
        prompt = self.prompt if '"' in self.prompt else f'"{self.prompt}"'
        return f"{prompt}:{self.place.name if isinstance(self.place, Path) else self.box}"


def parse_region(text: str) -> RegionOption:
    """PROMPT:x,y,width,height or PROMPT:MASK -> the region; the prompt may be in quotes. Raises
    InkstoneError.
    """
    match = next(filter(None, (parts.fullmatch(text) for parts in _PARTS)), None)
    prompt, place = (part.strip() for part in match.groups()) if match else ("", "")
    if not prompt:
        raise InkstoneError(
            f"{text!r} is no region: expected PROMPT:x,y,width,height or PROMPT:MASK, the file of "
            f"a mask, for example {EXAMPLE}."
        )
    return RegionOption(prompt, Path(place) if _FILE.fullmatch(place) else parse_box(place))


@dataclass(frozen=True)
class RegionSettings:
    """How regions act. base: share of the picture as a whole in what a region sees, of the method
    composed; start and end: fractions of the steps, outside of which the prompt acts alone. Raises
    InkstoneError.
    """

    method: str = COMPOSED
    base: float = USUAL_BASE
    start: float = 0.0
    end: float = 1.0

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise InkstoneError(
                f"There is no method {self.method!r} of regions: expected {' or '.join(METHODS)}."
            )
        if not 0 <= self.base < 1:
            raise InkstoneError(
                f"The base ratio of the regions is {self.base:g}: expected 0 (regions see only "
                f"themselves) to below 1 (no regions). {USUAL_BASE:g} is usual."
            )
        if not 0 <= self.start < self.end <= 1:
            raise InkstoneError(
                f"The regions act from {self.start:g} to {self.end:g}: expected fractions of the "
                "steps, 0 <= start < end <= 1. Use 0 and 1 for all steps."
            )

    def words(self) -> str:
        """The settings as a text."""
        base = f" with base {self.base:g}" if self.method == COMPOSED else ""
        return f"{self.method}{base} from {self.start:g} to {self.end:g}"

    def acts(self, step: int, steps: int) -> bool:
        """True in the steps that lie within start .. end as a whole."""
        return step / steps >= self.start and (step + 1) / steps <= self.end


def parse_region_method(text: str) -> RegionSettings:
    """METHOD[:BASE][:START-END] -> the settings. Raises InkstoneError."""
    name, *rest = text.strip().split(":")
    span = rest.pop().split("-") if rest and "-" in rest[-1][1:] else ["0", "1"]
    try:
        base = float(rest.pop(0)) if rest else USUAL_BASE
        start, end = (float(number) for number in span)
    except ValueError:
        rest = [text]
        base, start, end = USUAL_BASE, 0.0, 1.0
    if rest:
        raise InkstoneError(
            f"{text!r} is no method of regions: expected METHOD, METHOD:BASE or "
            f"METHOD:BASE:START-END, for example {COMPOSED}:{USUAL_BASE:g}:0-0.5 or {ELIGEN}."
        )
    return RegionSettings(name, base, start, end)
