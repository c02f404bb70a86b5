"""A small cache of results by the inputs that they depend on: latents, text states, vision rows,
modulation tables.

It is bounded and belongs to the model that computes them, so nothing outlives that model.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

Result = TypeVar("Result")


@dataclass
class Recent(Generic[Result]):
    """The `most` results that were used last."""

    most: int
    _results: OrderedDict[Hashable, Result] = field(default_factory=OrderedDict, repr=False)

    def get(self, key: Hashable, make: Callable[[], Result]) -> Result:
        """The result of `key`, from `make` where it is not cached. Callers get the same object each
        time and must not change it in place.
        """
        result = self.find(key)
        return self.keep(key, make()) if result is None else result

    def find(self, key: Hashable) -> Result | None:
        """The result of `key` where it is cached."""
        if key in self._results:
            self._results.move_to_end(key)
        return self._results.get(key)

    def keep(self, key: Hashable, result: Result) -> Result:
        """Caches a result; the one that was not used for longest leaves."""
        self._results[key] = result
        self._results.move_to_end(key)
        while len(self._results) > self.most:
            self._results.popitem(last=False)
        return result
