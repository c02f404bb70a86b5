"""Step caches as people choose them: a method, its number, the part of the run; without torch."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ..errors import InkstoneError

FEWEST_STEPS = 10  # of a whole run: with fewer, neighbouring steps have too little in common
FORCE = "force"


@dataclass(frozen=True)
class CacheMethod:
    """A method and its number. `usual` saves about half of the block evaluations; what it costs is
    measured on the embedded model (bench/step_cache.py, bench/RESULTS.md).
    """

    name: str
    usual: float
    number: str  # what its number is, for messages
    least: float = 0.0
    most: float = 10.0
    whole: bool = False  # its number is whole


_ALL = (
    CacheMethod("fbcache", 0.2, "the relative change of block 1's residual"),
    CacheMethod("taylorseer", 2, "every how many steps are computed", 1, 20, whole=True),
    CacheMethod("taylorseer2", 2, "every how many steps are computed", 1, 20, whole=True),
    CacheMethod("easycache", 0.05, "the summed relative change of the velocity"),
    CacheMethod("teacache", 0.25, "the summed relative change of block 1's input"),
)
METHODS = {method.name: method for method in _ALL}


@dataclass(frozen=True)
class StepCache:
    """A step cache of a model. start and end: fractions of the steps, within which blocks may be
    skipped; forced: with distilled models and few steps too. Raises InkstoneError.
    """

    method: str
    threshold: float
    start: float = 0.0
    end: float = 1.0
    forced: bool = False

    def __post_init__(self) -> None:
        method = METHODS.get(self.method)
        if method is None:
            raise InkstoneError(
                f"There is no step cache {self.method!r}: expected one of {', '.join(METHODS)}."
            )
        low, high, value = method.least, method.most, self.threshold
        if not (math.isfinite(value) and low <= value <= high) or (method.whole and value % 1):
            raise InkstoneError(
                f"The number of the step cache {method.name} is {value:g}: expected "
                f"{'a whole number' if method.whole else 'a number'} from {low:g} to {high:g}. It "
                f"is {method.number}; {method.usual:g} is usual."
            )
        if not 0 <= self.start < self.end <= 1:
            raise InkstoneError(
                f"The step cache works from {self.start:g} to {self.end:g}: expected fractions of "
                "the steps, 0 <= start < end <= 1. Use 0 and 1 for all steps."
            )

    def allows(self, step: int, steps: int) -> bool:
        """True in the steps that lie within start .. end as a whole."""
        return step / steps >= self.start and (step + 1) / steps <= self.end

    def words(self) -> str:
        """As the command line writes it."""
        return f"{self.method}:{self.threshold:g}" + (f":{FORCE}" if self.forced else "")


def parse_step_cache(text: str) -> StepCache:
    """NAME[:THRESHOLD][:force] -> the cache. Raises InkstoneError."""
    name, *rest = text.strip().split(":")
    forced = rest[-1:] == [FORCE]
    numbers = rest[:-1] if forced else rest
    method = METHODS.get(name)
    try:
        value = float(numbers[0]) if numbers else (method.usual if method else 0.0)
    except ValueError:
        value = math.nan
    if len(numbers) > 1 or (method is not None and math.isnan(value)):
        raise InkstoneError(
            f"{text!r} is no step cache: expected NAME, NAME:THRESHOLD or NAME:THRESHOLD:{FORCE}, "
            f"for example fbcache:{METHODS['fbcache'].usual:g}."
        )
    return StepCache(name, value, forced=forced)
