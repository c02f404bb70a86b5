"""Rows of floats as int8 codes with a scale each, for products of integers.

Symmetric: the largest number of a row has the code 127. A row may be turned by ConvRot's matrix
first, where the weights that it is multiplied with were. Compiled where there is a compiler, else
by torch, with the same bits.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from .native.unpack import dequantize_into, dequantizes, quantize_into, quantizes

MOST = 127.0
_AT_ONCE = 1 << 20  # numbers that torch quantizes at a time: 4 MB of float32


class Int8Rows(NamedTuple):
    """codes int8 [n,K], scales float32 [n]; `rotated` is the group of ConvRot, 0 without it."""

    codes: Tensor
    scales: Tensor
    rotated: int = 0


def empty_rows(rows: int, columns: int) -> Int8Rows:
    """Room for codes and scales."""
    return Int8Rows(torch.empty(rows, columns, dtype=torch.int8), torch.empty(rows))


def quantize(x: Tensor, out: Int8Rows, rotated: int = 0) -> Int8Rows:
    """Rows x [n,K] of finite floats -> the first n rows of `out`, in place."""
    codes, scales = out.codes[: len(x)], out.scales[: len(x)]
    if quantizes(x, rotated):
        quantize_into(x, rotated, codes, scales)
    else:
        step = max(1, _AT_ONCE // x.shape[1])
        for at in range(0, len(x), step):
            part = slice(at, at + step)
            _by_torch(x[part], rotated, codes[part], scales[part])
    return Int8Rows(codes, scales, rotated)


def _by_torch(x: Tensor, rotated: int, codes: Tensor, scales: Tensor) -> None:
    x = rotate(x.float(), rotated) if rotated else x.float()
    peak = x.abs().amax(1)
    factor = torch.where(peak > 0, torch.full_like(peak, MOST) / peak, 0.0)
    codes.copy_((x * factor[:, None]).round_())
    scales.copy_(peak / MOST / math.sqrt(rotated or 1))


def rotate(x: Tensor, group: int) -> Tensor:
    """Rows [n,K] times ConvRot's matrix in groups, without its factor 1 / sqrt(group): a Kronecker
    power of one with four rows, each the sum of four numbers less twice one of them."""
    stride = 1
    while stride < group:
        a, b, c, d = x.reshape(len(x), -1, 4, stride).unbind(2)
        total = a + b + c + d
        x = torch.stack([total - 2 * one for one in (d, c, b, a)], 2)
        stride *= 4
    return x.reshape(len(x), -1)


def dequantize(
    sums: Tensor, scales: tuple[Tensor, Tensor], bias: Tensor | None, gelu: bool, out: Tensor
) -> None:
    """Sums int32 [n,N] of products of codes, times the scales [n] and [N] of both sides, plus bias
    [N] float32, then GELU (tanh form) if `gelu`, into out [n,N]."""
    if dequantizes(sums, out):
        dequantize_into(sums, scales, bias, gelu, out)
        return
    y = sums.float().mul_(scales[0][:, None]).mul_(scales[1])
    if bias is not None:
        y.add_(bias)
    out.copy_(torch.ops.aten.gelu_(y, approximate="tanh") if gelu else y)
