"""Intervals and tests, from first principles.

- A rate of pictures (right or wrong): the exact binomial interval (Clopper-Pearson). It holds at
  0 and 100 % and for few pictures, where the usual approximations do not.
- A rate of words: a bootstrap over pictures. The words of one picture come from one drawing, so
  they are right or wrong together, and an interval that counts them singly is too narrow.
- Two models on the same prompts: a bootstrap of the differences picture by picture, because both
  find the same prompts hard; beside it the exact sign test of the pictures that became worse and
  better (McNemar's test where a picture is right or wrong). With few such pictures a bootstrap is
  too narrow: where the sign test sees nothing, the interval holds zero.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

LEVEL = 0.95
DRAWS = 10_000
_SEED = 20_261_129
_BLOCK = 1 << 22  # random numbers at a time


@dataclass(frozen=True)
class Interval:
    """A rate or a difference of rates in 0..1 and the interval that holds it at LEVEL."""

    value: float
    low: float
    high: float


def exact_interval(right: int, count: int, level: float = LEVEL) -> Interval:
    """Clopper and Pearson's interval of a share (Biometrika 26, 1934)."""
    if not 0 <= right <= count or count == 0:
        raise ValueError(f"{right} of {count} is no share")
    tail = (1 - level) / 2
    low = _bisect(lambda p: _at_most(right - 1, count, p) - (1 - tail)) if right else 0.0
    high = _bisect(lambda p: _at_most(right, count, p) - tail) if right < count else 1.0
    return Interval(right / count, low, high)


def _bisect(falling: Callable[[float], float]) -> float:
    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if falling(middle) > 0 else (low, middle)
    return (low + high) / 2


def _at_most(right: int, count: int, p: float) -> float:
    """The probability of at most so many successes."""
    if p <= 0 or p >= 1:
        return 1.0 if p <= 0 or right >= count else 0.0
    logs = [
        math.lgamma(count + 1)
        - math.lgamma(k + 1)
        - math.lgamma(count - k + 1)
        + k * math.log(p)
        + (count - k) * math.log1p(-p)
        for k in range(right + 1)
    ]
    return min(1.0, math.fsum(map(math.exp, logs)))


def clustered_interval(right: Sequence[int], asked: Sequence[int]) -> Interval:
    """The interval of sum(right) / sum(asked) by a bootstrap over pictures. Where nothing or all is
    right in every picture, a bootstrap has no width: it is the exact one of the pictures.
    """
    tops, whole = np.array(right, float), np.array(asked, float)
    if not whole.sum() > 0:
        raise ValueError("nothing was asked")
    used = int((whole > 0).sum())
    if tops.sum() in (0, whole.sum()):  # every draw is the same; so many pictures may hide a few
        return exact_interval(used if tops.sum() else 0, used)
    draws = [tops[rows].sum(1) / np.maximum(whole[rows].sum(1), 1) for rows in _rows(len(tops))]
    return _interval(float(tops.sum() / whole.sum()), np.concatenate(draws))


def paired_interval(a: Sequence[int], b: Sequence[int], asked: Sequence[int]) -> Interval:
    """The interval of the difference b - a of two rates on the same pictures, as
    `clustered_interval`.
    """
    difference, whole = np.array(b, float) - np.array(a, float), np.array(asked, float)
    if not whole.sum() > 0:
        raise ValueError("nothing was asked")
    draws = [
        difference[rows].sum(1) / np.maximum(whole[rows].sum(1), 1)
        for rows in _rows(len(difference))
    ]
    return _interval(float(difference.sum() / whole.sum()), np.concatenate(draws))


def _rows(count: int) -> list[np.ndarray]:
    """Draws with replacement, [part, count] each; the same ones at every call."""
    rng = np.random.default_rng(_SEED)
    part = max(1, min(DRAWS, _BLOCK // max(1, count)))
    sizes = [part] * (DRAWS // part) + [DRAWS % part]
    return [rng.integers(count, size=(size, count)) for size in sizes if size]


def _interval(value: float, draws: np.ndarray) -> Interval:
    tail = (1 - LEVEL) / 2
    low, high = np.quantile(draws, [tail, 1 - tail])
    return Interval(value, float(min(low, value)), float(max(high, value)))


def sign_test(worse: int, better: int) -> float:
    """The two-sided p of the exact sign test: pictures that became worse and better. Where every
    picture is right or wrong, that is McNemar's exact test.
    """
    count = worse + better
    if count == 0:
        return 1.0
    return min(1.0, 2 * _at_most(min(worse, better), count, 0.5))
