"""Compares a picture with the source of its edit: what changed, and did the rest stay?

A VAE gives no pixel back as it was, and an edge not to the pixel: small differences are no change,
and a pixel is compared with its neighbours in the source too.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

CHANGED = 40  # levels of 255 in a channel: more than what a VAE does to an edge
MOST_MOVED = 0.005  # of the pixels that must stay
LEAST_MOVED = 0.01  # of the pixels that may change
_MARGIN = 0.02  # of a side around what may change: edges and shadows


@dataclass(frozen=True)
class Change:
    """Shares of pixels that differ clearly. inside: of the part that may change, outside: of the
    rest; None where there is no such part.
    """

    inside: float | None
    outside: float | None

    @property
    def is_there(self) -> bool:
        """Something changed where it was asked to."""
        return self.inside is not None and self.inside >= LEAST_MOVED

    @property
    def stayed(self) -> bool:
        """Everything else is as it was."""
        return self.outside is None or self.outside <= MOST_MOVED


def compare(
    before: np.ndarray, after: np.ndarray, part: tuple[float, float, float, float] | None
) -> Change:
    """Two pictures uint8 [H,W,3]. part: where the edit may change it, left, top, width, height as
    shares; None: anywhere. Another size is a change of everything.
    """
    height, width = before.shape[:2]
    inside = np.ones((height, width), bool) if part is None else _inside(part, width, height)
    if after.shape != before.shape:
        return Change(1.0, 1.0)
    moved = _moved(before.astype(np.int16), after.astype(np.int16))
    return Change(_share(moved[inside]), _share(moved[~inside]))


def _moved(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """[H,W,3] -> [H,W]: darker or brighter than all neighbours of the same place by CHANGED."""
    height, width = before.shape[:2]
    around = np.pad(before, ((1, 1), (1, 1), (0, 0)), mode="edge")
    parts = [around[y : y + height, x : x + width] for y in range(3) for x in range(3)]
    low, high = np.minimum.reduce(parts), np.maximum.reduce(parts)
    return np.maximum(low - after, after - high).max(2) > CHANGED


def _inside(part: tuple[float, float, float, float], width: int, height: int) -> np.ndarray:
    left, top, across, down = part
    mask = np.zeros((height, width), bool)
    rows = slice(
        max(0, int((top - _MARGIN) * height)), int(np.ceil((top + down + _MARGIN) * height))
    )
    columns = slice(
        max(0, int((left - _MARGIN) * width)), int(np.ceil((left + across + _MARGIN) * width))
    )
    mask[rows, columns] = True
    return mask


def _share(moved: np.ndarray) -> float | None:
    return float(moved.mean()) if moved.size else None
