"""The tensors of one packed layer: look up, compare with what its format needs, read, check.

A layer is a name without `.weight`; everything that belongs to it is that name and a suffix. Every
finder asks here, so that a missing scale, a wrong shape or a NaN is the same sentence everywhere.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from ..errors import InkstoneError
from .storage import PackedWeight, Storage, WeightSource

DOWNLOAD_AGAIN = (
    "The file is damaged or was made by a faulty tool: download it again, or use another file."
)
FLOATS = frozenset({torch.float32, torch.float16, torch.bfloat16, torch.float64})
BYTES = frozenset({torch.uint8, torch.int8})
MAX_JSON = 1 << 20  # bytes of a layer's settings that are still believable
MAX_NUMBER = 1 << 20  # the same for a block or group size in them


class PackedParts:
    """The tensors of a file under our names. `table` maps them to the file's."""

    def __init__(self, source: WeightSource, table: Mapping[str, str]) -> None:
        self.source, self.table = source, table

    def __contains__(self, name: str) -> bool:
        return name in self.table

    def fault(self, layer: str, problem: str, remedy: str = DOWNLOAD_AGAIN) -> InkstoneError:
        """The exception for a layer: file, layer, what is wrong, what to do."""
        return InkstoneError(f"{self.source.path}: layer {layer}: {problem}. {remedy}")

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(self.source.entries[self.table[name]].shape)

    def matrix_shape(self, name: str) -> tuple[int, int]:
        """The shape of a part that `matrix` named."""
        rows, columns = self.shape(name)
        return rows, columns

    def dtype(self, name: str) -> torch.dtype:
        return self.source.entries[self.table[name]].dtype

    def nbytes(self, *names: str) -> int:
        """Bytes of tensors as they lie in the file."""
        return sum(math.prod(self.shape(n)) * self.dtype(n).itemsize for n in names)

    def layers(self, suffix: str) -> list[str]:
        """Layers that have a tensor of this suffix (with its dot), in the table's order."""
        return [name.removesuffix(suffix) for name in self.table if name.endswith(suffix)]

    def present(self, layer: str, suffixes: Sequence[str]) -> tuple[str, ...]:
        """Names of the parts of a layer that the file has."""
        return tuple(name for s in suffixes if (name := layer + s) in self.table)

    def need(
        self,
        layer: str,
        suffix: str,
        shape: tuple[int, ...] | None = None,
        dtypes: Collection[torch.dtype] = FLOATS,
    ) -> str:
        """The name of a part that must be there, with this shape (1s do not count) and type."""
        name = layer + suffix
        if name not in self.table:
            raise self.fault(layer, f"tensor {name} is missing, which its format needs")
        if self.dtype(name) not in dtypes:
            expected = " or ".join(sorted(str(d).removeprefix("torch.") for d in dtypes))
            got = str(self.dtype(name)).removeprefix("torch.")
            raise self.fault(layer, f"tensor {name} holds {got}, expected {expected}")
        if shape is not None and _bare(self.shape(name)) != _bare(shape):
            raise self.fault(
                layer, f"tensor {name} has shape {list(self.shape(name))}, expected {list(shape)}"
            )
        return name

    def matrix(self, layer: str, dtypes: Collection[torch.dtype], suffix: str = ".weight") -> str:
        """The name of a part that must be a matrix with rows and columns."""
        name = self.need(layer, suffix, dtypes=dtypes)
        if len(self.shape(name)) != 2 or 0 in self.shape(name):
            raise self.fault(
                layer, f"tensor {name} has shape {list(self.shape(name))}, expected a matrix"
            )
        return name

    def rows_of_bias(self, layer: str) -> int:
        """Rows of a layer's matrix by its bias, which must be a vector."""
        shape = self.shape(layer + ".bias")
        if len(shape) != 1 or not shape[0]:
            raise self.fault(
                layer, f"tensor {layer}.bias has shape {list(shape)}, expected one number per row"
            )
        return shape[0]

    def read(self, name: str, dtype: torch.dtype | None = None) -> Tensor:
        return self.source.read(self.table[name], dtype=dtype)

    def cut(self, name: str, start: int, stop: int) -> Tensor:
        """Bytes start .. stop - 1 of a part, as uint8; only these are read where the reader can."""
        read_bytes: Callable[[str, int, int], Tensor] | None
        read_bytes = getattr(self.source, "read_bytes", None)
        if read_bytes is not None:
            return read_bytes(self.table[name], start, stop)
        return self.read(name).flatten().view(torch.uint8)[start:stop].clone()

    def floats(self, layer: str, name: str) -> Tensor:
        """A part as float32, every number of it finite (e4m3 and e8m0 scales too)."""
        numbers = self.read(name).float()
        bad = ~numbers.isfinite()
        if bool(bad.any()):
            at = int(bad.flatten().nonzero()[0])
            value = float(numbers.flatten()[at])
            raise self.fault(layer, f"tensor {name} has {value} at element {at}")
        return numbers

    def settings(self, layer: str, name: str) -> dict[str, object]:
        """A U8 tensor that holds a JSON object in UTF-8."""
        self.need(layer, name.removeprefix(layer), dtypes=BYTES)
        if self.nbytes(name) > MAX_JSON:
            raise self.fault(
                layer,
                f"tensor {name} has {self.nbytes(name)} bytes of settings, "
                f"expected at most {MAX_JSON}",
            )
        text = bytes(self.read(name).view(torch.uint8).flatten().tolist())
        return self.json_object(layer, name, text)

    def whole_number(
        self, layer: str, settings: Mapping[str, object], key: str, default: int | None = None
    ) -> int:
        """A setting that must be a whole number above 0."""
        value = settings.get(key, default)
        if type(value) is not int or not 0 < value <= MAX_NUMBER:
            raise self.fault(layer, f"its {key} is {value!r}, expected a whole number above 0")
        return value

    def json_object(self, layer: str, name: str, text: str | bytes) -> dict[str, object]:
        """Parsed JSON that must be an object."""
        try:
            value = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise self.fault(layer, f"{name} is not readable as JSON ({error})") from None
        if not isinstance(value, dict):
            kind = type(value).__name__
            raise self.fault(layer, f"{name} should hold a JSON object, got {kind}")
        return value


def in_full_precision(weight: PackedWeight) -> PackedWeight:
    """The same weight, marked at load: its file asks for products in full precision."""

    def load() -> Storage:
        storage = weight.load()
        storage.full_precision = True
        return storage

    return replace(weight, load=load)


def _bare(shape: Sequence[int]) -> tuple[int, ...]:
    """A shape without its axes of length 1: scales are stored as (), (1) or (N, 1) alike."""
    return tuple(n for n in shape if n != 1)
