"""LayerNorm, scale, shift and gate of a block, with the rows of the modulation table.

Without gradients the streams are changed in place, in pieces that stay in a CPU's cache. Reference
pictures may have rows of their own (zero_cond_t, reference: diffusers `_modulate` with `index`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

_PIECE = 1 << 17  # elements per piece of a cache-sized loop


def pieces(x: Tensor) -> Iterator[slice]:
    """Ranges of tokens of x [B,N,...] whose elements stay in a CPU's cache; elsewhere one range."""
    step = (
        max(1, _PIECE * x.shape[1] // max(1, x.numel())) if x.device.type == "cpu" else x.shape[1]
    )
    return (slice(i, i + step) for i in range(0, x.shape[1], step))


def modulated_norm(x: Tensor, shift: Tensor, scale: Tensor, dtype: torch.dtype) -> Tensor:
    """LayerNorm(x) * (1 + scale) + shift in `dtype`. x [B,N,D], shift, scale [n,D], n = 1 or B."""
    if shift.shape[0] > 1 or torch.is_grad_enabled():
        y = F.layer_norm(x, x.shape[-1:], eps=1e-6)
        return (y * (1 + scale[:, None]) + shift[:, None]).to(dtype)
    weight, bias = (1 + scale[0].float()).to(x.dtype), shift[0].to(x.dtype)
    if x.dtype == dtype:
        return F.layer_norm(x, x.shape[-1:], weight, bias, 1e-6)
    out = torch.empty_like(x, dtype=dtype, memory_format=torch.contiguous_format)
    for part in pieces(x):
        out[:, part] = F.layer_norm(x[:, part], x.shape[-1:], weight, bias, 1e-6)
    return out


def gated_add(x: Tensor, y: Tensor, gate: Tensor) -> Tensor:
    """x + gate * y, in place without gradients. x, y [B,N,D], gate [n,D]."""
    gate = gate[:, None].to(x.dtype)
    if torch.is_grad_enabled():
        return x + gate * y
    if x.dtype == y.dtype:
        return x.addcmul_(y, gate)
    for part in pieces(x):
        x[:, part].addcmul_(y[:, part].to(x.dtype), gate)
    return x


@dataclass(frozen=True)
class ImgRows:
    """One block's modulation of the image stream: `own` for the tokens that are drawn, `ref` for
    those behind them (None: the same for all)."""

    own: Tensor  # [n,6,D]
    ref: Tensor | None  # [1,6,D]
    tokens: int

    def norm(self, x: Tensor, first: int, dtype: torch.dtype) -> Tensor:
        """LayerNorm, scaled and shifted by rows `first` (shift) and `first` + 1 (scale)."""
        parts = [
            modulated_norm(part, rows[:, first], rows[:, first + 1], dtype)
            for part, rows in self._parts(x)
        ]
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)

    def add(self, x: Tensor, y: Tensor, gate: int) -> Tensor:
        """x + gate * y, in place without gradients."""
        pairs = zip(self._parts(x), self._parts(y))
        parts = [gated_add(part, new, rows[:, gate]) for (part, rows), (new, _) in pairs]
        if len(parts) == 1:
            return parts[0]
        return torch.cat(parts, dim=1) if torch.is_grad_enabled() else x

    def _parts(self, x: Tensor) -> list[tuple[Tensor, Tensor]]:
        if self.ref is None or x.shape[1] <= self.tokens:
            return [(x, self.own)]
        return [(x[:, : self.tokens], self.own), (x[:, self.tokens :], self.ref)]
