"""Encoders of blocks of 32 weights: Q8_0, Q4_0, Q4_1, Q5_0, Q5_1.

Without importance weights are rounded, and the bytes are ggml's: codes are rounded for the float32
scale, which is stored as f16 afterwards. With it the best scale is searched as in the K types. The
C structs are in gguf_block_quants.py. All functions turn rows [r, columns] into bytes [blocks,
bytes].
"""

import torch
from torch import Tensor

from .scale_search import affine, largest, symmetric

_STEPS = (-0.9, 0.05, 36)


def _reciprocal(d: Tensor) -> Tensor:
    return torch.where(d == 0, 0, 1 / d)


def _half(x: Tensor) -> Tensor:
    """[n, 1] -> bytes [n, 2] of the f16 numbers."""
    return x.half().view(torch.uint8)


def _nibbles(codes: Tensor) -> Tensor:
    """Codes [n, 32] -> their low 4 bits [n, 16]."""
    return codes[:, :16] & 15 | (codes[:, 16:] & 15) << 4


def _fifth(codes: Tensor) -> Tensor:
    """Codes [n, 32] -> their fifth bits [n, 4]."""
    bits = (codes >> 4).view(-1, 4, 8)
    packed = bits[:, :, 0].clone()
    for at in range(1, 8):
        packed |= bits[:, :, at] << at
    return packed


def _weights(rows: Tensor, importance: Tensor) -> Tensor:
    """importance * sqrt(mean x^2 of the row + x^2), blocks as columns [32, n]."""
    square = rows.square()
    mean = square.mean(1, keepdim=True)
    return square.add_(mean).sqrt_().mul_(importance).view(-1, 32).t().contiguous()


def q8_0(rows: Tensor, importance: Tensor | None = None) -> Tensor:
    """Blocks of 34 bytes. Importance changes nothing here."""
    x = rows.view(-1, 32)
    d = x.abs().amax(1, keepdim=True) / 127
    x = x * _reciprocal(d)
    size = x.abs()
    codes = size.floor()
    codes += size.sub_(codes) >= 0.5  # half away from zero
    return torch.cat((_half(d), codes.copysign_(x).to(torch.int8).view(torch.uint8)), 1)


def _scaled(rows: Tensor, importance: Tensor | None, levels: int) -> tuple[Tensor, Tensor]:
    """(d [n, 1], codes [n, 32] 0..2*levels-1)."""
    x = rows.view(-1, 32).t().contiguous()
    if importance is None:
        d = largest(x) / -levels
    else:
        d = symmetric(x, _weights(rows, importance), levels)
    codes = x.mul_(_reciprocal(d))
    if importance is None:  # as in ggml: a half goes up
        codes = codes.add_(levels + 0.5).trunc_().clamp_(max=2 * levels - 1)
    else:
        codes = codes.round_().clamp_(-levels, levels - 1).add_(levels)
    return d.unsqueeze(1), codes.to(torch.uint8).t().contiguous()


def _shifted(rows: Tensor, importance: Tensor | None, top: int) -> tuple[Tensor, Tensor]:
    """(bytes of d and m [n, 4], codes [n, 32] 0..top)."""
    x = rows.view(-1, 32).t().contiguous()
    if importance is None:
        low = x.amin(0)
        d = (x.amax(0) - low) / top
        codes = x.sub_(low).mul_(_reciprocal(d)).add_(0.5).trunc_()
    else:
        d, low = affine(x, _weights(rows, importance), top, _STEPS)
        low = -low
        codes = x.sub_(low).mul_(_reciprocal(d)).round_()
    codes = codes.clamp_(0, top).to(torch.uint8).t().contiguous()
    return torch.cat((_half(d.unsqueeze(1)), _half(low.unsqueeze(1))), 1), codes


def q4_0(rows: Tensor, importance: Tensor | None = None) -> Tensor:
    """Blocks of 18 bytes."""
    d, codes = _scaled(rows, importance, 8)
    return torch.cat((_half(d), _nibbles(codes)), 1)


def q4_1(rows: Tensor, importance: Tensor | None = None) -> Tensor:
    """Blocks of 20 bytes."""
    halves, codes = _shifted(rows, importance, 15)
    return torch.cat((halves, _nibbles(codes)), 1)


def q5_0(rows: Tensor, importance: Tensor | None = None) -> Tensor:
    """Blocks of 22 bytes."""
    d, codes = _scaled(rows, importance, 16)
    return torch.cat((_half(d), _fifth(codes), _nibbles(codes)), 1)


def q5_1(rows: Tensor, importance: Tensor | None = None) -> Tensor:
    """Blocks of 24 bytes."""
    halves, codes = _shifted(rows, importance, 31)
    return torch.cat((halves, _fifth(codes), _nibbles(codes)), 1)
