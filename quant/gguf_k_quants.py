"""Super-blocks of 256 weights: Q2_K to Q6_K, IQ4_XS, TQ1_0, TQ2_0.

A super-block has an f16 scale (and one for minimums) and 8 or 16 sub-blocks with small integers
times that. Every function turns bytes [n, block bytes] into Codes. Source of the layouts: ggml's
block structures; scale times sub-scale comes first, as there, so results are the same bits.
"""

import torch
from torch import Tensor

from .gguf_block_quants import IQ4_LEVELS, levels
from .gguf_codes import Codes, as_bytes, half, lanes, nibbles, pairs, shifted


def q2_k(blocks: Tensor) -> Codes:
    """16 bytes of scale and minimum, 4 bits each; 64 bytes of 2-bit codes; d, dmin f16."""
    small = blocks[:, :16]
    scale = (small & 15).float() * half(blocks, 80)
    minimum = (small >> 4).float() * half(blocks, 82).neg()
    return Codes(as_bytes(pairs(lanes(blocks, 16, 80)), 256), scale, minimum)


def _q3_scales(blocks: Tensor) -> Tensor:
    """16 scales of 6 bits in 12 bytes: low nibbles in the first 8, high pairs in the last 4."""
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


def q3_k(blocks: Tensor) -> Codes:
    """32 bytes of high bits; 64 of 2-bit codes; 12 of 6-bit scales; d f16.

    The high bit subtracts 4 where it is NOT set.
    """
    codes = pairs(lanes(blocks, 32, 96)).view(-1, 8, 4)
    high = lanes(blocks, 0, 32)
    for at in range(8):
        codes[:, at] |= shifted(high, 2 - at, 4)
    scale = _q3_scales(blocks).float() * half(blocks, 108)
    return Codes(as_bytes(codes, 256, torch.int8).sub_(4), scale)


def _six_bits(blocks: Tensor) -> tuple[Tensor, Tensor]:
    """(scale, minimum) [n, 8] from d, dmin f16 and 12 bytes of 8 x (scale, minimum) of 6 bits."""
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


def q4_k(blocks: Tensor) -> Codes:
    """d, dmin f16; 12 bytes of 6-bit scales and minimums; 128 bytes of nibbles."""
    return Codes(as_bytes(nibbles(lanes(blocks, 16, 144), 4), 256), *_six_bits(blocks))


def q5_k(blocks: Tensor) -> Codes:
    """As Q4_K, with 32 bytes of fifth bits before the nibbles."""
    codes = nibbles(lanes(blocks, 48, 176), 4).view(-1, 8, 4)
    high = lanes(blocks, 16, 48)
    for at in range(8):
        codes[:, at] |= shifted(high, 4 - at, 16)
    return Codes(as_bytes(codes, 256), *_six_bits(blocks))


def q6_k(blocks: Tensor) -> Codes:
    """128 bytes of nibbles; 64 of high pairs; 16 int8 scales; d f16: d * scale * (q - 32)."""
    codes = nibbles(lanes(blocks, 0, 128), 8).view(-1, 4, 4)
    high = lanes(blocks, 128, 192).view(-1, 4)
    for at in range(4):
        codes[:, at] |= shifted(high, 4 - 2 * at, 0x30)
    scale = blocks[:, 192:208].view(torch.int8).float() * half(blocks, 208)
    return Codes(codes.view(torch.int8).view(-1, 256).sub_(32), scale)


def iq4_xs(blocks: Tensor) -> Codes:
    """d f16; 8 scales of 6 bits (2 bytes of high pairs, 4 of nibbles); 128 bytes of nibbles."""
    place = torch.arange(0, 16, 2, device=blocks.device)
    high = blocks[:, 2:4].view(torch.int16) >> place & 3
    low = blocks[:, 4:8].view(torch.int32) >> 2 * place & 15
    scale = (high * 16 + low - 32).float() * half(blocks, 0)
    return Codes(levels(blocks[:, 8:].view(-1, 8, 16), IQ4_LEVELS).view(-1, 256), scale)


def tq1_0(blocks: Tensor) -> Codes:
    """52 bytes of five ternary digits each (the last 4 of four), as fractions of 256; d f16."""
    digits = []
    for start, stop, count in ((0, 32, 5), (32, 48, 5), (48, 52, 4)):
        digits += [blocks[:, start:stop] * 3**place for place in range(count)]
    fraction = torch.cat(digits, 1)  # the next digit is the whole part of fraction * 3 / 256
    codes = (fraction > 85).to(torch.int8) + (fraction > 170).to(torch.int8)
    return Codes(codes.sub_(1), half(blocks, 52))


def tq2_0(blocks: Tensor) -> Codes:
    """64 bytes of 2-bit codes; d f16: d * (q - 1)."""
    return Codes(as_bytes(pairs(lanes(blocks, 0, 64)), 256, torch.int8).sub_(1), half(blocks, 64))
