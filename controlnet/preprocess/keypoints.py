"""Poses as the usual JSON: read and written as OpenPose, its nodes and DWPose do.

One document per picture: people with `pose_keypoints_2d` (x, y, score for 18 points; 25 or 17 are
brought into that order), hands, face, and the size of the canvas. Scores of 0 mean missing. Some
writers store pixels, some parts of the side: whether all are within 0..1 tells them apart.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...errors import InkstoneError

Point = tuple[float, float, float]
"""x and y in pixels, and a score; a score of 0: missing."""
Points = tuple[Point, ...]

BODY, FACE, HAND = 18, 70, 21
MISSING: Point = (0.0, 0.0, 0.0)
NECK = 1
_SURE = 0.3  # of both shoulders, for a neck between them
# points of the file in our order; -1: the middle of both shoulders
_ORDERS = {
    18: tuple(range(18)),
    25: (*range(8), *range(9, 19)),  # body_25: without the middle of the hips and the feet
    17: (0, -1, 6, 8, 10, 5, 7, 9, 12, 14, 16, 11, 13, 15, 2, 1, 4, 3),  # COCO
}
_PARTS = {  # field of Person -> key, and how many points it may have
    "body": ("pose_keypoints_2d", tuple(_ORDERS)),
    "face": ("face_keypoints_2d", (FACE, 68)),
    "left_hand": ("hand_left_keypoints_2d", (HAND,)),
    "right_hand": ("hand_right_keypoints_2d", (HAND,)),
}
_FARTHEST = 65536  # pixels from the corner: a point beyond is damage
_REMEDY = "Export it again as OpenPose JSON (POSE_KEYPOINT)."


@dataclass(frozen=True)
class Person:
    """The points of one person; a part without points was not looked for."""

    body: Points
    face: Points = ()
    left_hand: Points = ()
    right_hand: Points = ()


def read_people(source: str, size: tuple[int, int]) -> list[list[Person]]:
    """JSON, or the path of a file of it -> the people of each picture, in pixels of a picture of
    `size` (width, height).
    """
    found = documents(source)
    return [[_person(p, doc, size) for p in doc["people"]] for doc in found]


def canvas_of(source: str) -> tuple[int, int]:
    """(width, height) that the JSON says its first picture has."""
    first = documents(source)[0]
    sides = first.get("canvas_width"), first.get("canvas_height")
    if not all(_is_number(side) and 1 <= side <= 16384 for side in sides):
        raise InkstoneError(
            f"The pose JSON says its canvas is {sides[0]!r} x {sides[1]!r}: expected canvas_width "
            "and canvas_height in pixels. Give a picture of the wanted size."
        )
    return int(sides[0]), int(sides[1])


def documents(source: str) -> list[dict]:
    """What the JSON holds, one document per picture, its outline checked."""
    text = source.strip()
    if text[:1] not in ("{", "["):
        text = _text_of(Path(text))
    try:
        held = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InkstoneError(f"The keypoints are not JSON: {error}. {_REMEDY}") from None
    held = held if isinstance(held, list) else [held]
    for doc in held or [None]:
        people = doc.get("people") if isinstance(doc, dict) else None
        if not isinstance(people, list) or not all(isinstance(p, dict) for p in people):
            raise InkstoneError(
                'The keypoints hold no list `people`: expected {"people": [{'
                f'"pose_keypoints_2d": [...]}}], ...}}, or a list of those. {_REMEDY}'
            )
    return held


def _text_of(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise InkstoneError(
            f"The keypoints {str(path)[:80]!r} are neither JSON nor a file that can be read: "
            f"{getattr(error, 'strerror', None) or error}. Check the path."
        ) from None


def _person(held: dict, doc: dict, size: tuple[int, int]) -> Person:
    lists = {field: _numbers(held, key, counts) for field, (key, counts) in _PARTS.items()}
    within = [v for part in lists.values() for p in part for v in p[:2]]
    if all(0 <= v <= 1 for v in within):
        scale = size
    else:
        canvas = doc.get("canvas_width"), doc.get("canvas_height")
        known = all(_is_number(side) and side > 0 for side in canvas)
        scale = tuple(s / c for s, c in zip(size, canvas)) if known else (1.0, 1.0)
    parts = {
        field: tuple((x * scale[0], y * scale[1], c) if c > 0 else MISSING for x, y, c in part)
        for field, part in lists.items()
    }
    return Person(**parts | {"body": in_order(parts["body"])})


def _numbers(held: dict, key: str, counts: Sequence[int]) -> Points:
    values = held.get(key)
    if not values:  # null or [] where the part was not found
        return ()
    numbers = isinstance(values, list) and all(
        _is_number(v) and abs(v) <= _FARTHEST for v in values
    )
    if not numbers or len(values) not in [3 * n for n in counts]:
        got = f"{len(values)} values" if isinstance(values, list) else repr(values)[:40]
        raise InkstoneError(
            f"{key} of the keypoints has {got}: expected x, y and score of "
            f"{' or '.join(map(str, counts))} points, all of them numbers up to "
            f"{_FARTHEST}. {_REMEDY}"
        )
    return tuple(zip(values[::3], values[1::3], values[2::3]))


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def in_order(body: Points) -> Points:
    """17, 18 or 25 points in their own order, or none -> 18 in ours."""
    if not body:
        return (MISSING,) * BODY
    return tuple(_neck(body) if i < 0 else body[i] for i in _ORDERS[len(body)])


def _neck(coco: Points) -> Point:
    left, right = coco[5], coco[6]
    score = min(left[2], right[2])
    return ((left[0] + right[0]) / 2, (left[1] + right[1]) / 2, score) if score > _SURE else MISSING


def write_people(pictures: Sequence[Sequence[Person]], size: tuple[int, int]) -> list[dict]:
    """The people of each picture as POSE_KEYPOINT: pixels, and null for a part without points."""
    return [
        {
            "people": [
                {key: _flat(getattr(p, field)) for field, (key, _) in _PARTS.items()}
                for p in people
            ],
            "canvas_width": size[0],
            "canvas_height": size[1],
        }
        for people in pictures
    ]


def _flat(points: Points) -> list[float] | None:
    return [float(v) for point in points for v in point] or None
