"""Codes of quantized blocks and the ways to unpack them, eight bytes of a block at a time.

Unusual: bytes are handled as 64-bit lanes. A shift and a mask then work on eight codes at once,
which in torch is 2-3 times faster than on bytes; what a shift carries over from the neighbouring
byte is cut off by the mask. Lanes mean a little-endian machine, as the files do.
"""

from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor

NIBBLE = 0x0F0F0F0F0F0F0F0F
BYTE = 0x0101010101010101  # times a byte's value: that value in all eight


class Codes(NamedTuple):
    """Weights as codes * scale + minimum: [n, block] of (u)int8, and [n, groups] of float32."""

    codes: Tensor
    scale: Tensor
    minimum: Tensor | None = None


def lanes(blocks: Tensor, start: int, stop: int) -> Tensor:
    """Bytes start..stop of every block as int64 [n, (stop - start) / 8]."""
    part = blocks[:, start:stop]
    if part.stride(0) % 8 or part.storage_offset() % 8:
        # not contiguous(): that does nothing for a single block, whatever its stride
        part = part.clone(memory_format=torch.contiguous_format)
    return part.view(torch.int64)


def half(blocks: Tensor, *starts: int) -> Tensor:
    """The f16 numbers that begin at these bytes of every block as float32 [n, len(starts)]."""
    numbers = [blocks[:, at : at + 2].view(torch.float16) for at in starts]
    return (numbers[0] if len(numbers) == 1 else torch.cat(numbers, 1)).float()


def nibbles(packed: Tensor, group: int) -> Tensor:
    """[n, w] lanes -> [n, w / group, 2, group]: of every group the low halves, then the high."""
    packed = packed.view(packed.shape[0], -1, group)
    codes = packed.new_empty(*packed.shape[:2], 2, group)
    torch.bitwise_and(packed, NIBBLE, out=codes[:, :, 0])
    torch.bitwise_and(packed >> 4, NIBBLE, out=codes[:, :, 1])
    return codes


def shifted(packed: Tensor, left: int, mask: int) -> Tensor:
    """packed << left (a right shift if negative), every byte cut to `mask`."""
    if left:
        packed = packed << left if left > 0 else packed >> -left
    return packed & mask * BYTE


def pairs(packed: Tensor) -> Tensor:
    """[n, w] lanes of 2-bit codes, four to a byte -> [n, w / 4, 4, 4]: one plane per position."""
    packed = packed.view(packed.shape[0], -1, 4)
    codes = packed.new_empty(*packed.shape[:2], 4, 4)
    for at in range(4):
        torch.bitwise_and(packed >> 2 * at, 3 * BYTE, out=codes[:, :, at])
    return codes


def as_bytes(codes: Tensor, block: int, dtype: torch.dtype = torch.uint8) -> Tensor:
    """Lanes of any shape as [n, block] bytes."""
    return codes.view(dtype).view(codes.shape[0], block)


@cache
def table(values: tuple[int | float, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """A lookup table, cached per device, since making one takes longer than using it."""
    with torch.inference_mode(False):
        return torch.tensor(values, dtype=dtype, device=device)


def look_up(values: tuple[int | float, ...], index: Tensor, dtype: torch.dtype) -> Tensor:
    """values[index] in the shape of `index` (bytes)."""
    numbers = table(values, dtype, index.device).index_select(0, index.reshape(-1).int())
    return numbers.view(index.shape)
