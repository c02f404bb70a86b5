"""The results of nodes that an executor keeps from run to run.

A run keeps what it uses and drops the rest before it computes anything, so that the memory of a
model that is no longer needed is free before the next one is loaded. Encoded prompts are small and
dear: nodes whose class has KEEP_RESULTS stay, up to a number of bytes, the last used longest.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Iterator
from typing import Any

_KEPT_BYTES = 256 << 20  # about 100 long prompts of the full-size model


class ResultCache:
    """Results by content key."""

    def __init__(self, kept_bytes: int = _KEPT_BYTES) -> None:
        self._results: dict[str, Any] = {}
        self._kept: OrderedDict[str, Any] = OrderedDict()
        self._most = kept_bytes

    def __contains__(self, key: str) -> bool:
        return key in self._results or key in self._kept

    def __getitem__(self, key: str) -> Any:
        if key in self._kept:
            self._kept.move_to_end(key)
            return self._kept[key]
        return self._results[key]

    def store(self, key: str, result: Any, keep: bool) -> None:
        """Adds a result; keep: it may outlive runs that do not use it."""
        if not keep:
            self._results[key] = result
            return
        self._kept[key] = result
        while len(self._kept) > 1 and sum(map(_nbytes, self._kept.values())) > self._most:
            self._kept.popitem(last=False)

    def drop_unused(self, used: Collection[str]) -> None:
        """Lets go of all results that are not in `used` and are not kept."""
        for key in self._results.keys() - set(used):
            del self._results[key]

    def clear(self) -> None:
        """Lets go of everything."""
        self._results.clear()
        self._kept.clear()


def _nbytes(result: Any) -> int:
    """Bytes of the tensors in a result."""
    return sum(tensor.numel() * tensor.element_size() for tensor in _tensors(result))


def _tensors(value: Any) -> Iterator[Any]:
    if hasattr(value, "element_size"):
        yield value
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _tensors(item)
    elif isinstance(value, dict):
        for item in value.values():
            yield from _tensors(item)
