"""The loss of a run as a picture: raw and smoothed loss above, the learning rate below, steps along
the bottom. Drawn with Pillow alone, twice as large and then made smaller, so that lines are smooth.

A diffusion loss is noise around a slow slope: most of it is the timestep that was drawn. So the
smoothed line is the one to read, and single outliers do not set the scale.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ...files.atomic import atomic

if TYPE_CHECKING:
    import numpy as np
    from PIL.Image import Image
    from PIL.ImageDraw import ImageDraw

SIZE = (960, 560)
_FINER = 2  # drawn this much larger
_TEXT = 15  # pixels
_PAPER, _INK, _GRID = (255, 255, 255), (40, 44, 52), (226, 229, 234)
_RAW, _SMOOTH, _RATE = (173, 203, 240), (18, 92, 176), (196, 92, 30)
_LOSS_PANEL, _RATE_PANEL = (70, 56, 930, 390), (70, 434, 930, 506)  # left, top, right, bottom
_OUTLIER = 20  # medians of the loss
_LONGEST = 60  # characters of a name
_SHOWN = (1.0, 99.0)  # percentiles of the raw loss that the scale holds


@dataclass(frozen=True)
class Curve:
    """One value of each per step that ran."""

    steps: Sequence[int]
    losses: Sequence[float]
    rates: Sequence[float]  # learning rates


@dataclass(frozen=True)
class _Panel:
    """A plot's area, and the values at its edges."""

    area: tuple[int, int, int, int]
    across: tuple[float, float]
    up: tuple[float, float]

    def at(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Values [n], [n] -> pixels [n,2], inside the area."""
        import numpy as np

        left, top, right, bottom = (edge * _FINER for edge in self.area)
        (x0, x1), (y0, y1) = self.across, self.up
        px = left + (x - x0) / (x1 - x0) * (right - left)
        py = bottom - (y - y0) / (y1 - y0) * (bottom - top)
        return np.stack([px.clip(left, right), py.clip(top, bottom)], axis=1)


def smoothed(losses: Sequence[float]) -> np.ndarray:
    """[n] moving average over about a thirtieth of the run, unbiased at its start. A value that is
    no number counts as the average so far, one above _OUTLIER medians as that many.
    """
    import numpy as np

    finite = [loss for loss in losses if math.isfinite(loss)]
    most = _OUTLIER * float(np.median(finite)) if finite else 0.0
    keep = 1 - 1 / max(1.0, len(losses) / 30)
    out, total, weight = np.empty(len(losses)), 0.0, 0.0
    for i, loss in enumerate(losses):
        value = min(loss, most) if math.isfinite(loss) else total / weight if weight else 0.0
        total, weight = keep * total + (1 - keep) * value, keep * weight + (1 - keep)
        out[i] = total / weight
    return out


def write_plot(path: Path, curve: Curve, title: str) -> None:
    """Draws the curve to a PNG, which is replaced whole. Without a step there is nothing to draw.
    Raises InkstoneError where it cannot be written.
    """
    if not curve.steps:
        return
    with atomic(path) as file:
        draw_plot(curve, title).save(file, "PNG")


def draw_plot(curve: Curve, title: str) -> Image:
    """The picture, SIZE pixels."""
    import numpy as np
    from PIL import Image, ImageDraw

    width, height = (side * _FINER for side in SIZE)
    image = Image.new("RGB", (width, height), _PAPER)
    draw = ImageDraw.Draw(image)
    steps, raw = np.array(curve.steps, dtype=float), np.array(curve.losses, dtype=float)
    smooth, rates = smoothed(curve.losses), np.array(curve.rates, dtype=float)
    across = float(steps[0]), float(max(steps[-1], steps[0] + 1))
    loss = _Panel(_LOSS_PANEL, across, _range(raw, smooth))
    rate = _Panel(_RATE_PANEL, across, (0.0, float(rates.max()) * 1.1 or 1.0))
    for panel, marks in ((loss, 5), (rate, 2)):
        _frame(draw, panel, marks)
    _line(draw, loss, (steps, raw), _RAW, 1)
    _line(draw, loss, (steps, smooth), _SMOOTH, 3)
    _line(draw, rate, (steps, rates), _RATE, 2)
    _across(draw, rate)
    name = title if len(title) <= _LONGEST else title[: _LONGEST - 3] + "..."
    _legend(draw, f"{name}: step {curve.steps[-1]}, loss {smooth[-1]:.4g}")
    return image.resize(SIZE, Image.Resampling.LANCZOS)


def _range(raw: np.ndarray, smooth: np.ndarray) -> tuple[float, float]:
    """The scale of the losses: all of the smoothed line, nearly all of the raw one."""
    import numpy as np

    finite = raw[np.isfinite(raw)]
    low, high = np.percentile(finite, _SHOWN) if len(finite) else (0.0, 1.0)
    low, high = min(low, smooth.min()), max(high, smooth.max())
    room = (high - low) * 0.05 or abs(high) * 0.05 or 1.0
    bottom = max(0.0, low - room) if low >= 0 else low - room
    return float(bottom), float(high + room)


def _marks(low: float, high: float, count: int) -> list[float]:
    """About `count` round numbers from low to high."""
    rough = (high - low) / count
    unit = 10.0 ** math.floor(math.log10(rough))
    step = next(unit * k for k in (1, 2, 5, 10) if unit * k >= rough * 0.999)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [n * step for n in range(first, last + 1)]


def _frame(draw: ImageDraw, panel: _Panel, count: int) -> None:
    """Lines across the panel at round values, with their numbers at its left."""
    left, top, right, bottom = (edge * _FINER for edge in panel.area)
    for value in _marks(*panel.up, count):
        y = round(bottom - (value - panel.up[0]) / (panel.up[1] - panel.up[0]) * (bottom - top))
        draw.line([(left, y), (right, y)], fill=_GRID, width=_FINER)
        _text(draw, (left - 8 * _FINER, y), f"{value:g}", "rm")
    draw.line([(left, top), (left, bottom), (right, bottom)], fill=_INK, width=_FINER)


def _across(draw: ImageDraw, panel: _Panel) -> None:
    """The numbers of steps under the lower panel, and what they are."""
    left, _, right, bottom = (edge * _FINER for edge in panel.area)
    (first, last), y = panel.across, (panel.area[3] + 8) * _FINER
    for value in _marks(first, last, 8):
        if value != round(value):
            continue
        x = round(left + (value - first) / (last - first) * (right - left))
        draw.line([(x, bottom), (x, bottom + 4 * _FINER)], fill=_INK, width=_FINER)
        _text(draw, (x, y), f"{value:.0f}", "mt")
    _text(draw, ((left + right) // 2, y + 20 * _FINER), "step", "mt")


def _legend(draw: ImageDraw, title: str) -> None:
    """The title, and what each colour is."""
    left, top = (edge * _FINER for edge in _LOSS_PANEL[:2])
    _text(draw, (left, 18 * _FINER), title, "lm")
    x = left + 12 * _FINER
    for colour, name in ((_RAW, "loss of each step"), (_SMOOTH, "smoothed")):
        draw.line([(x, top - 10 * _FINER), (x + 26 * _FINER, top - 10 * _FINER)], colour, 6)
        _text(draw, (x + 34 * _FINER, top - 10 * _FINER), name, "lm")
        x += 190 * _FINER
    _text(draw, (left, (_RATE_PANEL[1] - 12) * _FINER), "learning rate", "lm", _RATE)


def _text(
    draw: ImageDraw,
    place: tuple[float, float],
    text: str,
    anchor: str,
    colour: tuple[int, int, int] = _INK,
) -> None:
    from PIL import ImageFont

    # the font that comes with Pillow has plain Latin letters only
    shown = text.encode("ascii", "replace").decode()
    draw.text(place, shown, colour, ImageFont.load_default(size=_TEXT * _FINER), anchor=anchor)


def _line(
    draw: ImageDraw,
    panel: _Panel,
    values: tuple[np.ndarray, np.ndarray],
    colour: tuple[int, int, int],
    width: int,
) -> None:
    """A line through the points, past those that are no number. Where several steps share a column
    of pixels, it runs through the lowest and the highest of them.
    """
    import numpy as np

    x, y = (v[np.isfinite(values[1])] for v in values)
    columns = (panel.area[2] - panel.area[0]) * _FINER
    if len(x) > 2 * columns:
        groups = np.array_split(np.arange(len(x)), columns)
        ends = [g[i] for g in groups for i in sorted((y[g].argmin(), y[g].argmax()))]
        x, y = x[ends], y[ends]
    points = [(float(px), float(py)) for px, py in panel.at(x, y)]
    if len(points) == 1:
        (px, py), r = points[0], width * _FINER
        draw.ellipse([px - r, py - r, px + r, py + r], fill=colour)
    elif points:
        draw.line(points, fill=colour, width=width * _FINER, joint="curve")
