"""GGUF blocks in registers: one function per type turns a step of a row into floats.

All types are cut alike. A step is 32 lanes (bytes that lie together) times `planes` (shifts of the
same bytes): a plane is 32 weights of every row, unpacked from bytes that all planes of the step
share, so the compiler loads them once. The weights of a plane need not be neighbours, since a sum
over K has no order: `columns` gives their numbers. Float32 operations come in ggml's order, so the
bits are those of quant/gguf_dequantizer.py as long as the compiler may not fuse a product and a sum
(`EXACT`).

Every function takes `row` [1, n] (pointers to the first byte of rows), the number of the step, the
lanes [32, 1], the plane, and the last block of a row; it returns float32 [32, n]. Only builtins of
the language are used, none of its library: so they run in Triton's interpreter however early triton
was imported.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import triton
import triton.language as tl

LANES = 32
EXACT = {"enable_fp_fusion": False}  # launch option


@triton.jit
def columns(
    step: tl.tensor, plane: tl.tensor, lane: tl.tensor, PLANES: tl.constexpr, RUN: tl.constexpr
) -> tl.tensor:
    """The column of the weight that each lane of a plane is."""
    return step * (32 * PLANES) + (lane // RUN) * (RUN * PLANES) + plane * RUN + lane % RUN


@triton.jit
def _byte(at: tl.tensor) -> tl.tensor:
    return tl.load(at).to(tl.int32)


@triton.jit
def _signed(at: tl.tensor) -> tl.tensor:
    return tl.load(at.to(tl.pointer_type(tl.int8))).to(tl.int32)


@triton.jit
def _word(at: tl.tensor) -> tl.tensor:
    return tl.load(at.to(tl.pointer_type(tl.uint16))).to(tl.int32)


@triton.jit
def _half(at: tl.tensor) -> tl.tensor:
    return tl.load(at.to(tl.pointer_type(tl.float16))).to(tl.float32)


# --- blocks of 32: a step is two blocks; where there is no second, the last one is read twice


@triton.jit
def _pair(
    row: tl.tensor, step: tl.tensor, lane: tl.tensor, last: tl.tensor, SIZE: tl.constexpr
) -> tl.tensor:
    """Pointers to the block that each lane is in."""
    return row + tl.where(lane < 16, 2 * step, tl.minimum(2 * step + 1, last)) * SIZE


@triton.jit
def _halves(
    row: tl.tensor,
    step: tl.tensor,
    lane: tl.tensor,
    last: tl.tensor,
    SIZE: tl.constexpr,
    AT: tl.constexpr,
) -> tl.tensor:
    """The f16 number at this byte of each lane's block: two loads for a row, not one per lane."""
    first = _half(row + 2 * step * SIZE + AT)
    second = _half(row + tl.minimum(2 * step + 1, last) * SIZE + AT)
    return tl.where(lane < 16, first, second)


@triton.jit
def _nibble(
    row: tl.tensor,
    step: tl.tensor,
    lane: tl.tensor,
    plane: tl.tensor,
    last: tl.tensor,
    SIZE: tl.constexpr,
    AT: tl.constexpr,
) -> tl.tensor:
    return (_byte(_pair(row, step, lane, last, SIZE) + AT + lane % 16) >> (4 * plane)) & 15


@triton.jit
def _fifth(
    row: tl.tensor,
    step: tl.tensor,
    lane: tl.tensor,
    plane: tl.tensor,
    last: tl.tensor,
    SIZE: tl.constexpr,
    AT: tl.constexpr,
) -> tl.tensor:
    """The fifth bit of a code, as 0 or 16."""
    word = _word(_pair(row, step, lane, last, SIZE) + AT + 2 * plane)
    return ((word >> (lane % 16)) & 1) << 4


@triton.jit
def _level(code: tl.tensor) -> tl.tensor:
    """The level of IQ4 with this number. Levels are bytes of four words and are shifted out, which
    takes fewer instructions than a table in memory."""
    low = tl.where(code < 4, -1079142271, -152379953)  # -127 -104 -83 -65, -49 -35 -22 -10
    high = tl.where(code < 12, 639175937, 1901675829)  # 1 13 25 38, 53 69 89 113
    word = tl.where(code < 8, low, high)
    return ((word << (24 - 8 * (code & 3))) >> 24).to(tl.float32)


# block_q4_0 { half d; uint8 qs[16]; }
@triton.jit
def q4_0(
    row: tl.tensor, step: tl.tensor, lane: tl.tensor, plane: tl.constexpr, last: tl.tensor
) -> tl.tensor:
    """d * (q - 8)."""
    code = _nibble(row, step, lane, plane, last, 18, 2) - 8
    return _halves(row, step, lane, last, 18, 0) * code.to(tl.float32)


