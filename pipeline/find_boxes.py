"""The boxes in an answer of Qwen2.5-VL or Qwen3-VL, in the picture's own pixels.

The model writes a JSON list of {"bbox_2d": [left, top, right, bottom], "label": ...}: Qwen2.5-VL in
pixels of the copy that its vision tower saw, Qwen3-VL in thousandths of the picture. The rules:

- Text and code fences around are skipped, and every object that is complete is read by itself: an
  answer that was cut off, or has a broken object, gives the others. What is left out has a reason.
- `<box>(left,top),(right,bottom)</box>`, the form of the earlier Qwen-VL models, counts in
  thousandths of the picture. No other form is taken for boxes: numbers alone never are.
- A box is four finite numbers in order. It is clipped to the picture; one of which more than half
  lies outside is left out, because its numbers mean something else.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from ..errors import InkstoneError
from ..sampling.span import Span

KEY = "bbox_2d"
MOST_BOXES = 1000
_MOST_STARTS = 10 * MOST_BOXES  # of objects that are looked at, whatever they are
_LONGEST = 2000  # characters of one object: a label is a few words
_LABEL = 100  # characters of a label that are kept
_HUGE = 1e9  # no coordinate is as large; products stay exact
_THOUSANDTHS = (1000, 1000)
_START = re.compile(r'\{\s{0,99}"|<box>|<\|box_start\|>')
_NUMBER = r"\s*(-?\d{1,9}(?:\.\d{1,9})?)\s*"
_POINT = rf"\s*\({_NUMBER},{_NUMBER}\)\s*"
_TAGGED = re.compile(rf"{_POINT},{_POINT}(?:</box>|<\|box_end\|>)")
_REF = re.compile(r"(?:<ref>|<\|object_ref_start\|>)([^<>]{1,200})(?:</ref>|<\|object_ref_end\|>)$")
_JSON = json.JSONDecoder()


@dataclass(frozen=True)
class FoundBox:
    """A thing in a picture and where it is, in the picture's own pixels."""

    label: str
    span: Span


@dataclass(frozen=True)
class FoundBoxes:
    """The boxes of an answer in its order, and why others are left out."""

    boxes: tuple[FoundBox, ...]
    left_out: tuple[str, ...]


class _Written(NamedTuple):
    """A box as the answer has it; `why` says what is wrong with it. scale: of its numbers, None
    for that of the model."""

    label: str = ""
    span: Span = Span(0, 0, 0, 0)
    scale: tuple[int, int] | None = None
    why: str = ""


def read_boxes(answer: str, what: str, scale: tuple[int, int], size: tuple[int, int]) -> FoundBoxes:
    """The boxes of an answer. what: the label of a box without one; scale: what the right and lower
    edge of the picture are in the model's numbers; size: its width and height.
    """
    boxes: dict[FoundBox, None] = {}
    left_out: list[str] = []
    for number, written in enumerate(_written(answer), 1):
        if number > MOST_BOXES:
            raise InkstoneError(
                f"The answer has more than {MOST_BOXES} boxes: expected a few. Ask for fewer "
                "things, or for one of them."
            )
        span = written.span.scaled(written.scale or scale, size)
        box = FoundBox(_label(written.label) or what, span.within(*size))
        why = written.why or _fault(written.span, span, box.span)
        why = why or ("it repeats another box" if box in boxes else "")
        if why:
            left_out.append(f"box {number}: {why}")
        else:
            boxes[box] = None
    return FoundBoxes(tuple(boxes), tuple(left_out))


def _fault(written: Span, whole: Span, inside: Span) -> str:
    """What is wrong with the numbers of a box; whole: in the picture's pixels, inside: clipped."""
    numbers = ", ".join(f"{v:g}" for v in written)
    if not whole.area:
        return f"[{numbers}] is not left, top, right, bottom: it has no area"
    if inside.area < whole.area / 2:
        return f"[{numbers}] lies outside the picture for more than half"
    return ""


def _written(answer: str) -> Iterator[_Written]:
    """Every box, complete or not, in the order of the answer."""
    at, starts = 0, 0
    while (start := _START.search(answer, at)) is not None:
        starts += 1
        if starts > _MOST_STARTS:
            raise InkstoneError(
                f"The answer has more than {_MOST_STARTS} objects: expected a list of boxes. Ask "
                "for one thing by its name."
            )
        at = start.end()
        if start[0].startswith("<"):
            match = _TAGGED.match(answer, at)
            if match is not None:
                at = match.end()
                yield _tagged(match, answer[max(0, start.start() - 300) : start.start()])
            elif not answer[at : at + 99].lstrip().startswith(("{", "[{")):
                yield _Written(why="it is cut off or not written as (left,top),(right,bottom)")
            continue
        value, length = _object(answer[start.start() : start.start() + _LONGEST])
        if value is None:
            following = _START.search(answer, at)
            end = min(following.start() if following else len(answer), at + _LONGEST)
            if KEY in answer[start.start() : end]:
                yield _Written(why="its JSON is cut off or broken")
        elif KEY in value:
            at = start.start() + length
            yield _from_json(value)


def _object(text: str) -> tuple[dict[str, object] | None, int]:
    """The JSON object at the start of a text and its length; None where it is not whole."""
    try:
        value, length = _JSON.raw_decode(text)
    except (ValueError, RecursionError):  # a number of 5000 digits is a ValueError too
        return None, 0
    return value, length


def _from_json(value: dict[str, object]) -> _Written:
    numbers, label = value[KEY], value.get("label")
    label = label if isinstance(label, str) else ""
    if not isinstance(numbers, list) or len(numbers) != 4:
        return _Written(label, why=f"{KEY} is not a list of four numbers")
    edges = [_number(v) for v in numbers]
    if not all(math.isfinite(v) for v in edges):
        return _Written(label, why=f"{KEY} holds what is no number of pixels")
    return _Written(label, Span(*edges))


def _number(value: object) -> float:
    """A coordinate; NaN for what is none."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not abs(value) < _HUGE:
        return math.nan
    return float(value)


def _tagged(match: re.Match[str], before: str) -> _Written:
    ref = _REF.search(before.rstrip())
    edges = Span(*(float(v) for v in match.groups()))
    return _Written(ref[1] if ref else "", edges, _THOUSANDTHS)


def _label(text: str) -> str:
    """A label on one line, of characters that can be shown."""
    shown = "".join(c if c.isprintable() else " " for c in text[: 4 * _LABEL])
    return " ".join(shown.split())[:_LABEL].strip()
