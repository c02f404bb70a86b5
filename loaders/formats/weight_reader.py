"""The interface of every open weight file, and what all readers do the same way."""

from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor

from ...errors import InkstoneError
from .safetensors_header import TensorEntry, show

Entry = TypeVar("Entry", bound=TensorEntry)
Self = TypeVar("Self", bound="Closable")


class Closable:
    """A context manager that closes what it holds."""

    def __enter__(self: Self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes all files; reading afterwards is an error."""
        raise NotImplementedError


class WeightReader(Closable):
    """A validated weight file: `entries` and `metadata` are ready at once, data is read later.

    Safe to read from several threads. Raises InkstoneError for every fault of a file. A subclass
    opens its file and implements `_read_into`.
    """

    path: Path
    entries: Mapping[str, TensorEntry]
    metadata: Mapping[str, str]

    def read(
        self, name: str, out: Tensor | None = None, dtype: torch.dtype | None = None
    ) -> Tensor:
        """Reads one tensor, into `out` (any device, same shape) or a new CPU tensor.

        The result has `dtype`, else out's dtype, else the `read_dtype` of the entry; unpacked or
        converted in chunks of 1 MiB.
        """
        entry = find_entry(self.path, self.entries, name)
        if out is None:
            out = torch.empty(entry.shape, dtype=dtype or entry.read_dtype)
        _check_target(self.path, name, entry.shape, out, dtype)
        if not out.is_contiguous():
            with torch.no_grad():
                return out.copy_(self.read(name, dtype=out.dtype))
        self._read_into(name, out)
        return out

    def read_rows(
        self, name: str, start: int, stop: int, dtype: torch.dtype | None = None
    ) -> Tensor:
        """Rows start .. stop - 1 of a matrix; of plain numbers no others are read."""
        return self.read(name, dtype=dtype)[start:stop].clone()

    def _read_into(self, name: str, out: Tensor) -> None:
        """Fills a contiguous tensor of the right shape."""
        raise NotImplementedError


def find_entry(path: Path, entries: Mapping[str, Entry], name: str) -> Entry:
    """The entry of a tensor; InkstoneError with similar names where there is none."""
    entry = entries.get(name)
    if entry is None:
        similar = ", ".join(get_close_matches(name, entries, 3)) or "nothing similar"
        raise InkstoneError(
            f"{path}: no tensor {show(name)} among {len(entries)}; it has {similar}. "
            "Check which model the file is with `inkstone inspect`."
        )
    return entry


def _check_target(
    path: Path, name: str, shape: tuple[int, ...], out: Tensor, dtype: torch.dtype | None
) -> None:
    if tuple(out.shape) != shape or dtype not in (None, out.dtype):
        requested = f" (requested: {dtype})" if dtype else ""
        raise InkstoneError(
            f"{path}: tensor {name} {list(shape)} cannot be read into "
            f"{list(out.shape)} {out.dtype}{requested}. Pass a tensor of the same shape and dtype."
        )
