"""Results that are kept by what they were made of: latents, states, rows of a tower, tables.

Bounded, and part of the model that made them: nothing outlives it.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

Result = TypeVar("Result")


@dataclass
class Recent(Generic[Result]):
    """The last `most` results by key."""

    most: int
    _found: OrderedDict[Hashable, Result] = field(default_factory=OrderedDict, repr=False)

    def get(self, key: Hashable, make: Callable[[], Result]) -> Result:
        """What is kept under `key`; made where it is not. The same object each time: not to be
        changed in place.
        """
        if key not in self._found:
            self._found[key] = make()
        self._found.move_to_end(key)
        while len(self._found) > self.most:
            self._found.popitem(last=False)
        return self._found[key]
