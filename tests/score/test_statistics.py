"""Intervals against known values, their coverage by simulation, and what is no difference."""

import math

import numpy as np
import pytest

from inkstone.score.statistics import clustered_interval, exact_interval, paired_interval, sign_test


@pytest.mark.parametrize(
    "right, count, low, high",
    [
        # the rule of three in its exact form: 1 - 0.025^(1/n)
        (0, 10, 0.0, 0.30850),
        (10, 10, 0.69150, 1.0),
        # scipy.stats.binomtest(right, count).proportion_ci(method="exact")
        (5, 10, 0.18709, 0.81291),
        (1, 20, 0.00127, 0.24873),
        (190, 200, 0.90997, 0.97577),
    ],
)
def test_exact_interval(right, count, low, high):
    interval = exact_interval(right, count)
    assert interval.value == right / count
    assert abs(interval.low - low) < 2e-5 and abs(interval.high - high) < 2e-5, interval


def test_exact_interval_covers():
    """At least 95 % of the outcomes of any true rate have it inside their interval."""
    for p in (0.03, 0.3, 0.7, 0.985):
        inside = 0.0
        for k in range(41):
            interval = exact_interval(k, 40)
            if interval.low <= p <= interval.high:
                inside += math.comb(40, k) * p**k * (1 - p) ** (40 - k)
        assert inside >= 0.95, (p, inside)


def test_no_share_is_refused():
    for right, count in ((1, 0), (3, 2), (-1, 2)):
        with pytest.raises(ValueError):
            exact_interval(right, count)


def test_words_of_one_picture_count_together():
    """Ten pictures of ten words, each all right or all wrong: as wide as ten coin throws."""
    right = [10] * 5 + [0] * 5
    clustered = clustered_interval(right, [10] * 10)
    single = clustered_interval([1] * 50 + [0] * 50, [1] * 100)
    assert clustered.value == single.value == 0.5
    assert (clustered.high - clustered.low) > 2.5 * (single.high - single.low)


def test_where_all_is_right_the_interval_has_a_width():
    """That of as many pictures, not of as many words, and not none."""
    assert clustered_interval([5] * 10, [5] * 10) == exact_interval(10, 10)
    assert clustered_interval([0] * 4, [5] * 4) == exact_interval(0, 4)


def test_the_bootstrap_covers():
    rng = np.random.default_rng(1)
    inside = 0
    for _ in range(60):
        rates = rng.beta(4, 2, 60)  # mean 2/3
        asked = np.full(60, 6)
        right = rng.binomial(6, rates)
        interval = clustered_interval(right.tolist(), asked.tolist())
        inside += interval.low <= 2 / 3 <= interval.high
    assert inside >= 52, inside


def test_a_run_against_itself_is_no_difference():
    right = [3, 1, 0, 2, 2]
    interval = paired_interval(right, right, [3] * 5)
    assert (interval.value, interval.low, interval.high) == (0, 0, 0)
    assert sign_test(0, 0) == 1.0


def test_a_clear_loss():
    before, after = [4] * 30, [4] * 10 + [2] * 20
    interval = paired_interval(before, after, [4] * 30)
    assert interval.value == pytest.approx(-1 / 3)
    assert -0.5 < interval.low < interval.value < interval.high < -0.2


@pytest.mark.parametrize(
    "a, b, p", [(5, 5, 1.0), (0, 5, 0.0625), (10, 0, 2 / 1024), (1, 7, 2 * 9 / 256), (0, 1, 1.0)]
)
def test_sign_test(a, b, p):
    assert sign_test(a, b) == pytest.approx(p) and sign_test(b, a) == pytest.approx(p)


def test_the_same_numbers_every_time():
    assert clustered_interval([1, 2, 0], [2, 2, 2]) == clustered_interval([1, 2, 0], [2, 2, 2])
