"""Super-blocks of 256 weights: Q2_K to Q6_K, IQ4_XS, TQ1_0, TQ2_0.

A super-block has an f16 scale (and one for minimums) and 8 or 16 sub-blocks with small integers
times that. Every function turns bytes [n, block bytes] into Codes. The comment above it is the C
struct that it reads (ggml-common.h). Scale times sub-scale comes first, as in ggml, so results are
the same bits.
"""

import torch
from torch import Tensor

from .gguf_block_quants import IQ4_LEVELS, nibble_levels
from .gguf_codes import Codes, as_bytes, half, lanes, nibbles, pairs, shifted


# block_q2_K { uint8 scales[16]; uint8 qs[64]; half d, dmin; }
def q2_k(blocks: Tensor) -> Codes:
    """d * scale * q - dmin * minimum; a byte of scales: low nibble scale, high nibble minimum."""
    small = blocks[:, :16]
    scale = (small & 15).float() * half(blocks, 80)
    minimum = (small >> 4).float() * half(blocks, 82).neg()
    return Codes(as_bytes(pairs(lanes(blocks, 16, 80)), 256), scale, minimum)


def _q3_scales(blocks: Tensor) -> Tensor:
    """16 scales of 6 bits: low nibbles in the first 8 bytes, high pairs of bits in the last 4."""
    words = blocks[:, 96:108].view(torch.int16).to(torch.int32) & 0xFFFF
    low, high = words[:, :4], words[:, 4:]
    four, two = 0x0F0F, 0x3030
    scales = torch.cat(
        (
            low[:, :2] & four | high << 4 & two,
            low[:, 2:] & four | high << 2 & two,
            low[:, :2] >> 4 & four | high & two,
            low[:, 2:] >> 4 & four | high >> 2 & two,
        ),
        1,
    )
    return scales.to(torch.int16).view(torch.int8).sub_(32)


# block_q3_K { uint8 hmask[32]; uint8 qs[64]; uint8 scales[12]; half d; }
def q3_k(blocks: Tensor) -> Codes:
    """d * (scale - 32) * q; a bit of hmask that is NOT set subtracts 4 from the code in qs."""
    codes = pairs(lanes(blocks, 32, 96)).view(-1, 8, 4)
    high = lanes(blocks, 0, 32)
    for at in range(8):
        codes[:, at] |= shifted(high, 2 - at, 4)
    scale = _q3_scales(blocks).float() * half(blocks, 108)
    return Codes(as_bytes(codes, 256, torch.int8).sub_(4), scale)


def _six_bits(blocks: Tensor) -> tuple[Tensor, Tensor]:
    """(scale, minimum) [n, 8] from half d, dmin; uint8 scales[12]: 8 pairs of 6-bit numbers."""
    words = blocks[:, 4:16].view(torch.int32)
    first, second, third = words[:, 0], words[:, 1], words[:, 2]
    four, two, six = 0x0F0F0F0F, 0x30303030, 0x3F3F3F3F
    packed = torch.stack(
        (
            first & six,
            third & four | first >> 2 & two,
            second & six,
            third >> 4 & four | second >> 2 & two,
        ),
        1,
    )
    small = packed.view(torch.uint8).view(-1, 2, 8).float() * half(blocks, 0, 2).unsqueeze(2)
    return small[:, 0], small[:, 1].neg()


# block_q4_K { half d, dmin; uint8 scales[12]; uint8 qs[128]; }
def q4_k(blocks: Tensor) -> Codes:
    """d * scale * q - dmin * minimum."""
    return Codes(as_bytes(nibbles(lanes(blocks, 16, 144), 4), 256), *_six_bits(blocks))


# block_q5_K { half d, dmin; uint8 scales[12]; uint8 qh[32]; uint8 qs[128]; }
def q5_k(blocks: Tensor) -> Codes:
    """d * scale * q - dmin * minimum; qh holds the fifth bits: bit number = sub-block number."""
    codes = nibbles(lanes(blocks, 48, 176), 4).view(-1, 8, 4)
    high = lanes(blocks, 16, 48)
    for at in range(8):
        codes[:, at] |= shifted(high, 4 - at, 16)
    return Codes(as_bytes(codes, 256), *_six_bits(blocks))


# block_q6_K { uint8 ql[128]; uint8 qh[64]; int8 scales[16]; half d; }
def q6_k(blocks: Tensor) -> Codes:
    """d * scale * (q - 32); q: a nibble of ql and two bits of qh."""
    codes = nibbles(lanes(blocks, 0, 128), 8).view(-1, 4, 4)
    high = lanes(blocks, 128, 192).view(-1, 4)
    for at in range(4):
        codes[:, at] |= shifted(high, 4 - 2 * at, 0x30)
    scale = blocks[:, 192:208].view(torch.int8).float() * half(blocks, 208)
    return Codes(codes.view(torch.int8).view(-1, 256).sub_(32), scale)


# block_iq4_xs { half d; uint16 scales_h; uint8 scales_l[4]; uint8 qs[128]; }
def iq4_xs(blocks: Tensor) -> Codes:
    """d * (scale - 32) * level; scale: a nibble of scales_l and two bits of scales_h."""
    place = torch.arange(0, 16, 2, device=blocks.device)
    high = blocks[:, 2:4].view(torch.int16) >> place & 3
    low = blocks[:, 4:8].view(torch.int32) >> 2 * place & 15
    scale = (high * 16 + low - 32).float() * half(blocks, 0)
    codes = nibble_levels(blocks[:, 8:].view(-1, 8, 16), IQ4_LEVELS)
    return Codes(codes.view(-1, 256), scale)


# block_tq1_0 { uint8 qs[48]; uint8 qh[4]; half d; }
def tq1_0(blocks: Tensor) -> Codes:
    """d * (q - 1); a byte of qs has five ternary digits, one of qh four, as fractions of 256."""
    digits = []
    for start, stop, count in ((0, 32, 5), (32, 48, 5), (48, 52, 4)):
        digits += [blocks[:, start:stop] * 3**place for place in range(count)]
    fraction = torch.cat(digits, 1)  # the next digit is the whole part of fraction * 3 / 256
    codes = (fraction > 85).to(torch.int8) + (fraction > 170).to(torch.int8)
    return Codes(codes.sub_(1), half(blocks, 52))


# block_tq2_0 { uint8 qs[64]; half d; }
def tq2_0(blocks: Tensor) -> Codes:
    """d * (q - 1)."""
    return Codes(as_bytes(pairs(lanes(blocks, 0, 64)), 256, torch.int8).sub_(1), half(blocks, 64))
