"""The picture of a run's loss: where its lines are, and that no run is too odd for it."""

import math

import numpy as np
import pytest
from PIL import Image

from inkstone.errors import InkstoneError
from inkstone.training.lora.plot import (
    _LOSS_PANEL,
    _RATE_PANEL,
    _SMOOTH,
    SIZE,
    Curve,
    _marks,
    draw_plot,
    smoothed,
    write_plot,
)


def curve(losses, rate=1e-4, first=1):
    return Curve(range(first, first + len(losses)), losses, [rate] * len(losses))


def height(image, x, colour=_SMOOTH):
    """Where a colour is in a column of the loss panel, as a fraction from its bottom."""
    left, top, right, bottom = _LOSS_PANEL
    column = np.asarray(image).astype(int)[top:bottom, round(left + x * (right - left - 1))]
    rows = np.flatnonzero(np.abs(column - colour).sum(axis=1) < 60)
    return 1 - rows.mean() / (bottom - top) if len(rows) else None


def test_a_falling_loss_falls():
    image = draw_plot(curve(np.linspace(1.0, 0.2, 400)), "x")
    heights = [height(image, x) for x in (0.1, 0.5, 0.9)]
    assert image.size == SIZE and None not in heights
    assert heights[0] > heights[1] > heights[2] and heights[0] - heights[2] > 0.5


def test_one_outlier_does_not_flatten_the_rest():
    losses = np.linspace(1.0, 0.2, 400)
    losses[200] = 1e9
    image = draw_plot(curve(losses), "x")
    assert height(image, 0.1) - height(image, 0.95) > 0.15


def test_the_smoothed_line_is_unbiased_and_passes_over_what_is_no_number():
    assert np.allclose(smoothed([0.5] * 90), 0.5)
    noisy = [0.4, 0.6] * 300
    assert abs(smoothed(noisy)[-1] - 0.5) < 0.02
    assert np.allclose(smoothed([0.5, math.nan, math.inf, 0.5] * 20), 0.5)


@pytest.mark.parametrize(
    "losses",
    [
        [0.3],
        [0.3, 0.2],
        [0.0] * 5,
        [math.nan] * 4,
        [0.2, math.nan, 0.3],
        [math.inf, 1.0],
        list(np.abs(np.random.default_rng(1).normal(size=20_000))),
    ],
)
@pytest.mark.parametrize("rate", [1e-4, 0.0])
def test_no_run_is_too_odd(losses, rate):
    assert draw_plot(curve(losses, rate, first=500), "名 " * 80).size == SIZE


def test_a_spike_between_two_pixels_is_seen():
    """23 steps share a column of pixels; every hundredth is twice as high."""
    losses = np.where(np.arange(20_000) % 100 == 5, 0.8, 0.4)
    left, top, right, bottom = _LOSS_PANEL
    panel = np.asarray(draw_plot(curve(losses), "x"))[top:bottom, left + 2 : right]
    upper = panel[40 : (bottom - top) // 2, :, 0] < 215  # the grid is lighter
    assert upper.any(axis=0).sum() > 150, "lowest and highest of each column are drawn"


@pytest.mark.parametrize(
    "low, high, count, want",
    [(0, 1, 5, [0, 0.2, 0.4, 0.6, 0.8, 1]), (1, 300, 8, [50, 100, 150, 200, 250, 300])],
)
def test_marks_are_round(low, high, count, want):
    assert np.allclose(_marks(low, high, count), want)
    assert _RATE_PANEL[1] > _LOSS_PANEL[3]


def test_the_file(tmp_path):
    path = tmp_path / "loss.png"
    write_plot(path, curve([]), "x")
    assert not path.exists(), "nothing to draw"
    write_plot(path, curve([0.3, 0.2]), "x")
    with Image.open(path) as image:
        assert image.size == SIZE and image.mode == "RGB"
    with pytest.raises(InkstoneError, match="cannot be written"):
        write_plot(tmp_path / "gone" / "loss.png", curve([0.3]), "x")
