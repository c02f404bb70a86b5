"""A block of the single-stream network: attention by segments, SwiGLU, and the memory of both.

The prefix (text and references) and the target go through the same weights in separate products;
the target attends to the prefix's keys and values too. See single_stream.py.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .adaln import gated_add, modulated_norm
from .attention import attention, scratch_bytes
from .block_streaming import Asking, Walk, ask
from .configs import SingleStreamConfig
from .forward import ForwardSize
from .joint_attention import norm_rotate
from .linear import UNPACKED, Linear
from .norm import RMSWeight
from .shared_modulation import SharedRows
from .stream_context import StreamContext

# [tokens, D] alive at once beside keys and values
_PROJECTING = 3  # the normed stream, queries, one on its way
_ATTENDING = 2  # queries, the result

Pair = tuple[Tensor, Tensor]
"""Keys, normed and rotated, and values [n,N,H,d]."""


class SegmentAttention(nn.Module):
    """Attention of the prefix to itself, and of the target to both, as parts of a walk."""

    def __init__(self, config: SingleStreamConfig) -> None:
        super().__init__()
        d, self.head_dim = config.width, config.head_dim
        self.to_q, self.to_k, self.to_v = (Linear(d, d, bias=False) for _ in range(3))
        self.to_out = nn.ModuleList([Linear(d, d, bias=False)])
        self.norm_q, self.norm_k = RMSWeight(config.head_dim), RMSWeight(config.head_dim)

    def _heads(self, x: Tensor) -> Tensor:
        """[B,N,D] -> [B,N,H,d]."""
        return x.unflatten(-1, (-1, self.head_dim))

    def _rotated(self, x: Tensor, norm: RMSWeight, freqs_cis: Tensor, out: Tensor | None) -> Tensor:
        x = self._heads(x)
        if out is None and not torch.is_grad_enabled():
            out = torch.empty_like(x)
        return norm_rotate(x, norm.scale(), freqs_cis, out)

    def keys_values(self, x: Tensor, freqs_cis: Tensor) -> Asking[Pair]:
        """The normed prefix [n,P,D] -> its keys and values [n,P,H,d]."""
        keys = self._rotated((yield from ask(self.to_k, x)), self.norm_k, freqs_cis, None)
        return keys, self._heads((yield from ask(self.to_v, x)))

    def of_prefix(self, x: Tensor, own: Pair, ctx: StreamContext) -> Walk:
        """The normed prefix [n,P,D] and its keys and values -> output [n,P,D]."""
        asked = ask(self.to_q, x)
        del x
        q = self._rotated((yield from asked), self.norm_q, ctx.prefix_freqs_cis, None)
        q = q.transpose(1, 2)
        k, v = (t.transpose(1, 2) for t in own)
        parts = [
            attention(q[:, :, a:b], k[:, :, :b], v[:, :, :b], causal=causal)
            for a, b, causal in ctx.segments
        ]
        del q
        return (yield from self._output(parts, ctx))

    def of_target(self, x: Tensor, prefix: Pair, ctx: StreamContext) -> Walk:
        """The normed target [B,S,D] and keys and values [n,P,H,d] of the prefix -> [B,S,D]."""
        q = self._rotated((yield from ask(self.to_q, x)), self.norm_q, ctx.freqs_cis, None)
        joined = self._joined(x, prefix, ctx)
        del x, prefix
        k, v = yield from joined
        ctx.look("query", q), ctx.look("key", k), ctx.look("value", v)
        o = attention(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2))
        parts = [o]
        del q, k, v, o
        return (yield from self._output(parts, ctx))

    def _output(self, parts: list[Tensor], ctx: StreamContext) -> Walk:
        """Attention [B,H,N,d] of consecutive tokens -> [B,N,D]."""
        o = torch.cat([part.transpose(1, 2).flatten(2) for part in parts], dim=1)
        parts.clear()
        asked = ask(self.to_out[0], ctx.look("attention", o))
        del o
        return (yield from asked)

    def _joined(self, x: Tensor, prefix: Pair, ctx: StreamContext) -> Asking[Pair]:
        """Keys and values of prefix and target in one tensor each [B,P+S,H,d]."""
        b, length, before = len(x), x.shape[1], prefix[0].shape[1]
        if torch.is_grad_enabled():
            own = yield from self.keys_values(x, ctx.freqs_cis)
            k, v = (torch.cat([p.expand(b, -1, -1, -1), t], 1) for p, t in zip(prefix, own))
            return k, v
        shape = (b, before + length, *prefix[0].shape[2:])
        k, v = x.new_empty(shape), x.new_empty(shape)
        k[:, :before], v[:, :before] = prefix
        self._rotated((yield from ask(self.to_k, x)), self.norm_k, ctx.freqs_cis, k[:, before:])
        v[:, before:] = self._heads((yield from ask(self.to_v, x)))
        return k, v


class SwiGLU(nn.Module):
    """out(SiLU(gate_layer(x)) * proj(x)). Files may hold gate_layer and proj as the rows of one
    `gate_up`."""

    ROWS = 1024  # tokens at a time without gradients: bounds the hidden activations

    def __init__(self, d: int, ff: int) -> None:
        super().__init__()
        self.proj, self.gate_layer = Linear(d, ff, bias=False), Linear(d, ff, bias=False)
        self.out = Linear(ff, d, bias=False)
        self.out.last = True

    def forward(self, x: Tensor) -> Walk:
        """A part of a walk: x [B,N,D] -> [B,N,D]."""
        inplace = not torch.is_grad_enabled()
        hidden = F.silu((yield from ask(self.gate_layer, x)), inplace=inplace)
        asked = ask(self.proj, x)
        del x
        more = yield from asked
        hidden = hidden.mul_(more) if inplace else hidden * more
        asked = ask(self.out, hidden)
        del hidden, more
        return (yield from asked)


class SingleBlock(nn.Module):
    """One block, whose parts are parts of a walk. Without gradients the streams are changed in
    place."""

    def __init__(self, config: SingleStreamConfig) -> None:
        super().__init__()
        self.attn = SegmentAttention(config)
        self.img_mlp = SwiGLU(config.width, config.ff)

    def prefix(
        self, x: Tensor, rows: SharedRows, ctx: StreamContext, last: bool = False
    ) -> Asking[tuple[Tensor, Pair]]:
        """The prefix [n,P,D] -> the same behind the block, and its keys and values in it. Of the
        last block nobody reads the first."""
        normed = modulated_norm(x, None, rows.scale1, ctx.dtype)
        own = yield from self.attn.keys_values(normed, ctx.prefix_freqs_cis)
        if last:
            return x, own
        attention = self.attn.of_prefix(normed, own, ctx)
        del normed
        attended = yield from attention
        x = gated_add(x, attended, rows.gate1)
        del attended
        return ctx.look("text", (yield from self._feed_forward(x, rows, ctx))), own

    def forward(self, x: Tensor, prefix: Pair, rows: SharedRows, ctx: StreamContext) -> Walk:
        """The target [B,S,D] behind the block, with the prefix's keys and values in it."""
        normed = modulated_norm(x, None, rows.scale1, ctx.dtype)
        attention = self.attn.of_target(normed, prefix, ctx)
        del normed, prefix
        attended = yield from attention
        x = gated_add(x, attended, rows.gate1)
        del attended
        return ctx.look("image", (yield from self._feed_forward(x, rows, ctx)))

    def both(
        self,
        prefix: Tensor,
        x: Tensor,
        rows: tuple[SharedRows, SharedRows],
        ctx: StreamContext,
        last: bool,
        keep: Callable[[Tensor, Tensor], None] | None = None,
    ) -> Asking[Pair]:
        """Prefix [n,P,D] and target [B,S,D] -> both behind the block. rows: of each; keep: gets the
        prefix's keys and values."""
        prefix, own = yield from self.prefix(prefix, rows[0], ctx, last)
        if keep is not None:
            keep(*own)
        asked = self(x, own, rows[1], ctx)
        del own
        return prefix, (yield from asked)

    def _feed_forward(self, x: Tensor, rows: SharedRows, ctx: StreamContext) -> Walk:
        if torch.is_grad_enabled():
            more = yield from self.img_mlp(modulated_norm(x, None, rows.scale2, ctx.dtype))
            return gated_add(x, more, rows.gate2)
        for part in x.split(SwiGLU.ROWS, dim=1):
            more = yield from self.img_mlp(modulated_norm(part, None, rows.scale2, ctx.dtype))
            gated_add(part, more, rows.gate2)
            del more
        return x


