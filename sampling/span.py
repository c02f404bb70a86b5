"""A part of a picture between pixels: in floats, where geometry's Box has whole pixels."""

from __future__ import annotations

import math
from typing import NamedTuple

from .geometry import Box


class Span(NamedTuple):
    """In pixels from the left and top edge of its picture."""

    left: float
    top: float
    right: float
    bottom: float

    @property
    def area(self) -> float:
        """0 where an edge lies on or beyond its opposite."""
        return max(0.0, self.right - self.left) * max(0.0, self.bottom - self.top)

    def scaled(self, seen: tuple[int, int], size: tuple[int, int]) -> Span:
        """The same part of a picture of `size` (width, height), of which `seen` is a resized copy.
        The copy covers the picture edge to edge, so no half pixel is added.
        """
        (w, h), (width, height) = seen, size
        left, right = (x * width / w for x in (self.left, self.right))
        top, bottom = (y * height / h for y in (self.top, self.bottom))
        return Span(left, top, right, bottom)

    def within(self, width: int, height: int) -> Span:
        """What of this part lies in a picture."""
        left, right = (min(max(x, 0.0), float(width)) for x in (self.left, self.right))
        top, bottom = (min(max(y, 0.0), float(height)) for y in (self.top, self.bottom))
        return Span(left, top, right, bottom)

    def touched(self) -> Box:
        """All pixels that it touches."""
        floor, ceil = math.floor, math.ceil
        return Box(floor(self.left), floor(self.top), ceil(self.right), ceil(self.bottom))
