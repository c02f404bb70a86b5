"""Results that are kept by the content they were made of: encoded pictures.

Bounded, and part of the model that made them: nothing outlives it.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field

from torch import Tensor


@dataclass
class Recent:
    """The last `most` results by key."""

    most: int
    _found: OrderedDict[str, Tensor] = field(default_factory=OrderedDict, repr=False)

    def get(self, key: str, make: Callable[[], Tensor]) -> Tensor:
        """What is kept under `key`; made where it is not. The same tensor each time: not to be
        changed in place.
        """
        if key not in self._found:
            self._found[key] = make()
        self._found.move_to_end(key)
        while len(self._found) > self.most:
            self._found.popitem(last=False)
        return self._found[key]