# block_q4_1 { half d, m; uint8 qs[16]; }
@triton.jit
def q4_1(
    row: tl.tensor, step: tl.tensor, lane: tl.tensor, plane: tl.constexpr, last: tl.tensor
) -> tl.tensor:
    """d * q + m."""
    code = _nibble(row, step, lane, plane, last, 20, 4).to(tl.float32)
    scaled = _halves(row, step, lane, last, 20, 0) * code
    return scaled + _halves(row, step, lane, last, 20, 2)


# block_q5_0 { half d; uint8 qh[4]; uint8 qs[16]; }
@triton.jit
def q5_0(
    row: tl.tensor, step: tl.tensor, lane: tl.tensor, plane: tl.constexpr, last: tl.tensor
) -> tl.tensor:
    """d * (q - 16); q: a nibble and its bit of qh."""
    code = _nibble(row, step, lane, plane, last, 22, 6)
    code = (code | _fifth(row, step, lane, plane, last, 22, 2)) - 16
    return _halves(row, step, lane, last, 22, 0) * code.to(tl.float32)


# block_q5_1 { half d, m; uint8 qh[4]; uint8 qs[16]; }
@triton.jit
def q5_1(
    row: tl.tensor, step: tl.tensor, lane: tl.tensor, plane: tl.constexpr, last: tl.tensor
) -> tl.tensor:
    """d * q + m; q: a nibble and its bit of qh."""
    code = _nibble(row, step, lane, plane, last, 24, 8)
    code = code | _fifth(row, step, lane, plane, last, 24, 4)
    scaled = _halves(row, step, lane, last, 24, 0) * code.to(tl.float32)
    return scaled + _halves(row, step, lane, last, 24, 2)


# block_iq4_nl { half d; uint8 qs[16]; }
@triton.jit
def iq4_nl(
    row: tl.tensor, step: tl.tensor, lane: tl.tensor, plane: tl.constexpr, last: tl.tensor
) -> tl.tensor:
    """d * level; a nibble is the number of its level."""
    code = _nibble(row, step, lane, plane, last, 18, 2)
    return _halves(row, step, lane, last, 18, 0) * _level(code)


# block_q8_0 { half d; int8 qs[32]; }
@triton.jit
def q8_0(
    row: tl.tensor, step: tl.tensor, lane: tl.tensor, plane: tl.constexpr, last: tl.tensor
) -> tl.tensor:
    """d * q. A plane is one block, a step two."""
    block = row + tl.minimum(2 * step + plane, last) * 34
    return _half(block) * _signed(block + 2 + lane).to(tl.float32)


# --- super-blocks of 256: `part` is the number of the step in its block; `last` is not needed


@triton.jit
def _six_bits(at: tl.tensor, group: tl.tensor) -> tl.tensor:
    """(scale, minimum) number `group` of the eight in 12 bytes, packed as scale + 64 * minimum."""
    first = _byte(at + group % 4)
    second = _byte(at + 4 + group % 4)
    third = _byte(at + 8 + group % 4)
    scale = tl.where(group < 4, first & 63, (third & 15) | ((first >> 6) << 4))
    minimum = tl.where(group < 4, second & 63, (third >> 4) | ((second >> 6) << 4))
    return scale | (minimum << 6)


@triton.jit
def _with_minimum(block: tl.tensor, group: tl.tensor, code: tl.tensor) -> tl.tensor:
    """(d * S) * q - dmin * M for the types with 12 bytes of six bits."""
    small = _six_bits(block + 4, group)
    scale = _half(block) * (small & 63).to(tl.float32)
    minimum = _half(block + 2) * (small >> 6).to(tl.float32)
    return scale * code.to(tl.float32) - minimum


