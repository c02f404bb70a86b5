"""Storages whose rows are computed in float32 chunk by chunk, and the tools that they share.

Unusual: two 4-bit codes are looked up at once. A table of 256 entries holds pairs of float32 as
int64, so a byte becomes two weights by one index: twice as fast as shifts, masks and a multiply,
and the same for every code (signed, unsigned, float, codebook).
"""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor

from .storage import ON_DEVICE, Storage

AT_ONCE = 1 << 17  # weights computed at once: half a MiB of float32 stays in the cache
Rows = slice | Tensor  # rows of a matrix: a range, or an index [n]

INT4 = tuple(float(q - 16 if q > 7 else q) for q in range(16))  # two's complement
E2M1 = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, -0.0, -0.5, -1.0, -1.5, -2.0, -3.0, -4.0, -6.0)


class ChunkedStorage(Storage):
    """Base of storages that only fill float32 rows; chunks and other types are handled here."""

    def fill(self, rows: Rows, out: Tensor) -> None:
        """Write these rows into out [n, K], contiguous float32."""
        raise NotImplementedError

    def rows_into(self, start: int, out: Tensor) -> Tensor:
        for at in range(0, len(out), self._step):
            part = out[at : at + self._step]
            self._convert(slice(start + at, start + at + len(part)), part)
        return out

    def gather(self, index: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        out = torch.empty(len(index), self.shape[1], dtype=dtype, device=self.device)
        index = index.to(self.device)
        for at in range(0, len(index), self._step):
            self._convert(index[at : at + self._step], out[at : at + self._step])
        return out

    @property
    def _step(self) -> int:
        at_once = AT_ONCE if self.device.type == "cpu" else ON_DEVICE
        return max(1, at_once // self.shape[1])

    def _convert(self, rows: Rows, out: Tensor) -> None:
        if out.dtype == torch.float32 and out.is_contiguous():
            self.fill(rows, out)
            return
        work = torch.empty(out.shape, dtype=torch.float32, device=out.device)
        self.fill(rows, work)
        out.copy_(work)


def pair_table(levels: Tensor, high_first: bool = False) -> Tensor:
    """The numbers of 16 codes [16] -> [256] int64: the two numbers of every byte as float32."""
    byte = torch.arange(256, device=levels.device)
    first, second = byte & 15, byte >> 4
    if high_first:
        first, second = second, first
    levels = levels.float()
    return torch.stack([levels[first], levels[second]], 1).view(torch.int64).view(-1)


@cache
def known_pairs(levels: tuple[float, ...], high_first: bool, device: torch.device) -> Tensor:
    """`pair_table`, cached: for levels that many storages share."""
    with torch.inference_mode(False):
        return pair_table(torch.tensor(levels, device=device), high_first)


def look_up_pairs(table: Tensor, codes: Tensor, out: Tensor) -> Tensor:
    """Bytes [n, K/2] of two codes each -> out [n, K] float32, contiguous."""
    into = out.view(torch.int64).view(-1)
    torch.index_select(table, 0, codes.reshape(-1).int(), out=into)
    return out


def scale_groups(out: Tensor, scale: Tensor) -> Tensor:
    """out [n, K] *= scale [n, groups], each for K / groups neighbours."""
    out.view(*scale.shape, -1).mul_(scale.unsqueeze(-1))
    return out


@cache
def hadamard(size: int, device: torch.device) -> Tensor:
    """The regular Hadamard matrix of ConvRot [size, size], entries 1 and -1: symmetric, and its own
    inverse but for the factor 1 / size."""
    rows = [[1, 1, 1, -1], [1, 1, -1, 1], [1, -1, 1, 1], [-1, 1, 1, 1]]
    with torch.inference_mode(False):
        h = four = torch.tensor(rows, dtype=torch.float32, device=device)
        while len(h) < size:
            h = torch.kron(h, four)
        return h


def rotate_back(out: Tensor, group: int) -> Tensor:
    """Undo ConvRot in place, times sqrt(group): every `group` neighbours times the matrix.

    It is exact on integers, whatever the order in which a product adds: so codes are rotated first
    and scaled after.
    """
    grouped = out.view(-1, group)
    return out.copy_((grouped @ hadamard(group, out.device).to(out.dtype)).view(out.shape))
