"""Pose maps: OpenPose skeletons of 18 points, from detected people or from keypoints.

Colours, widths and order are those of the OpenPose preprocessors. Keypoints come as JSON, or people
are detected: by the bundled networks (people.py), or a ViTPose of the user (vitpose.py). Skeletons
are drawn at the size of the picture, never enlarged, so sticks keep their width.
"""

from __future__ import annotations

import colorsys
import logging
import math
from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from ...errors import InkstoneError
from . import people as bundled
from . import vitpose
from .keypoints import Person, Point, read_people

log = logging.getLogger(__name__)

COLOURS = (
    (255, 0, 0),
    (255, 85, 0),
    (255, 170, 0),
    (255, 255, 0),
    (170, 255, 0),
    (85, 255, 0),
    (0, 255, 0),
    (0, 255, 85),
    (0, 255, 170),
    (0, 255, 255),
    (0, 170, 255),
    (0, 85, 255),
    (0, 0, 255),
    (85, 0, 255),
    (170, 0, 255),
    (255, 0, 255),
    (255, 0, 170),
    (255, 0, 85),
)
LIMBS = (
    (1, 2),
    (1, 5),
    (2, 3),
    (3, 4),
    (5, 6),
    (6, 7),
    (1, 8),
    (8, 9),
    (9, 10),
    (1, 11),
    (11, 12),
    (12, 13),
    (1, 0),
    (0, 14),
    (14, 16),
    (0, 15),
    (15, 17),
)
DIM = 0.6  # brightness of limbs
STICK, JOINT, FACE_DOT, FINGER = 4, 4, 3, 2  # half width, radius, radius, width; pixels
FINGERS = tuple(
    (0 if i == 0 else first + i - 1, first + i) for first in (1, 5, 9, 13, 17) for i in range(4)
)
_NEAR = 0.01  # hands and faces have points at 0, 0 that do not exist


def pose(
    picture: Tensor,
    keypoints: str = "",
    model: str = "",
    detect_body: bool = True,
    detect_hand: bool = True,
    detect_face: bool = True,
    scale_stick_for_xinsr_cn: bool = False,
) -> Tensor:
    """[B,H,W,3] -> [B,H,W,3]; with keypoints only the picture's size is used."""
    count, height, width = picture.shape[:3]
    people = people_of(picture, keypoints, model)
    parts = detect_body, detect_hand, detect_face
    stick = xinsir_stick(width, height) if scale_stick_for_xinsr_cn else STICK
    maps = [draw_people(each, (width, height), parts, stick) for each in people]
    return torch.stack(maps).to(picture.device).expand(count, -1, -1, -1)


def people_of(picture: Tensor, keypoints: str = "", model: str = "") -> list[list[Person]]:
    """The people of each picture, in pixels: from keypoints, else detected. One list only if one
    document of keypoints serves all pictures.
    """
    count, height, width = picture.shape[:3]
    if keypoints.strip():
        people = read_people(keypoints, (width, height))
        if len(people) not in (1, count):
            raise InkstoneError(
                f"The keypoints are for {len(people)} pictures, {count} are connected: expected "
                "one document for all pictures or one for each. Connect the same number of both."
            )
        return people
    people = vitpose.find_people(picture, model) if model else bundled.find_people(picture)
    _log(people)
    return people


def _log(people: Sequence[Sequence[Person]]) -> None:
    log.info("pose: %s people in the picture", ", ".join(str(len(each)) for each in people))
    if not all(people):
        log.warning(
            "pose: no person was found in %d of %d pictures, their maps are black. People who "
            "fill a small part of a picture are missed: crop it, or give keypoints as JSON.",
            sum(not each for each in people),
            len(people),
        )


def xinsir_stick(width: int, height: int) -> int:
    """Half width of sticks for control models of xinsir: it grows with the picture."""
    longest = max(width, height)
    return STICK * (1 if longest < 500 else min(2 + longest // 1000, 7))


def draw_people(
    people: Sequence[Person],
    size: tuple[int, int],
    parts: tuple[bool, bool, bool] = (True, True, True),
    stick: int = STICK,
) -> Tensor:
    """-> [height,width,3] float32; parts: whether to draw bodies, hands, faces."""
    canvas = Image.new("RGB", size)
    pen = ImageDraw.Draw(canvas)
    for person in people:
        if parts[0]:
            _body(pen, person.body, stick)
        for hand in (person.left_hand, person.right_hand) if parts[1] else ():
            _hand(pen, hand)
        for point in person.face if parts[2] else ():
            if _is_there(point):
                _dot(pen, point, FACE_DOT, (255, 255, 255))
    return torch.from_numpy(np.asarray(canvas, np.float32) / 255)


def _body(pen: ImageDraw.ImageDraw, body: Sequence[Point], stick: int) -> None:
    for (a, b), colour in zip(LIMBS, COLOURS):
        if body[a][2] > 0 and body[b][2] > 0:
            dim = tuple(int(c * DIM) for c in colour)
            corners = _ellipse(body[a], body[b], stick)
            pen.polygon(corners, fill=dim)
            pen.line([*corners, corners[0]], fill=dim)  # Pillow's polygon does not fill its outline
    for point, colour in zip(body, COLOURS):
        if point[2] > 0:
            _dot(pen, point, JOINT, colour)


def _ellipse(a: Point, b: Point, stick: int) -> list[tuple[int, int]]:
    """Corners of an ellipse from joint to joint, one degree apart."""
    x, y = int((a[0] + b[0]) / 2), int((a[1] + b[1]) / 2)
    dx, dy = a[0] - b[0], a[1] - b[1]
    length = int(math.hypot(dx, dy) / 2)
    turn = math.radians(int(math.degrees(math.atan2(dy, dx))))
    corners: list[tuple[int, int]] = []
    for degree in range(360):
        along = length * math.cos(math.radians(degree))
        across = stick * math.sin(math.radians(degree))
        corner = (
            round(x + along * math.cos(turn) - across * math.sin(turn)),
            round(y + along * math.sin(turn) + across * math.cos(turn)),
        )
        corners += [] if corners[-1:] == [corner] else [corner]
    return corners


def _hand(pen: ImageDraw.ImageDraw, hand: Sequence[Point]) -> None:
    for number, (a, b) in enumerate(FINGERS if hand else ()):
        if _is_there(hand[a]) and _is_there(hand[b]):
            rgb = colorsys.hsv_to_rgb(number / len(FINGERS), 1.0, 1.0)
            ends = [(int(hand[i][0]), int(hand[i][1])) for i in (a, b)]
            pen.line(ends, fill=tuple(round(255 * c) for c in rgb), width=FINGER)
    for point in hand:
        if _is_there(point):
            _dot(pen, point, JOINT, (0, 0, 255))


def _is_there(point: Point) -> bool:
    return point[0] > _NEAR and point[1] > _NEAR and point[2] > 0


def _dot(pen: ImageDraw.ImageDraw, point: Point, radius: int, colour: tuple[int, int, int]) -> None:
    x, y = int(point[0]), int(point[1])
    for down in range(-radius, radius + 1):  # Pillow's disc differs from OpenCV's
        half = math.isqrt(radius * radius - down * down)
        pen.line((x - half, y + down, x + half, y + down), fill=colour)
