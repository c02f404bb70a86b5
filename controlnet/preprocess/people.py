"""Detects people with the bundled networks: first where they are, then 18 keypoints of each.

The detector sees the whole picture at 224 pixels, so it detects people who fill a good part of it
and misses distant ones and many in a crowd. Its score decides (the second network alone sees people
in cats). Every person is cropped upright, twice: the second crop follows the points of the first.
Unlike MediaPipe, both networks also see their input mirrored and the results are averaged, so that
left and right do not matter. No hands, no faces beyond eyes and ears.
"""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from .filters import planes
from .keypoints import MISSING, Person, Point
from .pose_net import DETECT_SIDE, MARKS_SIDE, PoseNet, load, run

log = logging.getLogger(__name__)

_SURE, _OVERLAP = 0.5, 0.3  # detector: score of a person, overlap of two boxes of one person
_MAYBE = 0.25  # a score that is kept in case the mirrored one is higher
_PRESENT, _VISIBLE = 0.5, 0.5  # second network: scores of the person, and of each point
_LAYERS = ((28, 2), (14, 2), (7, 6))  # cells a side, and boxes per cell: 2254 in all
_AROUND = 1.25  # a crop's side, relative to the circle around a body
_LOOKS = 2
_SQUARE = (MARKS_SIDE, MARKS_SIDE)
_POINTS, _VALUES = 39, 5  # x, y, z, visibility, presence
_CENTRE, _RIM = 33, 34  # two points for the next crop
# its 33 points -> OpenPose's 18; -1: halfway between the shoulders
_ORDER = (0, -1, 12, 14, 16, 11, 13, 15, 24, 26, 28, 23, 25, 27, 5, 2, 8, 7)
_SHOULDERS = (11, 12)
_MIRRORED = (0, 4, 5, 6, 1, 2, 3, 8, 7, *(i + 1 if i % 2 else i - 1 for i in range(9, 33)), 33, 34)


@dataclass(frozen=True)
class Place:
    """A square to crop, in pixels of the picture; `up` is its rotation in radians."""

    x: float
    y: float
    side: float
    up: float


def find_people(picture: Tensor) -> list[list[Person]]:
    """[B,H,W,3] 0..1 -> the people of each picture, highest score first."""
    detect, marks = (load(name, picture.device) for name in ("detect", "marks"))
    pictures = []
    for x in planes(picture.float()).split(1):
        people = [_person(marks, x, place) for place in places(detect, x)]
        pictures.append([person for person in people if person is not None])
    return pictures


# --- detection


def places(net: PoseNet, x: Tensor) -> list[Place]:
    """[1,3,H,W] -> the square around each person."""
    return [_between(*box[4:8].tolist()) for box in merge(*detections(net, x))]


