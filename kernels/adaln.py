"""Adaptive layer norm: LayerNorm, scale, shift and gate of a block, with named modulation rows.

Without gradients the streams are changed in place, in chunks that stay in a CPU's cache. Reference
images may have rows of their own (zero_cond_t, reference: diffusers `_modulate` with `index`).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .spread import spread

_CHUNK = 1 << 17  # elements per chunk of a cache-sized loop


@dataclass(frozen=True)
class Row:
    """One row of a block's modulation, n = 1 or B. Where references have their own timestep, the
    tokens behind the first `tokens` use `references` instead."""

    target: Tensor  # [n,D]
    references: Tensor | None = None  # [1,D]
    tokens: int = 0

    def parts(self, x: Tensor) -> list[tuple[Tensor, Tensor]]:
        """x [B,N,D] in views (part, its row), one view where one row serves all tokens."""
        if self.references is None or x.shape[1] <= self.tokens:
            return [(x, self.target)]
        return [(x[:, : self.tokens], self.target), (x[:, self.tokens :], self.references)]


@dataclass(frozen=True)
class Rows:
    """Modulation of one stream in one block: 1 around the attention, 2 around the feed-forward."""

    shift1: Row
    scale1: Row
    gate1: Row
    shift2: Row
    scale2: Row
    gate2: Row

    @classmethod
    def of(cls, table: Tensor, references: Tensor | None = None, tokens: int = 0) -> Rows:
        """table [n,6,D], references [1,6,D]. The text of the last block has [n,2,D]: nobody reads
        its other rows, which are empty here."""
        targets = list(table.unbind(1))
        targets += [table[:, 0, :0]] * (6 - len(targets))
        others = [None] * 6 if references is None else references.unbind(1)
        return cls(*(Row(target, other, tokens) for target, other in zip(targets, others)))


class BlockRows(NamedTuple):
    """Modulation of both streams in one block."""

    img: Rows
    txt: Rows


def over_tokens(x: Tensor, work: Callable[[slice], None]) -> None:
    """Calls work for ranges of tokens of x [B,N,...] whose elements stay in a CPU's cache, on all
    threads; elsewhere for all tokens at once."""
    tokens = x.shape[1]
    if x.device.type != "cpu":
        work(slice(0, tokens))
        return
    step = max(1, _CHUNK * tokens // max(1, x.numel()))
    spread(lambda index: work(slice(index * step, (index + 1) * step)), math.ceil(tokens / step))


def modulated_norm(x: Tensor, shift: Row | None, scale: Row, dtype: torch.dtype) -> Tensor:
    """LayerNorm(x) * (1 + scale) + shift (None: no shift) in `dtype`. x [B,N,D] -> [B,N,D]."""
    if shift is None:
        parts = [_modulated_norm(part, None, factor, dtype) for part, factor in scale.parts(x)]
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)
    pairs = zip(shift.parts(x), scale.parts(x))
    parts = [_modulated_norm(part, add, factor, dtype) for (part, add), (_, factor) in pairs]
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)


def _modulated_norm(x: Tensor, shift: Tensor | None, scale: Tensor, dtype: torch.dtype) -> Tensor:
    if scale.shape[0] > 1 or torch.is_grad_enabled():
        y = F.layer_norm(x, x.shape[-1:], eps=1e-6) * (1 + scale[:, None])
        return (y if shift is None else y + shift[:, None]).to(dtype)
    weight = (1 + scale[0].float()).to(x.dtype)
    bias = None if shift is None else shift[0].to(x.dtype)
    if x.dtype == dtype:
        return F.layer_norm(x, x.shape[-1:], weight, bias, 1e-6)
    out = torch.empty_like(x, dtype=dtype, memory_format=torch.contiguous_format)

    def normed(part: slice) -> None:
        out[:, part] = F.layer_norm(x[:, part], x.shape[-1:], weight, bias, 1e-6)

    over_tokens(x, normed)
    return out


def gated_add(x: Tensor, y: Tensor, gate: Row) -> Tensor:
    """x + gate * y, in place without gradients. x, y [B,N,D]."""
    pairs = zip(gate.parts(x), gate.parts(y))
    parts = [_gated_add(part, more, row) for (part, row), (more, _) in pairs]
    if len(parts) == 1:
        return parts[0]
    return torch.cat(parts, dim=1) if torch.is_grad_enabled() else x


def _gated_add(x: Tensor, y: Tensor, gate: Tensor) -> Tensor:
    gate = gate[:, None].to(x.dtype)
    if torch.is_grad_enabled():
        return x + gate * y
    if x.dtype == y.dtype:
        return x.addcmul_(y, gate)

    def added(part: slice) -> None:
        x[:, part].addcmul_(y[:, part].to(x.dtype), gate)

    over_tokens(x, added)
    return x
