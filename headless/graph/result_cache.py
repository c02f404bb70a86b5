"""The results of nodes that an executor keeps from run to run.

A run keeps what it uses and drops the rest before it computes anything, so that the memory of a
model that is no longer needed is free before the next one is loaded. Encoded prompts are small and
slow to compute: results of nodes whose class has KEEP_RESULTS outlive runs that do not use them, up
to a number of bytes; the least recently used is dropped first. Whoever draws with several models in
turn keeps some that a run does not use: their weights leave memory when others need it
(loaders/memory/residency.py), least recently used first.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Iterable, Iterator, Sequence, Set
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from torch import Tensor

_KEPT_BYTES = 256 << 20  # about 100 long prompts of the full-size model
Result = TypeVar("Result")


class ResultCache(Generic[Result]):
    """Results by content key."""

    def __init__(self, kept_bytes: int = _KEPT_BYTES, models: int = 0) -> None:
        """models: how many results of loaders stay that a run does not use."""
        self._results: dict[str, Result] = {}
        self._kept: OrderedDict[str, Result] = OrderedDict()
        self._models: OrderedDict[str, Result] = OrderedDict()
        self._names: dict[str, str] = {}  # of models, used or not, by their keys
        self.notes: dict[str, Sequence[str]] = {}  # what was said of results that are here
        self._max_bytes, self._max_models = kept_bytes, models

    def __contains__(self, key: str) -> bool:
        return key in self._results or key in self._kept or key in self._models

    def __getitem__(self, key: str) -> Result:
        if key in self._kept:
            self._kept.move_to_end(key)
            return self._kept[key]
        if key in self._models:
            self._results[key] = self._models.pop(key)
        return self._results[key]

    def store_model(self, key: str, result: Result, name: str) -> None:
        """Add the result of a loader. name: equal for what takes its place, when its file is
        another.
        """
        self.drop([old for old, known in self._names.items() if known == name])
        self._results[key], self._names[key] = result, name

    def store(self, key: str, result: Result, keep: bool) -> None:
        """Add a result; keep: it may outlive runs that do not use it."""
        if not keep:
            self._results[key] = result
            return
        self._kept[key] = result
        while len(self._kept) > 1 and sum(map(_nbytes, self._kept.values())) > self._max_bytes:
            self._kept.popitem(last=False)

    def note(self, key: str, notes: Sequence[str]) -> None:
        """Keeps what was said when a result was made, for as long as the result."""
        self.notes = {known: text for known, text in self.notes.items() if known in self}
        if notes and key in self:
            self.notes[key] = notes

    def drop_unused(self, used: Collection[str]) -> None:
        """Drop all results that are not in `used` and are not kept."""
        for key in [key for key in self._results if key not in used]:
            result = self._results.pop(key)
            if key in self._names:
                self._models[key] = result
        while len(self._models) > self._max_models:
            self.drop([next(iter(self._models))])

    def keys(self) -> Set[str]:
        """Of results that a later run drops where it does not use them."""
        return self._results.keys()

    def replace(self, key: str, result: Result) -> None:
        """Put another result in the place of one of `keys`."""
        self._results[key] = result
        self._names.pop(key, None)  # a part of a model is not kept

    def drop(self, keys: Iterable[str | None]) -> None:
        """Drop these, kept ones too."""
        for key in keys:
            if key is not None:
                for place in (self._results, self._kept, self._models, self._names):
                    place.pop(key, None)

    def clear(self) -> None:
        """Drop everything."""
        for place in (self._results, self._kept, self._models, self._names):
            place.clear()


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
