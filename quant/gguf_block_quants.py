"""Blocks of 32 and 64 weights: Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, IQ4_NL, MXFP4, NVFP4.

Every function turns bytes [n, block bytes] into Codes. Source of the layouts: ggml's block
structures; the order of the float32 operations is ggml's, so results are the same bits.
"""

import torch
from torch import Tensor

from .gguf_codes import Codes, as_bytes, half, lanes, look_up, nibbles

# The 16 levels of IQ4, and twice the 16 values of a 4-bit float (e2m1).
IQ4_LEVELS = (-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113)
E2M1_TWICE = (0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12)

# The eight bits of a byte as eight bytes of 0 or 16.
_FIFTH_BITS = tuple(sum((b >> i & 1) << 8 * i + 4 for i in range(8)) for b in range(256))


def _e8m0_half(code: int) -> float:
    """Half of the power of two that a scale byte of MXFP4 stands for; 0 is the lowest."""
    return 2.0 ** (code - 128)


def _ue4m3_half(code: int) -> float:
    """Half of an unsigned e4m3 number; the top bit is ignored, the NaN code counts as 0."""
    exponent, mantissa = code >> 3 & 15, code & 7
    if code == 0x7F:
        return 0.0
    return mantissa * 2.0**-10 if not exponent else (1 + mantissa / 8) * 2.0 ** (exponent - 8)


_E8M0 = tuple(map(_e8m0_half, range(256)))
_UE4M3 = tuple(map(_ue4m3_half, range(256)))


def levels(packed: Tensor, values: tuple[int, ...]) -> Tensor:
    """Bytes [..., w] of two codes each -> the values [..., 2, w]: low codes, then high."""
    found = packed.new_empty(*packed.shape[:-1], 2, packed.shape[-1], dtype=torch.int8)
    index = packed.reshape(-1).int()
    low, high = values * 16, tuple(value for value in values for _ in range(16))
    for half_, table_ in enumerate((low, high)):
        found[..., half_, :] = look_up(table_, index, torch.int8).view(packed.shape)
    return found


def q4_0(blocks: Tensor) -> Codes:
    """d f16; 16 bytes of nibbles: d * (q - 8)."""
    codes = as_bytes(nibbles(lanes(blocks, 2, 18), 2), 32, torch.int8)
    return Codes(codes.sub_(8), half(blocks, 0))


def q4_1(blocks: Tensor) -> Codes:
    """d, m f16; 16 bytes of nibbles: d * q + m."""
    codes = as_bytes(nibbles(lanes(blocks, 4, 20), 2), 32)
    return Codes(codes, half(blocks, 0), half(blocks, 2))


def _five_bits(blocks: Tensor, start: int) -> Tensor:
    """Four bytes of high bits, then 16 of nibbles, as lanes of codes 0..31."""
    high = look_up(_FIFTH_BITS, blocks[:, start : start + 4], torch.int64)
    codes = nibbles(lanes(blocks, start + 4, start + 20), 2).view(-1, 4)
    return codes.bitwise_or_(high)


def q5_0(blocks: Tensor) -> Codes:
    """d f16; 32 high bits; 16 bytes of nibbles: d * (q - 16)."""
    return Codes(as_bytes(_five_bits(blocks, 2), 32, torch.int8).sub_(16), half(blocks, 0))


def q5_1(blocks: Tensor) -> Codes:
    """d, m f16; 32 high bits; 16 bytes of nibbles: d * q + m."""
    return Codes(as_bytes(_five_bits(blocks, 4), 32), half(blocks, 0), half(blocks, 2))


def q8_0(blocks: Tensor) -> Codes:
    """d f16; 32 int8: d * q."""
    return Codes(blocks[:, 2:].view(torch.int8), half(blocks, 0))


def iq4_nl(blocks: Tensor) -> Codes:
    """d f16; 16 bytes of nibbles, each the number of a level: d * level."""
    return Codes(levels(blocks[:, 2:], IQ4_LEVELS).view(-1, 32), half(blocks, 0))


def mxfp4(blocks: Tensor) -> Codes:
    """A power of two as one byte; 16 bytes of nibbles, each an e2m1 number."""
    scale = look_up(_E8M0, blocks[:, :1], torch.float32)
    return Codes(levels(blocks[:, 1:], E2M1_TWICE).view(-1, 32), scale)


def nvfp4(blocks: Tensor) -> Codes:
    """Four scales, e4m3 without sign; for each 8 bytes of nibbles, each an e2m1 number."""
    scale = look_up(_UE4M3, blocks[:, :4], torch.float32)
    packed = blocks[:, 4:].view(-1, 4, 8)
    return Codes(levels(packed, E2M1_TWICE).view(-1, 64), scale)
