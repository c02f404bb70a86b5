"""The course of each wire on ComfyUI's page, and bends where it would run under a foreign node.

The page draws a wire as one Bezier curve from socket to socket, or through points that it calls
reroutes; those are drawing only and change no graph. The curves here are the page's own formulas,
in both of its looks: in "Nodes 2.0" sockets are at the very edge of a node.
A bend lies in the space between columns, and wires run through free lanes above, between and below
nodes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

Point = tuple[int, int]
Box = tuple[int, int, int, int]  # left, top, right, bottom; with the title

SAMPLES = 24  # points of a curve
NEAR, PAD = 5, 9  # how near a curve, and a lane, may come to a foreign node
LANE = 8  # between two lanes, at the least
TURN = 8  # a wire that turns off swings on a little: its bend is nearer to where it comes from
SAME = 30  # two spaces that are not further apart are one
DROP = 40  # from a socket to the bend below or above it
BEND, SHUT = 60, 500  # what a bend, and a lane through a frame's title, costs as a length
MOST = 200  # wires of a graph that is drawn with bends; larger ones are nobody's first graph
INSIDE, HIGHER = 9, 2  # where a socket of "Nodes 2.0" is: nearer to the edge, and up
SPLINE, LEAST, FURTHEST = 0.25, 30.0, 80.0  # of the page's curves


@dataclass(frozen=True)
class Wire:
    """A wire from an output to an input: its ends, and what tells outputs apart."""

    number: int
    origin: tuple[str, int]  # node and slot
    target: str
    start: Point
    end: Point


@dataclass
class Course:
    """The free space of a graph: boxes by node, x of the spaces beside each node's column."""

    boxes: dict[str, Box]
    beside: dict[str, tuple[int, int]]  # left and right of the column
    titles: list[tuple[int, int]] = field(default_factory=list)  # top, bottom of frames' titles
    lanes: list[tuple[Point, Point, tuple[str, int]]] = field(default_factory=list)

    def hit(self, wire: Wire, points: Sequence[Point], pad: int = NEAR) -> float:
        """The length of the wire under foreign nodes, in the look where it is longer."""
        others = [b for key, b in self.boxes.items() if key not in (wire.origin[0], wire.target)]
        (x, y), (to, level) = wire.start, wire.end
        newer = (x + INSIDE, y - HIGHER), (to - INSIDE, level - HIGHER)
        return max(
            length_under(list(curve(wire.start, points, wire.end)), others, pad),
            length_under(list(curve(newer[0], points, newer[1])), others, 0),
        )

    def bends(self, wire: Wire) -> tuple[Point, ...]:
        """The fewest bends with which a wire meets no foreign node, on the shortest course."""
        backward = wire.end[0] < wire.start[0]
        if not backward and self.hit(wire, ()) == 0:
            return ()
        options = sorted(self._options(wire), key=lambda option: option[0])
        best: tuple[Point, ...] = ()
        least = math.inf if backward else self.hit(wire, (), 0)
        for _, points in options:
            under = self.hit(wire, points)
            if under < least:
                best, least = points, under
            if least == 0:
                break
        self._keep(wire, best)
        return best

    def _options(self, wire: Wire) -> Iterator[tuple[float, tuple[Point, ...]]]:
        """(cost, bends) of courses whose lane is free."""
        for points in self._courses(wire):
            stops = (wire.start, *points, wire.end)
            begin, end = _lane(stops)
            if self._free(wire, begin, end):
                cost = sum(math.dist(a, b) for a, b in zip(stops, stops[1:]))
                shut = sum(top < begin[1] == end[1] < bottom for top, bottom in self.titles)
                yield cost + BEND * len(points) + SHUT * shut, points

    def _courses(self, wire: Wire) -> Iterator[tuple[Point, ...]]:
        """Level from or to a socket with one bend; a lane between two, with a bend more where the
        wire falls far; straight down where both ends are beside one space.
        """
        right, left = self.beside[wire.origin[0]][1], self.beside[wire.target][0]
        (_, top), (_, bottom) = wire.start, wire.end
        if wire.end[0] >= wire.start[0]:  # else back to the left: never straight across
            yield ((right, bottom),)
            yield ((left - TURN, top),)
        for x in range(min(left, right), max(left, right) + 1, TURN // 2):
            if abs(left - right) <= SAME:
                yield ((x, _towards(top, bottom)), (x, _towards(bottom, top)))
        left += TURN if left < right else -TURN
        edges = [edge for box in self.boxes.values() for edge in (box[1], box[3])]
        for y in range(min(edges) - 40, max(edges) + 50, 7):
            begin, end = (right, y), (left, y)
            near, far = (right, _towards(top, y)), (left, _towards(bottom, y))
            yield (begin, end)
            yield (near, begin, end)
            yield (begin, end, far)
            yield (near, begin, end, far)

    def _free(self, wire: Wire, begin: Point, end: Point) -> bool:
        """No foreign node on a lane, and no other output's wire in it."""
        low, high = sorted((begin[0], end[0]))
        top, bottom = sorted((begin[1], end[1]))
        ends = {wire.origin[0]: wire.start, wire.target: wire.end}
        for key, box in self.boxes.items():
            across = box[0] - PAD < high and low < box[2] + PAD
            down = box[1] - PAD < bottom and top < box[3] + PAD
            if across and down and ends.get(key) not in (begin, end):
                return False
        return not any(
            origin != wire.origin
            and first[0] - LANE < high
            and low < last[0] + LANE
            and first[1] - LANE < bottom
            and top < last[1] + LANE
            and (first[1] == last[1]) == (begin[1] == end[1])
            for first, last, origin in self.lanes
        )

    def _keep(self, wire: Wire, points: tuple[Point, ...]) -> None:
        if points:
            begin, end = _lane((wire.start, *points, wire.end))
            first = min(begin[0], end[0]), min(begin[1], end[1])
            last = max(begin[0], end[0]), max(begin[1], end[1])
            self.lanes.append((first, last, wire.origin))


def _lane(stops: Sequence[Point]) -> tuple[Point, Point]:
    """The level part of a course, else the upright one."""
    parts = list(zip(stops, stops[1:]))
    level = [part for part in parts if part[0][1] == part[1][1]]
    return max(level or parts[1:-1] or parts, key=lambda part: math.dist(*part))


def _towards(y: int, level: int) -> int:
    """A point shortly behind the height of a socket: from there a wire falls straight."""
    return y + int(math.copysign(min(DROP, abs(level - y) // 2), level - y))


def length_under(points: Sequence[tuple[float, float]], boxes: Sequence[Box], pad: int) -> float:
    """The length of a line of points that lies in boxes, which are wider by `pad`."""
    under = 0.0
    for (x, y), (to, level) in zip(points, points[1:]):
        across, down = (x + to) / 2, (y + level) / 2
        if any(
            left - pad < across < right + pad and top - pad < down < bottom + pad
            for left, top, right, bottom in boxes
        ):
            under += math.dist((x, y), (to, level))
    return under


def curve(start: Point, bends: Sequence[Point], end: Point) -> Iterator[tuple[float, float]]:
    """Points of a wire as the page draws it."""
    stops = [start, *bends, end]
    angles = [0.0, *(_angle(*stops[n - 1 : n + 2]) for n in range(1, len(stops) - 1)), 0.0]
    yield start
    for n, (a, b) in enumerate(zip(stops, stops[1:])):
        reach = math.dist(a, b) * SPLINE
        out = max(LEAST, reach) if n == 0 else min(FURTHEST, reach)
        into = max(LEAST, reach) if n == len(bends) else min(FURTHEST, reach)
        c = (a[0] + out * math.cos(angles[n]), a[1] + out * math.sin(angles[n]))
        d = (b[0] - into * math.cos(angles[n + 1]), b[1] - into * math.sin(angles[n + 1]))
        for k in range(1, SAMPLES + 1):
            yield _bezier((a, c, d, b), k / SAMPLES)


def _bezier(p: tuple[tuple[float, float], ...], t: float) -> tuple[float, float]:
    u = 1 - t
    weights = (u**3, 3 * u * u * t, 3 * u * t * t, t**3)
    return (
        sum(w * point[0] for w, point in zip(weights, p)),
        sum(w * point[1] for w, point in zip(weights, p)),
    )


def _angle(before: Point, at: Point, after: Point) -> float:
    """The direction of a wire in a bend: halfway between where it comes from and goes to."""
    coming = math.atan2(at[1] - before[1], at[0] - before[0])
    going = math.atan2(after[1] - at[1], after[0] - at[0])
    half = (coming - going) * 0.5
    if abs(half) > math.pi / 2:
        half += math.pi
    return coming - half