# block_q4_K { half d, dmin; uint8 scales[12]; uint8 qs[128]; }
@triton.jit
def q4_k(
    row: tl.tensor, step: tl.tensor, lane: tl.tensor, plane: tl.constexpr, last: tl.tensor
) -> tl.tensor:
    """d * scale * q - dmin * minimum."""
    block = row + (step // 4) * 144
    part = step % 4
    code = (_byte(block + 16 + 32 * part + lane) >> (4 * plane)) & 15
    return _with_minimum(block, 2 * part + plane, code)


# block_q5_K { half d, dmin; uint8 scales[12]; uint8 qh[32]; uint8 qs[128]; }
@triton.jit
def q5_k(
    row: tl.tensor, step: tl.tensor, lane: tl.tensor, plane: tl.constexpr, last: tl.tensor
) -> tl.tensor:
    """Unpack like Q4_K; qh holds the fifth bits."""
    block = row + (step // 4) * 176
    part = step % 4
    code = (_byte(block + 48 + 32 * part + lane) >> (4 * plane)) & 15
    fifth = (_byte(block + 16 + lane) >> (2 * part + plane)) & 1
    return _with_minimum(block, 2 * part + plane, code | (fifth << 4))


# block_q6_K { uint8 ql[128]; uint8 qh[64]; int8 scales[16]; half d; }
@triton.jit
def q6_k(
    row: tl.tensor, step: tl.tensor, lane: tl.tensor, plane: tl.constexpr, last: tl.tensor
) -> tl.tensor:
    """d * scale * (q - 32); q: a nibble of ql and two bits of qh."""
    block = row + (step // 2) * 210
    part = step % 2
    code = (_byte(block + 64 * part + 32 * (plane % 2) + lane) >> (4 * (plane // 2))) & 15
    high = (_byte(block + 128 + 32 * part + lane) >> (2 * plane)) & 3
    small = block + 192 + 8 * part + 2 * plane
    scale = _half(block + 208)
    first = scale * _signed(small).to(tl.float32)
    second = scale * _signed(small + 1).to(tl.float32)
    return tl.where(lane < 16, first, second) * ((code | (high << 4)) - 32).to(tl.float32)


# block_q2_K { uint8 scales[16]; uint8 qs[64]; half d, dmin; }
@triton.jit
def q2_k(
    row: tl.tensor, step: tl.tensor, lane: tl.tensor, plane: tl.constexpr, last: tl.tensor
) -> tl.tensor:
    """d * scale * q - dmin * minimum; a byte of scales: low nibble scale, high nibble minimum."""
    block = row + (step // 2) * 84
    part = step % 2
    code = (_byte(block + 16 + 32 * part + lane) >> (2 * plane)) & 3
    first = _byte(block + 8 * part + 2 * plane)
    second = _byte(block + 8 * part + 2 * plane + 1)
    low = tl.where(lane < 16, first & 15, second & 15).to(tl.float32) * _half(block + 80)
    high = tl.where(lane < 16, first >> 4, second >> 4).to(tl.float32) * _half(block + 82)
    return low * code.to(tl.float32) - high


@triton.jit
def _q3_scale(block: tl.tensor, part: tl.tensor, at: tl.constexpr) -> tl.tensor:
    """Scale 8 * part + at of Q3_K: a nibble of the first 8 bytes, a pair of the last 4."""
    low = (_byte(block + 96 + at) >> (4 * part)) & 15
    high = (_byte(block + 104 + at % 4) >> (4 * part + 2 * (at // 4))) & 3
    return _half(block + 108) * ((low | (high << 4)) - 32).to(tl.float32)


# block_q3_K { uint8 hmask[32]; uint8 qs[64]; uint8 scales[12]; half d; }
@triton.jit
def q3_k(
    row: tl.tensor, step: tl.tensor, lane: tl.tensor, plane: tl.constexpr, last: tl.tensor
) -> tl.tensor:
    """d * (scale - 32) * q; a bit of hmask that is NOT set subtracts 4 from the code in qs."""
    block = row + (step // 2) * 110
    part = step % 2
    code = (_byte(block + 32 + 32 * part + lane) >> (2 * plane)) & 3
    high = (_byte(block + lane) >> (4 * part + plane)) & 1
    first = _q3_scale(block, part, 2 * plane)
    second = _q3_scale(block, part, 2 * plane + 1)
    return tl.where(lane < 16, first, second) * (code + 4 * high - 4).to(tl.float32)


# block_iq4_xs { half d; uint16 scales_h; uint8 scales_l[4]; uint8 qs[128]; }
@triton.jit
def iq4_xs(
    row: tl.tensor, step: tl.tensor, lane: tl.tensor, plane: tl.constexpr, last: tl.tensor
) -> tl.tensor:
    """d * (scale - 32) * level; scale: a nibble of scales_l and two bits of scales_h."""
    block = row + (step // 4) * 136
    part = step % 4
    code = (_byte(block + 8 + 32 * part + lane) >> (4 * plane)) & 15
    low = _byte(block + 4 + part)
    high = _word(block + 2) >> (4 * part)
    first = _half(block) * (((low & 15) | ((high & 3) << 4)) - 32).to(tl.float32)
    second = _half(block) * (((low >> 4) | (((high >> 2) & 3) << 4)) - 32).to(tl.float32)
    return tl.where(lane < 16, first, second) * _level(code)


@dataclass(frozen=True)
class Cut:
    """The steps that a type is unpacked in: function, planes of a step, neighbours in a plane."""

    unpack: Callable[..., tl.tensor]
    planes: int
    run: int = 32

    @property
    def step(self) -> int:
        """Weights of a row in a step."""
        return LANES * self.planes


CUTS: dict[str, Cut] = {
    "Q4_0": Cut(q4_0, 2, 16),
    "Q4_1": Cut(q4_1, 2, 16),
    "Q5_0": Cut(q5_0, 2, 16),
    "Q5_1": Cut(q5_1, 2, 16),
    "IQ4_NL": Cut(iq4_nl, 2, 16),
    "IQ4_XS": Cut(iq4_xs, 2, 16),
    "Q8_0": Cut(q8_0, 2),
    "Q4_K": Cut(q4_k, 2),
    "Q5_K": Cut(q5_k, 2),
    "Q2_K": Cut(q2_k, 4),
    "Q3_K": Cut(q3_k, 4),
    "Q6_K": Cut(q6_k, 4),
}
