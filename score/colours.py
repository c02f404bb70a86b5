"""Names of colours, by hue, saturation and brightness: the eleven basic terms of English and cyan.

Photographs have shades: a red teapot is pink where it shines and black in its shadow. So the colour
of a thing is every name that a good part of its pixels has.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

ALIASES = {"grey": "gray", "violet": "purple", "turquoise": "cyan", "golden": "yellow"}
COLOURS = (
    "black white gray red orange brown yellow green cyan blue purple pink".split()
)  # the order of `_named`
LEAST_SHARE = 1 / 3  # of a thing's pixels that have a colour
_BLACK, _GRAY, _WHITE = 0.2, 0.15, 0.8  # brightness, saturation, brightness
_DARK, _PALE = 0.62, 0.55  # brightness below which orange is brown; saturation of pink beside red
_EDGES = (15.0, 44.0, 70.0, 168.0, 200.0, 258.0, 295.0, 345.0)  # degrees between hues


def plain_colour(name: str) -> str:
    """A name of COLOURS; "" where none is meant."""
    name = name.strip().lower()
    name = ALIASES.get(name, name)
    return name if name in COLOURS else ""


def colour_shares(pixels: np.ndarray) -> dict[str, float]:
    """Pixels uint8 [N,3] -> the share of each colour that one in a hundred has."""
    if not len(pixels):
        return {}
    counts = np.bincount(_named(pixels), minlength=len(COLOURS)) / len(pixels)
    return {name: round(float(s), 3) for name, s in zip(COLOURS, counts) if s >= 0.01}


def has_colour(shares: Mapping[str, float], name: str) -> bool:
    """True where a third of the pixels have a colour, or none has more."""
    share = shares.get(plain_colour(name), 0.0)
    return share > 0 and share >= min(LEAST_SHARE, max(shares.values()))


def _named(pixels: np.ndarray) -> np.ndarray:
    """[N,3] -> numbers of COLOURS [N]."""
    rgb = pixels.reshape(-1, 3).astype(np.float32) / 255
    value, low = rgb.max(1), rgb.min(1)
    spread = value - low
    saturation = np.where(value > 0, spread / np.maximum(value, 1e-6), 0)
    hue = _hue(rgb, value, spread)
    # red, orange, yellow, green, cyan, blue, purple, pink, and red again
    by_hue = np.array([3, 4, 6, 7, 8, 9, 10, 11, 3])
    names = by_hue[np.searchsorted(_EDGES, hue, side="right")]
    names = np.where((names == 4) & (value < _DARK), 5, names)
    names = np.where((names == 3) & (saturation < _PALE) & (value > 0.7), 11, names)
    names = np.where((names == 11) & (value < 0.5), 10, names)
    gray = np.where(value > _WHITE, 1, 2)
    names = np.where(saturation < _GRAY, gray, names)
    return np.where(value < _BLACK, 0, names)


def _hue(rgb: np.ndarray, value: np.ndarray, spread: np.ndarray) -> np.ndarray:
    """Degrees in 0..360."""
    r, g, b = rgb.T
    spread = np.maximum(spread, 1e-6)
    hue = np.where(
        value == r,
        (g - b) / spread,
        np.where(value == g, 2 + (b - r) / spread, 4 + (r - g) / spread),
    )
    return (60 * hue) % 360
