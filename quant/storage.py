"""Weights in the form that they have in a file: what every storage format has in common.

A network holds such a storage in place of a float parameter. It knows its shape and how to write
any of its rows as floats; the linear door (kernels/linear.py) asks for as many rows as stay in the
cache and multiplies. Formats are found by what a file holds (`registry.py`), never by its name.
What this module knows of a file is the small interface `Source`, so nothing here imports a reader.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor, nn


class WeightSource(Protocol):
    """What a format needs of an open weight file (loaders.safetensors_file, loaders.gguf_file)."""

    path: Any
    entries: Mapping[str, Any]  # name -> entry with .shape, .dtype, .nbytes
    metadata: Mapping[str, str]

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
        """Writes rows start .. start + len(out) as floats into out [n, in] of any float type.

        Computed in float32 (or exactly as the format's reference does), rounded to out's type last.
        """
        raise NotImplementedError

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

    @property
    def device(self) -> torch.device:
        """Where its tensors are."""
        return next(self.buffers()).device

    @property
    def nbytes(self) -> int:
        """Bytes that it holds in memory."""
        return sum(b.numel() * b.element_size() for b in self.buffers())


class PlainStorage(Storage):
    """A float matrix in a narrower type than is computed in: bf16, fp16, fp8 without scales."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__(tuple(weight.shape))
        self.format = str(weight.dtype).removeprefix("torch.")
        self.register_buffer("weight", weight)

    def rows_into(self, start: int, out: Tensor) -> Tensor:
        return out.copy_(self.weight[start : start + len(out)])

    def gather(self, index: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        return self.weight[index].to(dtype)


@dataclass(frozen=True)
class PackedWeight:
    """A weight that a file holds in some format, not loaded yet.

    `load` reads it (again at every call: that is how weights are streamed from disk).
    """

    name: str  # our name, e.g. transformer_blocks.0.attn.to_q.weight
    shape: tuple[int, int]
    format: str
    nbytes: int  # in memory once loaded
    parts: tuple[str, ...]  # our names of all tensors that belong to it, the weight's included
    load: Any = field(repr=False)  # () -> Storage
    # () -> the plain bias [out], where the file has it in another form or under another name; else
    # None, and the layer's `.bias` is read as it is
    bias: Any = field(default=None, repr=False)
