"""Poses as OpenPose JSON, in the form that OpenPose, its nodes and DWPose read and write.

One document per picture: people with `pose_keypoints_2d` (x, y, score for 18 points; 25 or 17 are
reordered), hands, face, and the size of the canvas. A score of 0 means missing. Some writers store
pixels, some fractions of the side: if all values are within 0..1, they are fractions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeGuard

from ...errors import InkstoneError
from ...files.json_text import parse_json

Point = tuple[float, float, float]
"""x and y in pixels, and a score; a score of 0 means missing."""
Points = tuple[Point, ...]

BODY, FACE, HAND = 18, 70, 21
MISSING: Point = (0.0, 0.0, 0.0)
_SURE = 0.3  # of both shoulders, for a neck between them
# points of the file in our order; -1: halfway between the shoulders
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
_LARGEST = 1e300
_FARTHEST = 65536  # pixels from the corner: a point beyond means a damaged file
_REMEDY = "Export it again as OpenPose JSON (POSE_KEYPOINT)."


@dataclass(frozen=True)
class Person:
    """The points of one person; a part without points was not detected."""

    body: Points
    face: Points = ()
    left_hand: Points = ()
    right_hand: Points = ()


def read_people(source: str, size: tuple[int, int]) -> list[list[Person]]:
    """JSON -> the people of each picture, in pixels of a picture of `size` (width, height)."""
    return [[_person(p, doc, size) for p in doc["people"]] for doc in documents(source)]


def canvas_of(source: str) -> tuple[int, int]:
    """The canvas size of the first picture in the JSON, (width, height)."""
    first = documents(source)[0]
    width, height = first.get("canvas_width"), first.get("canvas_height")
    if not (_is_number(width) and _is_number(height)) or not (
        1 <= width <= 16384 and 1 <= height <= 16384
    ):
        raise InkstoneError(
            f"The canvas of the pose JSON is {width!r} x {height!r}: expected canvas_width and "
            "canvas_height in pixels. Pass a picture of the size you need."
        )
    return int(width), int(height)


Document = Mapping[str, Any]
"""Parsed JSON of one picture: only its `people` are checked."""


def documents(source: str) -> list[Document]:
    """The documents of the JSON, one per picture, with their structure checked."""
    if source.strip()[:1] not in ("{", "["):
        raise InkstoneError(
            f"The keypoints {source.strip()[:80]!r} are not JSON: expected the text itself, which "
            "starts with { or [. A path is not opened: paste what is in the file."
        )
    try:
        parsed = parse_json(source)
    except ValueError as error:
        raise InkstoneError(f"The keypoints are not JSON: {error}. {_REMEDY}") from None
    docs = parsed if isinstance(parsed, list) else [parsed]
    for doc in docs or [None]:
        people = doc.get("people") if isinstance(doc, dict) else None
        if not isinstance(people, list) or not all(isinstance(p, dict) for p in people):
            raise InkstoneError(
                'The keypoints have no list `people`: expected {"people": [{'
                f'"pose_keypoints_2d": [...]}}], ...}}, or a list of those. {_REMEDY}'
            )
    return docs


def _person(person: Document, doc: Document, size: tuple[int, int]) -> Person:
    lists = {field: _numbers(person, key, counts) for field, (key, counts) in _PARTS.items()}
    coordinates = [v for part in lists.values() for p in part for v in p[:2]]
    width, height = doc.get("canvas_width"), doc.get("canvas_height")
    scale = 1.0, 1.0
    if all(0 <= v <= 1 for v in coordinates):
        scale = float(size[0]), float(size[1])
    elif _is_number(width) and _is_number(height) and width > 0 and height > 0:
        scale = size[0] / width, size[1] / height
    parts = {
        field: tuple((x * scale[0], y * scale[1], c) if c > 0 else MISSING for x, y, c in part)
        for field, part in lists.items()
    }
    return Person(**parts | {"body": in_order(parts["body"])})


def _numbers(person: Document, key: str, counts: Sequence[int]) -> Points:
    values = person.get(key)
    if not values:  # null or [] if the part was not detected
        return ()
    numbers = isinstance(values, list) and all(
        _is_number(v) and abs(v) <= _FARTHEST for v in values
    )
    if not numbers or len(values) not in [3 * n for n in counts]:
        got = f"{len(values)} values" if isinstance(values, list) else repr(values)[:40]
        raise InkstoneError(
            f"{key} of the keypoints has {got}: expected x, y and score for "
            f"{' or '.join(map(str, counts))} points, all numbers up to "
            f"{_FARTHEST}. {_REMEDY}"
        )
    return tuple(zip(values[::3], values[1::3], values[2::3]))


def _is_number(value: object) -> TypeGuard[float]:
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        return False
    return abs(value) <= _LARGEST  # not isfinite, which takes no integer beyond a float's range


def in_order(body: Points) -> Points:
    """17, 18 or 25 points in their own order, or none -> 18 points in OpenPose's order."""
    if not body:
        return (MISSING,) * BODY
    return tuple(_neck(body) if i < 0 else body[i] for i in _ORDERS[len(body)])


def _neck(coco: Points) -> Point:
    left, right = coco[5], coco[6]
    score = min(left[2], right[2])
    return ((left[0] + right[0]) / 2, (left[1] + right[1]) / 2, score) if score > _SURE else MISSING


def write_people(
    pictures: Sequence[Sequence[Person]], size: tuple[int, int]
) -> list[dict[str, object]]:
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
