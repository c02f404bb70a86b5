"""Weights of GGUF files as they lie there, and how to find them in a file.

Unusual: nothing is repacked. The blocks of a row follow each other in the file, so any rows, and
the rows that an embedding is asked for, are unpacked by themselves.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial
from typing import Protocol, TypeGuard, cast

import torch
from torch import Tensor

from .gguf_dequantizer import compiled, dequantize
from .gguf_types import BlockType
from .storage import PackedWeight, PlainStorage, Storage, WeightEntry, WeightSource


class BlockEntry(WeightEntry, Protocol):
    """One tensor in the header of a GGUF file."""

    @property
    def kind(self) -> BlockType: ...

    @property
    def factor(self) -> float: ...


class BlockSource(WeightSource, Protocol):
    """An open GGUF file."""

    def raw(self, name: str) -> Tensor:
        """The blocks of a tensor as bytes, one row of them per row."""


def has_blocks(entry: WeightEntry) -> TypeGuard[BlockEntry]:
    """True if an entry is of a GGUF file, so that its type is one of BlockType."""
    return getattr(entry, "kind", None) is not None


class GGUFStorage(Storage):
    """A matrix in blocks of one type: `raw` uint8 [out, bytes of a row].

    `factor` multiplies all of it (the second scale of NVFP4, a tensor of its own in files).
    """

    raw: Tensor

    def __init__(
        self, raw: Tensor, kind: BlockType, shape: tuple[int, int], factor: float = 1.0
    ) -> None:
        super().__init__(shape)
        self.format, self.kind, self.factor = kind.name, kind, factor
        self.register_buffer("raw", raw)

    def compiled(self, dtype: torch.dtype) -> bool:
        return compiled(self.kind, dtype, math.prod(self.shape))

    def rows_into(self, start: int, out: Tensor) -> Tensor:
        return self._unpack(self.raw[start : start + len(out)], out)

    def gather(self, index: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        out = torch.empty(len(index), self.shape[1], dtype=dtype, device=self.device)
        return self._unpack(self.raw.index_select(0, index.to(self.device)), out)

    def rows(self, start: int, stop: int) -> GGUFStorage:
        shape = stop - start, self.shape[1]
        return GGUFStorage(self.raw[start:stop], self.kind, shape, self.factor)

    def _unpack(self, raw: Tensor, out: Tensor) -> Tensor:
        return dequantize(raw, self.kind, out, factor=self.factor)


def _load(source: WeightSource, name: str, entry: BlockEntry, shape: tuple[int, int]) -> Storage:
    if not _whole_rows(entry):
        return PlainStorage(source.read(name, dtype=torch.bfloat16))
    file = cast(BlockSource, source)  # only GGUF files have such entries
    return GGUFStorage(file.raw(name), entry.kind, shape, entry.factor)


def _whole_rows(entry: BlockEntry) -> bool:
    """True if rows can stay packed: a row is whole blocks, of a type that we unpack ourselves.

    The others (codebook types, and matrices that were cut into other rows) are unpacked at load,
    to bfloat16: its rounding is far below the error of the types that have codebooks.
    """
    return not entry.kind.codebook and entry.shape[1] % entry.kind.block == 0


def find_gguf(source: WeightSource, table: Mapping[str, str]) -> dict[str, PackedWeight]:
    """The packed matrices of a GGUF file by our names. `table`: our name -> the file's.

    Empty for files of other containers. Floats, vectors and kernels are left to `source.read`,
    which gives floats whatever the type.
    """
    weights = {}
    for ours, name in table.items():
        entry = source.entries[name]
        if not has_blocks(entry) or not entry.kind.packed or len(entry.shape) != 2:
            continue
        shape = (entry.shape[0], entry.shape[1])
        weights[ours] = PackedWeight(
            name=ours,
            shape=shape,
            format=entry.kind.name,
            nbytes=entry.nbytes if _whole_rows(entry) else 2 * entry.numel,
            parts=(ours,),
            load=partial(_load, source, name, entry, shape),
        )
    return weights
