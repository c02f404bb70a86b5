"""The results of nodes that an executor keeps from run to run.

A run keeps what it uses and drops the rest before it computes anything, so that the memory of a
model that is no longer needed is free before the next one is loaded. Encoded prompts are small and
slow to compute: results of nodes whose class has KEEP_RESULTS outlive runs that do not use them, up
to a number of bytes; the least recently used is dropped first.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Iterable, Iterator, Set
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from torch import Tensor

_KEPT_BYTES = 256 << 20  # about 100 long prompts of the full-size model
Result = TypeVar("Result")


class ResultCache(Generic[Result]):
    """Results by content key."""

    def __init__(self, kept_bytes: int = _KEPT_BYTES) -> None:
        self._results: dict[str, Result] = {}
        self._kept: OrderedDict[str, Result] = OrderedDict()
        self._max_bytes = kept_bytes

    def __contains__(self, key: str) -> bool:
        return key in self._results or key in self._kept

    def __getitem__(self, key: str) -> Result:
        if key in self._kept:
            self._kept.move_to_end(key)
            return self._kept[key]
        return self._results[key]

    def store(self, key: str, result: Result, keep: bool) -> None:
        """Add a result; keep: it may outlive runs that do not use it."""
        if not keep:
            self._results[key] = result
            return
        self._kept[key] = result
        while len(self._kept) > 1 and sum(map(_nbytes, self._kept.values())) > self._max_bytes:
            self._kept.popitem(last=False)

    def drop_unused(self, used: Collection[str]) -> None:
        """Drop all results that are not in `used` and are not kept."""
        for key in self._results.keys() - set(used):
            del self._results[key]

    def keys(self) -> Set[str]:
        """Of results that a later run drops where it does not use them."""
        return self._results.keys()

    def replace(self, key: str, result: Result) -> None:
        """Put another result in the place of one of `keys`."""
        self._results[key] = result

    def drop(self, keys: Iterable[str | None]) -> None:
        """Drop these, kept ones too."""
        for key in keys:
            if key is not None:
                self._results.pop(key, None)
                self._kept.pop(key, None)

    def clear(self) -> None:
        """Drop everything."""
        self._results.clear()
        self._kept.clear()


def _nbytes(result: object) -> int:
    """Bytes of the tensors in a result."""
    return sum(tensor.numel() * tensor.element_size() for tensor in _tensors(result))


def _tensors(value: object) -> Iterator[Tensor]:
    if hasattr(value, "element_size"):  # torch need not be loaded here
        yield value  # type: ignore[misc]  # only tensors have it
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _tensors(item)
    elif isinstance(value, dict):
        for item in value.values():
            yield from _tensors(item)
