"""Encoders of super-blocks of 256 weights: Q2_K to Q6_K.

Three stages: the best scale (and minimum) of every sub-block, these as small integers times an f16
number of the super-block, and the codes, rounded once more for the scales as stored. The C structs
are in gguf_k_quants.py. With `importance`, one number per weight (mean square of the input that
meets it), the error that counts is that of the product. All functions turn rows [r, columns] into
bytes [blocks, bytes].
"""

from typing import NamedTuple

import torch
from torch import Tensor

from .scale_search import affine, finite, inverse, largest, over, refine, symmetric

SUPER = 256


class _Search(NamedTuple):
    """The settings of the search for a type with minimums."""

    group: int
    top: int  # largest code
    small: int  # largest integer scale
    steps: tuple[float, float, int]
    share: float  # of the mean square in the weights of an importance search
    absolute: bool = False  # weights and error are magnitudes instead of squares


_Q2 = _Search(group=16, top=3, small=15, steps=(-0.5, 0.1, 15), share=1, absolute=True)
_Q4 = _Search(group=32, top=15, small=63, steps=(-1, 0.1, 20), share=2)
_Q5 = _Search(group=32, top=31, small=63, steps=(-0.5, 0.1, 15), share=2)
_IMPORTANCE_STEPS = (-0.9, 0.05, 36)


class _Affine(NamedTuple):
    """Codes [n, 256] and integer scales and minimums [n, groups] as bytes; d, dmin [n, 4]."""

    codes: Tensor
    scale: Tensor
    minimum: Tensor
    halves: Tensor


def _groups(rows: Tensor, size: int) -> Tensor:
    """Rows -> groups as columns [size, groups]."""
    return rows.reshape(-1, size).t().contiguous()


def _of_blocks(numbers: Tensor, blocks: int) -> Tensor:
    """[groups] -> [groups per block, blocks]: a block's numbers as a column."""
    return numbers.view(blocks, -1).t().contiguous()


def _f16(x: Tensor) -> tuple[Tensor, Tensor]:
    """(bytes [n, 2] of the f16 numbers, the numbers as float32)."""
    half = x.half()
    return half.view(torch.uint8).view(-1, 2), half.float()


def _weights(rows: Tensor, importance: Tensor, share: float, size: int) -> Tensor:
    """importance * sqrt(share * mean x^2 of the super-block + x^2), groups as columns."""
    square = rows.square().view(-1, SUPER)
    mean = square.mean(1, keepdim=True) * share
    return _groups(square.add_(mean).sqrt_().view_as(rows).mul_(importance), size)


def _integers(numbers: Tensor, top: int, weight: Tensor | None) -> tuple[Tensor, Tensor]:
    """Numbers >= 0 [groups per block, n] -> (integers 0..top, the value of one step [n])."""
    peak = numbers.amax(0)
    integers = (numbers * finite(over(top, peak))).round_().clamp_(0, top)
    if weight is None:
        return integers, peak / top
    best = (integers * (peak / top)).sub_(numbers).square_().mul_(weight).sum(0)
    for step in (-4, -3, -2, -1, 1, 2, 3, 4):
        width = finite(over(top + 0.1 * step, peak))
        candidate = (numbers * width).round_().clamp_(max=top)
        error = (candidate * inverse(width)).sub_(numbers).square_().mul_(weight).sum(0)
        better = error < best
        best = torch.where(better, error, best)
        integers = torch.where(better, candidate, integers)
    return integers, refine(numbers, weight, integers, 0, top)


def _divided(x: Tensor, step: Tensor, low: int, high: int) -> Tensor:
    """Codes of x [k, n] for steps [n], in place; 0 where a step is 0."""
    return x.div_(step.masked_fill(step == 0, torch.inf)).round_().clamp_(low, high)


def _search_affine(rows: Tensor, importance: Tensor | None, search: _Search) -> _Affine:
    n, x = rows.numel() // SUPER, _groups(rows, search.group)
    steps, absolute = search.steps, search.absolute
    if importance is not None:
        steps, absolute = _IMPORTANCE_STEPS, False
        weight = _weights(rows, importance, search.share, search.group)
    else:
        weight = x.abs() if absolute else x.abs().add_(x.square().mean(0).sqrt_())
    scale, low = affine(x, weight, search.top, steps, absolute)
    sums = None if importance is None else _of_blocks(weight.sum(0), n)
    scale, d = _integers(_of_blocks(scale, n), search.small, sums)
    low, dmin = _integers(_of_blocks(low, n), search.small, sums)
    d_bytes, d = _f16(d)
    m_bytes, dmin = _f16(dmin)
    x.add_((low * dmin).t().reshape(-1))
    codes = _divided(x, (scale * d).t().reshape(-1), 0, search.top)
    return _Affine(
        codes.to(torch.uint8).t().reshape(n, SUPER),
        scale.to(torch.uint8).t(),
        low.to(torch.uint8).t(),
        torch.cat((d_bytes, m_bytes), 1),
    )


