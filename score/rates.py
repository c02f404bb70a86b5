"""Rates and differences of results, with their intervals."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from .judge import MEASURES, Marks
from .statistics import Interval, clustered_interval, exact_interval, mcnemar, paired_interval

EXACT = "exact binomial"
BOOTSTRAP = "bootstrap over pictures"


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
    """b against a in one measure, on the same pictures. only_a, only_b: pictures that are right
    with one alone; p: McNemar's.
    """

    a: int  # right
    b: int
    asked: int
    pictures: int
    interval: Interval
    only_a: int
    only_b: int
    p: float
    same: bool  # every picture has the same marks

    @property
    def is_clear(self) -> bool:
        """The interval is on one side of zero."""
        return self.interval.low > 0 or self.interval.high < 0

    def sentence(self, measure: str) -> str:
        """The result in plain English."""
        unit = measure if measure != "all" else "pictures"
        if self.same:
            return f"no difference: the same {unit} are right in all {self.pictures} pictures"
        low, value, high = self.interval.low, self.interval.value, self.interval.high
        span = f"{100 * low:+.1f} to {100 * high:+.1f} points"
        if not self.is_clear:
            return (
                f"no difference that {self.pictures} pictures can show: {100 * value:+.1f} points "
                f"({span})"
            )
        verb, sign = ("gained", 1) if value > 0 else ("lost", -1)
        edges = sorted(sign * edge * self.asked for edge in (low, high))
        return (
            f"{abs(self.b - self.a)} of {self.asked} {unit} {verb} ({edges[0]:.0f} to "
            f"{edges[1]:.0f}): {100 * value:+.1f} points ({span})"
        )

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
            "only_a": self.only_a,
            "only_b": self.only_b,
            "mcnemar_p": self.p,
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
    only_a = sum(x == n > y for x, y, n in zip(a, b, asked))
    only_b = sum(y == n > x for x, y, n in zip(a, b, asked))
    return Difference(
        a=sum(a),
        b=sum(b),
        asked=sum(asked),
        pictures=len(both),
        interval=paired_interval(a, b, asked),
        only_a=only_a,
        only_b=only_b,
        p=mcnemar(only_a, only_b),
        same=a == b,
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
