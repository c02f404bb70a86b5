"""Rates and differences of results, with their intervals."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from .judge import MEASURES, Marks
from .statistics import (
    LEVEL,
    Interval,
    clustered_interval,
    exact_interval,
    paired_interval,
    sign_test,
)

EXACT = "exact binomial"
BOOTSTRAP = "bootstrap over pictures"
UNITS = {  # what a measure counts
    "words": "words",
    "texts": "texts",
    "characters": "characters",
    "presence": "things",
    "count": "counts",
    "colour": "colours",
    "place": "places",
    "changed": "edits",
    "stayed": "edits that leave the rest",
    "all": "pictures",
}


@dataclass(frozen=True)
class Rate:
    """A measure over pictures. method: of its interval."""

    right: int
    asked: int
    pictures: int
    interval: Interval
    method: str

    def facts(self) -> dict[str, object]:
        """As JSON."""
        return {
            "right": self.right,
            "asked": self.asked,
            "pictures": self.pictures,
            "rate": round(self.interval.value, 6),
            "low": round(self.interval.low, 6),
            "high": round(self.interval.high, 6),
            "method": self.method,
        }


def rates(marks: Iterable[Marks]) -> dict[str, Rate]:
    """The rate of every measure that was asked, in the order of MEASURES."""
    every = list(marks)
    result = {}
    for measure in MEASURES:
        pairs = [m[measure] for m in every if m.get(measure, (0, 0))[1]]
        if pairs:
            result[measure] = _rate(pairs)
    return result


def _rate(pairs: Sequence[tuple[int, int]]) -> Rate:
    right, asked = [r for r, _ in pairs], [a for _, a in pairs]
    single = max(asked) == 1
    interval = (
        exact_interval(sum(right), len(pairs)) if single else clustered_interval(right, asked)
    )
    method = EXACT if single else BOOTSTRAP
    return Rate(sum(right), sum(asked), len(pairs), interval, method)


@dataclass(frozen=True)
class Difference:
    """b against a in one measure, on the same pictures. worse, better: pictures in which b has less
    or more right; p: the exact sign test of these, which is McNemar's where a picture counts once.
    """

    a: int  # right
    b: int
    asked: int
    pictures: int
    interval: Interval
    worse: int
    better: int
    p: float

    @property
    def same(self) -> bool:
        """Every picture has the same marks."""
        return self.worse == self.better == 0

    @property
    def is_clear(self) -> bool:
        """The interval is on one side of zero."""
        return self.interval.low > 0 or self.interval.high < 0

    def sentence(self, measure: str) -> str:
        """The result in plain English."""
        unit = UNITS[measure]
        if self.same:
            return f"no difference: the same {unit} are right in all {self.pictures} pictures"
        low, value, high = self.interval.low, self.interval.value, self.interval.high
        verb, sign = ("gained", 1) if value > 0 else ("lost", -1)
        edges = sorted(round(sign * edge * self.asked) for edge in (low, high))
        text = (
            f"{abs(self.b - self.a)} of {self.asked} {unit} {verb} ({edges[0]} to {edges[1]}): "
            f"{100 * value:+.1f} points ({100 * low:+.1f} to {100 * high:+.1f})"
        )
        return text if self.is_clear else f"{text}; {self.pictures} pictures show no difference"

    def facts(self) -> dict[str, object]:
        """As JSON."""
        return {
            "a": self.a,
            "b": self.b,
            "asked": self.asked,
            "pictures": self.pictures,
            "difference": round(self.interval.value, 6),
            "low": round(self.interval.low, 6),
            "high": round(self.interval.high, 6),
            "worse": self.worse,
            "better": self.better,
            "p": self.p,
            "same": self.same,
        }


def differences(pairs: Sequence[tuple[Marks, Marks]]) -> dict[str, Difference]:
    """b - a in every measure, over the pictures of which both have it and ask the same."""
    result = {}
    for measure in MEASURES:
        both = [
            (a[measure], b[measure])
            for a, b in pairs
            if measure in a and measure in b and a[measure][1] == b[measure][1] > 0
        ]
        if both:
            result[measure] = _difference(both)
    return result


def _difference(both: Sequence[tuple[tuple[int, int], tuple[int, int]]]) -> Difference:
    a, b = [first[0] for first, _ in both], [second[0] for _, second in both]
    asked = [first[1] for first, _ in both]
    worse = sum(y < x for x, y in zip(a, b))
    better = sum(y > x for x, y in zip(a, b))
    p = sign_test(worse, better)
    interval = paired_interval(a, b, asked)
    if p > 1 - LEVEL:  # a bootstrap of few changed pictures is too narrow
        interval = replace(interval, low=min(interval.low, 0.0), high=max(interval.high, 0.0))
    return Difference(
        a=sum(a),
        b=sum(b),
        asked=sum(asked),
        pictures=len(both),
        interval=interval,
        worse=worse,
        better=better,
        p=p,
    )


def total(marks: Iterable[Marks]) -> dict[str, tuple[int, int]]:
    """The sums of marks."""
    sums: dict[str, tuple[int, int]] = {}
    for mark in marks:
        for measure, (right, asked) in mark.items():
            before = sums.get(measure, (0, 0))
            sums[measure] = before[0] + right, before[1] + asked
    return sums


def percent(pair: tuple[int, int]) -> str:
    """A share as a cell of a table."""
    return f"{100 * pair[0] / pair[1]:.1f} %" if pair[1] else "-"


def by_key(items: Iterable[tuple[str, Marks]]) -> Mapping[str, list[Marks]]:
    """Marks by the key that comes with them."""
    result: dict[str, list[Marks]] = {}
    for key, marks in items:
        result.setdefault(key, []).append(marks)
    return result
