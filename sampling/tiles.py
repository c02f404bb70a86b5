"""Tiles: a canvas of any size as overlapping parts of one size, and the share that each has in
every place.

Shares are smooth, fall to nothing at a tile's edge and sum to one everywhere, so that what is
computed tile by tile is merged without a seam and without a normaliser of the canvas's size.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from ..errors import InkstoneError
from .geometry import Box

OVERLAP = 4  # tiles overlap by a quarter of their side at least
LEAST_OVERLAP = 64  # pixels, where that is not more than half of a tile


@dataclass(frozen=True)
class Tile:
    """A part of the canvas and its place among the tiles."""

    box: Box  # in pixels
    row: int
    column: int


@dataclass(frozen=True)
class Tiles:
    """The tiles of a canvas; all numbers in pixels, multiples of the family's step."""

    canvas: tuple[int, int]  # (width, height)
    size: tuple[int, int]  # of every tile
    lefts: tuple[int, ...]
    tops: tuple[int, ...]
    step: int = 1  # places are multiples of it

    def __iter__(self) -> Iterator[Tile]:
        """Row by row, from the left."""
        width, height = self.size
        for row, top in enumerate(self.tops):
            for column, left in enumerate(self.lefts):
                yield Tile(Box(left, top, left + width, top + height), row, column)

    def __len__(self) -> int:
        return len(self.lefts) * len(self.tops)

    def moved(self, turn: int) -> Tiles:
        """As many tiles, those between the outer ones moved: in turn 1, 3, ... forwards, in turn
        2, 4, ... backwards, as far as a quarter of a tile stays under the next; at most half of the
        distance between tiles. What is particular to a place in a tile, its middle or its border,
        then comes to other places of the canvas in each step.
        """
        if not turn:
            return self
        lefts, tops = (
            _moved(starts, side, self.step, turn % 2 > 0)
            for starts, side in zip((self.lefts, self.tops), self.size, strict=True)
        )
        return replace(self, lefts=lefts, tops=tops)

    def share(self, tile: Tile, unit: int = 1) -> Tensor:
        """[h,w] float32 above 0: the share of a tile in each place it covers, a place for every
        `unit` pixels. Over all tiles the shares of a place sum to one.
        """
        across, down = self._shares(unit)
        return down[tile.row][:, None] * across[tile.column]

    def _shares(self, unit: int) -> tuple[list[Tensor], list[Tensor]]:
        """The shares along each side."""
        if unit not in self._kept:
            (width, height), (w, h) = self.canvas, self.size
            self._kept[unit] = (
                shares([left // unit for left in self.lefts], w // unit, width // unit),
                shares([top // unit for top in self.tops], h // unit, height // unit),
            )
        return self._kept[unit]

    @cached_property
    def _kept(self) -> dict[int, tuple[list[Tensor], list[Tensor]]]:
        return {}


def shares(starts: Sequence[int], length: int, whole: int) -> list[Tensor]:
    """Along a line of `whole` places: for each part of `length` places, its share in them [length].
    Each part has a window, sin^2 over its length, divided by the sum of those that lie over it.
    """
    places = (torch.arange(length, dtype=torch.float64) + 0.5) / length
    window, total = (math.pi * places).sin() ** 2, torch.zeros(whole, dtype=torch.float64)
    for start in starts:
        total[start : start + length] += window
    return [(window / total[start : start + length]).float() for start in starts]


def merged(
    tiles: Tiles, part_of: Callable[[Tile], Tensor], unit: int = 1
) -> Iterator[tuple[Box, Tensor]]:
    """What tiles give [...,h,w], merged by their shares: (box, values) of each place as soon as no
    later tile reaches it, so `part_of` may read what a reader has written there. Boxes count places
    of `unit` pixels. What is kept is as wide as the canvas, and as high as tiles overlap.
    """
    lefts, tops = ([start // unit for start in starts] for starts in (tiles.lefts, tiles.tops))
    whole, rights = tiles.canvas[0] // unit, [*lefts[1:], tiles.canvas[0] // unit]
    bottoms = [*tops[1:], tiles.canvas[1] // unit]
    height = tiles.size[1] // unit
    overlaps = [height - (bottom - top) for top, bottom in zip(tops, bottoms, strict=True)]
    aside = above = torch.empty(0)
    for tile in tiles:
        part = part_of(tile) * tiles.share(tile, unit)
        box = Box(lefts[tile.column], tops[tile.row], rights[tile.column], bottoms[tile.row])
        if tile.column:
            part[..., : aside.shape[-1]] += aside
        elif not tile.row:
            above = part.new_empty(*part.shape[:-2], max(overlaps), whole)
        width, down = box.size
        done, aside = part.split([width, part.shape[-1] - width], dim=-1)
        kept = above[..., box.left : box.right]
        if tile.row:
            rows = overlaps[tile.row - 1]
            done[..., :rows, :] += kept[..., :rows, :]
        kept[..., : overlaps[tile.row], :] = done[..., down:, :]
        yield box, done[..., :down, :]


def tiles_of(canvas: tuple[int, int], side: int, step: int) -> Tiles:
    """Tiles of at most side x side pixels over a canvas, evenly spread. canvas, side: multiples of
    `step`, which their places are too.
    """
    if side < 2 * step or side % step:
        raise InkstoneError(
            f"The tile is {side} pixels: expected a multiple of {step} of at least {2 * step}. "
            "The size that the model draws is best."
        )
    width, height = (min(side, whole) for whole in canvas)
    lefts, tops = (_starts(whole, side, step) for whole in canvas)
    return Tiles(canvas, (width, height), lefts, tops, step)


def _moved(starts: tuple[int, ...], side: int, step: int, forwards: bool) -> tuple[int, ...]:
    """Where tiles start whose inner ones are moved."""
    if len(starts) < 3:
        return starts
    before, after = starts[1] - starts[0], starts[-1] - starts[-2]
    wider, narrower = (before, after) if forwards else (after, before)
    room = min(side - side // OVERLAP - wider, narrower - step, wider // 2)
    by = max(room // step * step, 0) * (1 if forwards else -1)
    return (starts[0], *(start + by for start in starts[1:-1]), starts[-1])


def _starts(whole: int, side: int, step: int) -> tuple[int, ...]:
    """Where the tiles along a side of the canvas start."""
    if whole <= side:
        return (0,)
    overlap = min(max(side // OVERLAP, LEAST_OVERLAP), side // 2)
    apart = max(step, (side - overlap) // step * step)
    gaps = math.ceil((whole - side) / apart)
    return tuple(round(k * (whole - side) / gaps / step) * step for k in range(gaps + 1))