def stream_bytes(config: SingleStreamConfig, size: ForwardSize, dtype: torch.dtype) -> int:
    """Bytes that one forward needs in addition to weights: the streams and what else stays during
    a block, and the most that one of its parts needs. What a store keeps is not among them, see
    `SingleStream.prefix_bytes`.
    """
    return own_bytes(config, size, dtype, attending=True) + UNPACKED * dtype.itemsize


def own_bytes(
    config: SingleStreamConfig, size: ForwardSize, dtype: torch.dtype, attending: bool
) -> int:
    """Bytes of a forward's own tensors. attending: with those of an attention at work."""
    scratch = scratch_bytes if attending else lambda *_: 0
    each, row, d = dtype.itemsize, size.prefix + size.target, config.head_dim
    slab = config.width * each
    target, prefix = size.batch * size.target, size.rows * size.prefix
    stays = 4 * config.width * size.tokens + row * d * 4  # the last: freqs_cis
    pair = 0 if size.stored else 2 * prefix * slab  # keys and values of the prefix
    joined = 2 * size.batch * row * slab  # those of both streams
    hidden = (2 * config.ff + config.width) * each
    parts = [
        pair + _ATTENDING * prefix * slab + scratch(size.prefix, d, dtype),
        pair + size.rows * min(size.prefix, SwiGLU.ROWS) * hidden,
        pair + _PROJECTING * target * slab + joined,
        _ATTENDING * target * slab + joined + scratch(row, d, dtype),
        size.batch * min(size.target, SwiGLU.ROWS) * hidden,
    ]
    return stays + max(parts)
