"""Weights in the form that they have in a file: the common base of all storage formats.

A network holds such a storage in place of a float parameter. It knows its shape and how to write
any of its rows as floats; the linear door (kernels/linear.py) asks for as many rows as stay in the
cache and multiplies. Formats are detected by the content of a file (`registry.py`), never by its
name. All that this module knows of a file is the small interface `WeightSource`, so nothing here
imports a reader.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor, nn

from .int8_rows import Int8Rows

# weights unpacked at once on a device, where each operation is launched, which costs microseconds;
# on a CPU each format takes as many as stay in the cache
ON_DEVICE = 1 << 22


class WeightEntry(Protocol):
    """One tensor in the header of a file, its data not read."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def dtype(self) -> torch.dtype: ...

    @property
    def nbytes(self) -> int: ...

    @property
    def numel(self) -> int: ...


class WeightSource(Protocol):
    """The part of an open weight file that a format needs (loaders/formats: safetensors, gguf)."""

    @property
    def path(self) -> Path: ...

    @property
    def entries(self) -> Mapping[str, WeightEntry]: ...

    @property
    def metadata(self) -> Mapping[str, str]: ...

    def read(
        self, name: str, out: Tensor | None = None, dtype: torch.dtype | None = None
    ) -> Tensor:
        """One tensor as it lies in the file, or converted."""


class Storage(nn.Module):
    """A matrix [out, in] that is kept packed. Subclasses hold their tensors as buffers.

    `format` is its name in log lines ("Q4_K", "fp8 e4m3 scaled"), `shape` that of the plain weight.
    """

    format: str = ""
    full_precision: bool = False  # the file asks for products of floats, not of rounded inputs

    def __init__(self, shape: tuple[int, int]) -> None:
        super().__init__()
        self.shape = shape

    def rows_into(self, start: int, out: Tensor) -> Tensor:
        """Write rows start .. start + len(out) as floats into out [n, in] of any float type.

        Computed in float32 (or exactly as the format's reference does), rounded to out's type last.
        """
        raise NotImplementedError

    def compiled(self, dtype: torch.dtype) -> bool:
        """True if `rows_into` is one call of code that needs no threads of torch's, so that several
        of them run side by side."""
        return False

    def int8_rows(self) -> Int8Rows | None:
        """Its own codes where they are int8 with a scale for each row."""
        return None

    def dequantize(self, dtype: torch.dtype = torch.float32) -> Tensor:
        """The whole matrix [out, in]."""
        out = torch.empty(self.shape, dtype=dtype, device=self.device)
        return self.rows_into(0, out)

    def gather(self, index: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        """Rows of an embedding: index [n] -> [n, in]. Only these rows are unpacked."""
        out = torch.empty(len(index), self.shape[1], dtype=dtype, device=self.device)
        for at, row in enumerate(index.tolist()):
            self.rows_into(row, out[at : at + 1])
        return out

    def rows(self, start: int, stop: int) -> Storage:
        """Rows start .. stop - 1 as a storage of the same format, whose tensors are views of this
        one's."""
        raise NotImplementedError

    @property
    def device(self) -> torch.device:
        """The device of its tensors."""
        return next(self.buffers()).device

    @property
    def nbytes(self) -> int:
        """Bytes that it holds in memory."""
        return sum(b.numel() * b.element_size() for b in self.buffers())


def matrix_shape(tensor: Tensor) -> tuple[int, int]:
    """The shape of a tensor that has two axes."""
    rows, columns = tensor.shape
    return rows, columns


class PlainStorage(Storage):
    """A float matrix in a narrower type than is computed in: bf16, fp16, fp8 without scales."""

    weight: Tensor

    def __init__(self, weight: Tensor) -> None:
        super().__init__(matrix_shape(weight))
        self.format = str(weight.dtype).removeprefix("torch.")
        self.register_buffer("weight", weight)

    def compiled(self, dtype: torch.dtype) -> bool:
        return True

    def rows_into(self, start: int, out: Tensor) -> Tensor:
        return out.copy_(self.weight[start : start + len(out)])

    def gather(self, index: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        return self.weight[index].to(dtype)

    def rows(self, start: int, stop: int) -> PlainStorage:
        return PlainStorage(self.weight[start:stop])


@dataclass(frozen=True)
class PackedWeight:
    """A weight that a file holds in some format, not loaded yet.

    `load` reads it (again at every call: that is how weights are streamed from disk).
    """

    name: str  # our name, e.g. transformer_blocks.0.attn.to_q.weight
    shape: tuple[int, int]
    format: str
    nbytes: int  # in memory once loaded
    parts: tuple[str, ...]  # our names of all tensors that belong to it, including the weight
    load: Callable[[], Storage] = field(repr=False)
    # the plain bias [out] where the file has it in another form or under another name; else None,
    # and the layer's `.bias` is read as it is
    bias: Callable[[], Tensor] | None = field(default=None, repr=False)
