"""Judges the things of a picture: are they there, as often as asked, in their colours and places.

The rules are those of GenEval (arXiv 2310.11513) where it has them: at least `least` and at most
`most` of a class, one thing beside another by the offset of their centres beyond a tenth of both
sizes. Two things of one name are two different ones in the picture.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from .colours import colour_shares, has_colour
from .task import WantedThing

BACKGROUND = "background"  # a thing that nobody has to find: the rim of the picture
_RIM = 0.02  # of a side
_SLACK = 0.1  # of both sizes: what an offset must have beyond to count
_MIDDLE = 0.05  # of a side, from the middle, that is neither left nor right
_CENTRED = 0.15  # of a side, from the middle, that is the center

THING_MEASURES = ("presence", "count", "colour", "place")


@dataclass(frozen=True)
class Sighting:
    """A thing that was found: its edges in pixels, the shares of its colours."""

    left: float
    top: float
    right: float
    bottom: float
    colours: Mapping[str, float] = field(default_factory=dict)

    @property
    def middle(self) -> tuple[float, float]:
        """x and y."""
        return (self.left + self.right) / 2, (self.top + self.bottom) / 2

    @property
    def size(self) -> tuple[float, float]:
        """Width and height."""
        return self.right - self.left, self.bottom - self.top


def background(picture: np.ndarray) -> Sighting:
    """The background of a picture uint8 [H,W,3], with the colours of its rim."""
    height, width = picture.shape[:2]
    rim = max(1, round(_RIM * min(height, width)))
    sides = (picture[:rim], picture[-rim:], picture[:, :rim], picture[:, -rim:])
    pixels = np.concatenate([side.reshape(-1, 3) for side in sides])
    return Sighting(0, 0, width, height, colour_shares(pixels))


def judge_things(
    things: Sequence[WantedThing], seen: Mapping[str, Sequence[Sighting]], size: tuple[int, int]
) -> list[dict[str, bool]]:
    """For each thing the measures of THING_MEASURES that were asked of it. seen: by name, without
    an order; size: of the picture, width and height.
    """
    chosen: list[list[Sighting]] = []
    used: dict[str, list[Sighting]] = {}
    for thing in things:
        taken = used.setdefault(thing.what, [])
        free = [s for s in seen.get(thing.what, ()) if s not in taken]
        others = chosen[thing.beside[1]] if thing.beside else []
        order = sorted(free, key=lambda s: _fits(thing, s, others, size), reverse=True)
        chosen.append(order[: thing.least])
        taken += chosen[-1]
    total = {name: len(seen.get(name, ())) for name in used}
    return [
        _verdict(thing, own, total[thing.what], chosen, size) for thing, own in zip(things, chosen)
    ]


def _fits(
    thing: WantedThing, one: Sighting, others: Sequence[Sighting], size: tuple[int, int]
) -> tuple[bool, bool, bool]:
    return (
        not thing.colour or has_colour(one.colours, thing.colour),
        not thing.place or is_at(one, thing.place, size),
        not thing.beside or any(is_beside(one, thing.beside[0], other) for other in others),
    )


def _verdict(
    thing: WantedThing,
    own: Sequence[Sighting],
    total: int,
    chosen: Sequence[Sequence[Sighting]],
    size: tuple[int, int],
) -> dict[str, bool]:
    """What is right about a thing. A colour or place of what is not there is wrong."""
    there = len(own) >= thing.least
    verdict = {}
    if thing.least:
        verdict["presence"] = there
    if thing.most is not None:
        verdict["count"] = thing.least <= total <= thing.most
    if thing.colour:
        verdict["colour"] = there and all(has_colour(s.colours, thing.colour) for s in own)
    if thing.place or thing.beside:
        placed = not thing.place or all(is_at(s, thing.place, size) for s in own)
        if thing.beside:
            relation, number = thing.beside
            others = chosen[number]
            placed &= any(is_beside(s, relation, other) for s in own for other in others)
        verdict["place"] = there and placed
    return verdict


def is_at(one: Sighting, place: str, size: tuple[int, int]) -> bool:
    """True where a thing's middle is in that part of the picture."""
    x, y = (value / side - 0.5 for value, side in zip(one.middle, size))
    if place == "center":
        return abs(x) <= _CENTRED and abs(y) <= _CENTRED
    return {"left": -x, "right": x, "top": -y, "bottom": y}[place] > _MIDDLE


def is_beside(one: Sighting, relation: str, other: Sighting) -> bool:
    """True where one thing is left of, right of, above or below another."""
    (x, y), (a, b) = one.middle, other.middle
    across = abs(x - a) - _SLACK * (one.size[0] + other.size[0])
    down = abs(y - b) - _SLACK * (one.size[1] + other.size[1])
    return {
        "left of": across > 0 and x < a,
        "right of": across > 0 and x > a,
        "above": down > 0 and y < b,
        "below": down > 0 and y > b,
    }[relation]
