"""Blocks of 32 and 64 weights: Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, IQ4_NL, MXFP4, NVFP4.

Every function turns bytes [n, block bytes] into Codes. The comment above it is the C struct that it
reads (ggml-common.h). The order of the float32 operations is ggml's, so results are the same bits.
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
    """Half of the power of two that a scale byte of MXFP4 means; 0 is the lowest."""
    return 2.0 ** (code - 128)


def _ue4m3_half(code: int) -> float:
    """Half of an unsigned e4m3 number; the top bit is ignored, the NaN code counts as 0."""
    exponent, mantissa = code >> 3 & 15, code & 7
    if code == 0x7F:
        return 0.0
    return mantissa * 2.0**-10 if not exponent else (1 + mantissa / 8) * 2.0 ** (exponent - 8)


_E8M0 = tuple(map(_e8m0_half, range(256)))
_UE4M3 = tuple(map(_ue4m3_half, range(256)))


def nibble_levels(packed: Tensor, values: tuple[int, ...]) -> Tensor:
    """Bytes [..., w] of two codes each -> the values [..., 2, w]: low codes, then high."""
    levels = packed.new_empty(*packed.shape[:-1], 2, packed.shape[-1], dtype=torch.int8)
    index = packed.reshape(-1).int()
    low, high = values * 16, tuple(value for value in values for _ in range(16))
    for nibble, table in enumerate((low, high)):
        levels[..., nibble, :] = look_up(table, index, torch.int8).view(packed.shape)
    return levels


# block_q4_0 { half d; uint8 qs[16]; }
def q4_0(blocks: Tensor) -> Codes:
    """d * (q - 8); q: low nibbles, then high."""
    codes = as_bytes(nibbles(lanes(blocks, 2, 18), 2), 32, torch.int8)
    return Codes(codes.sub_(8), half(blocks, 0))


# block_q4_1 { half d, m; uint8 qs[16]; }
def q4_1(blocks: Tensor) -> Codes:
    """d * q + m; q: low nibbles, then high."""
    codes = as_bytes(nibbles(lanes(blocks, 4, 20), 2), 32)
    return Codes(codes, half(blocks, 0), half(blocks, 2))


def _five_bits(blocks: Tensor, start: int) -> Tensor:
    """uint8 qh[4], the fifth bit of each weight, and uint8 qs[16] as lanes of codes 0..31."""
    high = look_up(_FIFTH_BITS, blocks[:, start : start + 4], torch.int64)
    codes = nibbles(lanes(blocks, start + 4, start + 20), 2).view(-1, 4)
    return codes.bitwise_or_(high)


# block_q5_0 { half d; uint8 qh[4]; uint8 qs[16]; }
def q5_0(blocks: Tensor) -> Codes:
    """d * (q - 16); q: a nibble and its bit of qh."""
    return Codes(as_bytes(_five_bits(blocks, 2), 32, torch.int8).sub_(16), half(blocks, 0))


# block_q5_1 { half d, m; uint8 qh[4]; uint8 qs[16]; }
def q5_1(blocks: Tensor) -> Codes:
    """d * q + m; q: a nibble and its bit of qh."""
    return Codes(as_bytes(_five_bits(blocks, 4), 32), half(blocks, 0), half(blocks, 2))


# block_q8_0 { half d; int8 qs[32]; }
def q8_0(blocks: Tensor) -> Codes:
    """d * q."""
    return Codes(blocks[:, 2:].view(torch.int8), half(blocks, 0))


# block_iq4_nl { half d; uint8 qs[16]; }
def iq4_nl(blocks: Tensor) -> Codes:
    """d * level; a nibble is the number of its level."""
    return Codes(nibble_levels(blocks[:, 2:], IQ4_LEVELS).view(-1, 32), half(blocks, 0))


# block_mxfp4 { uint8 e; uint8 qs[16]; }
def mxfp4(blocks: Tensor) -> Codes:
    """2^(e - 128) * twice the e2m1 number of a nibble."""
    scale = look_up(_E8M0, blocks[:, :1], torch.float32)
    return Codes(nibble_levels(blocks[:, 1:], E2M1_TWICE).view(-1, 32), scale)


# block_nvfp4 { uint8 d[4]; uint8 qs[32]; }
def nvfp4(blocks: Tensor) -> Codes:
    """d * the e2m1 number of a nibble; d: unsigned e4m3, one for every 8 bytes of qs."""
    scale = look_up(_UE4M3, blocks[:, :4], torch.float32)
    packed = blocks[:, 4:].view(-1, 4, 8)
    return Codes(nibble_levels(packed, E2M1_TWICE).view(-1, 64), scale)