@torch.inference_mode()
def detections(net: PoseNet, x: Tensor) -> tuple[Tensor, Tensor]:
    """[1,3,H,W] -> boxes [n,12] in pixels: left, top, right, bottom, then four points, the first
    between the hips, the second on a circle around the body; scores [n,2] for as is and mirrored,
    one of them 0.
    """
    height, width = x.shape[2:]
    longest = max(height, width)
    small = _resized(x, *(max(1, round(s * DETECT_SIDE / longest)) for s in (height, width)))
    more = DETECT_SIDE - torch.tensor(small.shape[2:])
    top, left = (more // 2).tolist()
    bottom, right = (more - more // 2).tolist()
    square = F.pad(small, (left, right, top, bottom))
    raw, logits = run(net, torch.cat([square, square.flip(3)]) * 2 - 1)
    at = raw.view(2, -1, 6, 2)  # centre, size, four points
    at[:, :, [0, 2, 3, 4, 5]] += _anchors(x.device)[:, None] * DETECT_SIDE
    at[1, :, [0, 2, 3, 4, 5], 0] = DETECT_SIDE - at[1, :, [0, 2, 3, 4, 5], 0]
    half = at[:, :, 1] / 2
    at[:, :, 0], at[:, :, 1] = at[:, :, 0] - half, at[:, :, 0] + half
    at = (at - at.new_tensor([left, top])) * (longest / DETECT_SIDE)
    scores = torch.diag_embed(logits[..., 0].sigmoid().T).transpose(0, 1)  # [2,2254,2]
    maybe = scores.amax(2) > _MAYBE
    return at.flatten(2)[maybe], scores[maybe]


def _anchors(device: torch.device) -> Tensor:
    """[2254,2] x and y of the cells' centres, as fractions of the side."""
    layers = []
    for cells, each in _LAYERS:
        line = (torch.arange(cells, device=device) + 0.5) / cells
        y, x = torch.meshgrid(line, line, indexing="ij")
        layers.append(torch.stack([x, y], -1).view(-1, 1, 2).expand(-1, each, -1).reshape(-1, 2))
    return torch.cat(layers)


def merge(boxes: Tensor, scores: Tensor) -> list[Tensor]:
    """One box [12] per group of overlapping boxes whose mean score of both ways is high enough: the
    mean of the group, weighted by score; highest score first.
    """
    groups = []
    order = scores.amax(1).argsort(descending=True, stable=True)
    boxes, scores = boxes[order], scores[order]
    while len(scores):
        same = overlaps(boxes[0], boxes) > _OVERLAP
        same[0] = True
        if float(scores[same].amax(0).mean()) > _SURE:
            weight = scores[same].sum(1, keepdim=True)
            groups.append((boxes[same] * weight).sum(0) / weight.sum())
        boxes, scores = boxes[~same], scores[~same]
    return groups


def overlaps(box: Tensor, boxes: Tensor) -> Tensor:
    """Intersection over union: [n]."""
    low, high = torch.maximum(box[:2], boxes[:, :2]), torch.minimum(box[2:4], boxes[:, 2:4])
    shared = (high - low).clamp(min=0).prod(1)
    area = (box[2:4] - box[:2]).prod() + (boxes[:, 2:4] - boxes[:, :2]).prod(1)
    return shared / (area - shared).clamp(min=1e-6)


def _between(x: float, y: float, rim_x: float, rim_y: float) -> Place:
    """The square around the circle about x, y through a point above the head."""
    dx, dy = rim_x - x, rim_y - y
    side = max(2 * math.hypot(dx, dy) * _AROUND, 1.0)
    return Place(x, y, side, math.atan2(dx, -dy))


# --- keypoints


@torch.inference_mode()
def _person(net: PoseNet, x: Tensor, place: Place) -> Person | None:
    for _ in range(_LOOKS):
        at, visible, presence = _both_ways(net, crop(x, place))
        if not presence > _PRESENT:
            return None
        at = in_picture(at, place)
        place = _between(*(at[[_CENTRE, _RIM]] + 0.5).flatten().tolist())
    height, width = x.shape[2:]
    points = [
        (px, py, s) if s > _VISIBLE and 0 <= px <= width - 1 and 0 <= py <= height - 1 else MISSING
        for (px, py), s in zip(at.tolist(), visible.tolist())
    ]
    return Person(tuple(_neck(points) if i < 0 else points[i] for i in _ORDER))


def _both_ways(net: PoseNet, x: Tensor) -> tuple[Tensor, Tensor, float]:
    """[1,3,256,256] -> 35 points [35,2], their visibility [35], the score of the person: the means
    of the picture and its mirror image.
    """
    points, presence = run(net, torch.cat([x, x.flip(3)]))  # [2,1,195], [2,1,1]
    at, mirrored = points.view(2, _POINTS, _VALUES)[:, : len(_MIRRORED)]
    mirrored = mirrored[list(_MIRRORED)]
    mirrored[:, 0] = MARKS_SIDE - mirrored[:, 0]
    visible = (at[:, 3].sigmoid() + mirrored[:, 3].sigmoid()) / 2
    return (at[:, :2] + mirrored[:, :2]) / 2, visible, float(presence.mean())


def _neck(points: list[Point]) -> Point:
    left, right = (points[i] for i in _SHOULDERS)
    if not (left[2] and right[2]):
        return MISSING
    return (left[0] + right[0]) / 2, (left[1] + right[1]) / 2, min(left[2], right[2])


def crop(x: Tensor, place: Place, size: tuple[int, int] = _SQUARE) -> Tensor:
    """[1,3,H,W] -> [1,3,*size], with the place's side as its height; repeats the border outside the
    picture.
    """
    height, width = x.shape[2:]
    shrink = min(1.0, size[0] / place.side)  # first, so that no pixel is skipped
    x = _resized(x, max(1, round(height * shrink)), max(1, round(width * shrink)))
    down, across = (torch.arange(n, device=x.device, dtype=torch.float32) for n in size)
    v, u = torch.meshgrid(down, across, indexing="ij")
    at = in_picture(torch.stack([u, v], -1) + 0.5, place, size)  # [*size,2] pixels of the picture
    grid = (at + 0.5) / at.new_tensor([width, height]) * 2 - 1
    return F.grid_sample(x, grid[None], padding_mode="border", align_corners=False)


def in_picture(at: Tensor, place: Place, size: tuple[int, int] = _SQUARE) -> Tensor:
    """[...,2] positions in a crop, from its corner -> in the picture, from its first pixel."""
    middle = at.new_tensor([size[1] / 2, size[0] / 2])
    u, v = ((at - middle) * (place.side / size[0])).unbind(-1)
    cos, sin = math.cos(place.up), math.sin(place.up)
    x, y = u * cos - v * sin + place.x, u * sin + v * cos + place.y
    return torch.stack([x, y], -1) - 0.5


def _resized(x: Tensor, height: int, width: int) -> Tensor:
    if x.shape[2:] == (height, width):
        return x
    return F.interpolate(x, (height, width), mode="bilinear", antialias=True)