def _of_scales(
    scale: Tensor, x: Tensor, levels: int, small: int, weight: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """(codes [n, 256], integer scales [n, 16], both int8, d [n, 2]) for the scales of groups.

    The scale of largest magnitude becomes -small; with weights [16, n], the step is the one that
    fits them best.
    """
    n = x.numel() // SUPER
    numbers = _of_blocks(scale, n)
    if weight is None:
        d = inverse(over(-small, largest(numbers)))
    else:
        d = symmetric(numbers, weight, small)
    integers = (numbers * inverse(d)).round_().clamp_(-small, small - 1)
    d_bytes, d = _f16(d)
    codes = _divided(x, (integers * d).t().reshape(-1), -levels, levels - 1)
    return codes.to(torch.int8).t().reshape(n, SUPER), integers.to(torch.int8).t(), d_bytes


def _planes(codes: Tensor) -> Tensor:
    """2-bit codes [n, 256] -> [n, 64] bytes: four planes of 32 to each half."""
    c = codes.view(-1, 2, 4, 32)
    return (c[:, :, 0] | c[:, :, 1] << 2 | c[:, :, 2] << 4 | c[:, :, 3] << 6).reshape(-1, 64)


def _nibbles(codes: Tensor) -> Tensor:
    """Codes [n, 256] -> their low 4 bits [n, 128]: groups of 32 pair by pair."""
    c = codes.view(-1, 4, 2, 32) & 15
    return (c[:, :, 0] | c[:, :, 1] << 4).reshape(-1, 128)


def _bits(bits: Tensor) -> Tensor:
    """Bytes 0 or 1 [n, 8, 32] -> [n, 32]: group number = bit number."""
    packed = bits[:, 0].clone()
    for at in range(1, 8):
        packed |= bits[:, at] << at
    return packed


def _six_bits(scale: Tensor, minimum: Tensor) -> Tensor:
    """8 scales and 8 minimums of 6 bits [n, 8] -> [n, 12]."""
    (s, s_high), (m, m_high) = scale.split(4, 1), minimum.split(4, 1)
    return torch.cat(
        (s | s_high >> 4 << 6, m | m_high >> 4 << 6, s_high & 15 | (m_high & 15) << 4), 1
    )


def q2_k(rows: Tensor, importance: Tensor | None = None) -> Tensor:
    """Super-blocks of 84 bytes."""
    b = _search_affine(rows, importance, _Q2)
    return torch.cat((b.scale | b.minimum << 4, _planes(b.codes), b.halves), 1)


def q3_k(rows: Tensor, importance: Tensor | None = None) -> Tensor:
    """Super-blocks of 110 bytes."""
    x = _groups(rows, 16)
    if importance is None:
        weight, sums = x.square(), None
        start = x * finite(over(-4, largest(x)))
        scale = refine(x, weight, start.round_().clamp_(-4, 3), -4, 3)
    else:
        weight = _weights(rows, importance, 2, 16)
        scale = symmetric(x, weight, 4)
        sums = _of_blocks(weight.sum(0), x.numel() // SUPER)
    codes, integers, d = _of_scales(scale, x, 4, 32, sums)
    codes = (codes + 4).view(torch.uint8)
    small = (integers + 32).view(torch.uint8)
    high = (small >> 4).view(-1, 4, 4)
    high = high[:, 0] | high[:, 1] << 2 | high[:, 2] << 4 | high[:, 3] << 6
    low = small[:, :8] & 15 | (small[:, 8:] & 15) << 4
    return torch.cat((_bits((codes >> 2).view(-1, 8, 32)), _planes(codes & 3), low, high, d), 1)


def q4_k(rows: Tensor, importance: Tensor | None = None) -> Tensor:
    """Super-blocks of 144 bytes."""
    b = _search_affine(rows, importance, _Q4)
    return torch.cat((b.halves, _six_bits(b.scale, b.minimum), _nibbles(b.codes)), 1)


def q5_k(rows: Tensor, importance: Tensor | None = None) -> Tensor:
    """Super-blocks of 176 bytes."""
    b = _search_affine(rows, importance, _Q5)
    small, high = _six_bits(b.scale, b.minimum), _bits((b.codes >> 4).view(-1, 8, 32))
    return torch.cat((b.halves, small, high, _nibbles(b.codes)), 1)


def q6_k(rows: Tensor, importance: Tensor | None = None) -> Tensor:
    """Super-blocks of 210 bytes."""
    x = _groups(rows, 16)
    weight = x.square() if importance is None else _groups(importance.expand_as(rows), 16)
    scale = symmetric(x, weight, 32)
    codes, integers, d = _of_scales(scale, x, 32, 128)
    codes = (codes + 32).view(torch.uint8)
    c = codes.view(-1, 2, 2, 2, 32) & 15  # half, low or high nibble, 32 of 64
    low = (c[:, :, 0] | c[:, :, 1] << 4).reshape(-1, 128)
    return torch.cat((low, _planes(codes >> 4), integers.view(torch.uint8), d), 1)
