"""Joint attention of the text and the image stream: RMS norm of queries and keys, RoPE, one
softmax over both. A part of a walk, which asks for its projections (block_streaming.py)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .adaln import over_tokens
from .attention import attention
from .block_streaming import Asking, Walk, ask
from .configs import MMDiTConfig
from .forward import PassContext
from .linear import Linear
from .norm import RMSWeight
from .rope import rotate


def _norm_rotate(x: Tensor, weight: Tensor, freqs_cis: Tensor) -> Tensor:
    y = F.rms_norm(x.float(), (x.shape[-1],), weight.float(), 1e-6)
    return rotate(y, freqs_cis).to(x.dtype)


def norm_rotate(x: Tensor, weight: Tensor, freqs_cis: Tensor, out: Tensor | None = None) -> Tensor:
    """RMS norm per head, then rotation, in float32. x [B,N,H,d] -> the same (into `out` if given).

    Without gradients in chunks of tokens that stay in the cache.
    """
    if out is None:
        return _norm_rotate(x, weight, freqs_cis)

    def turned(part: slice) -> None:
        out[:, part] = _norm_rotate(x[:, part], weight, freqs_cis[part])

    over_tokens(x, turned)
    return out


class JointAttention(nn.Module):
    """Joint attention. In the last block the text stream has keys and values only: nobody reads
    its output, so the weights of its query and output are not even loaded."""

    def __init__(self, config: MMDiTConfig, last: bool) -> None:
        super().__init__()
        d, self.head_dim = config.width, config.head_dim
        self.to_q, self.to_k, self.to_v = Linear(d, d), Linear(d, d), Linear(d, d)
        self.add_k_proj, self.add_v_proj = Linear(d, d), Linear(d, d)
        self.to_out = nn.ModuleList([Linear(d, d)])
        self.norm_q, self.norm_k = RMSWeight(config.head_dim), RMSWeight(config.head_dim)
        self.norm_added_k = RMSWeight(config.head_dim)
        if not last:
            self.add_q_proj, self.to_add_out = Linear(d, d), Linear(d, d)
            self.norm_added_q = RMSWeight(config.head_dim)
        self.last = last

    def heads(self, x: Tensor) -> Tensor:
        """[B,N,D] -> [B,N,H,d]."""
        return x.unflatten(-1, (-1, self.head_dim))

    def forward(self, img: Tensor, txt: Tensor, queries: int, ctx: PassContext) -> Walk:
        """Normed streams -> output [B, L + queries, D], text first (last block: [B,queries,D]).

        Only the first `queries` image tokens have queries; all have keys and values.
        """
        own = yield from ask(self.to_q, img[:, :queries])
        img_q = (own, self.norm_q.scale(), ctx.img_freqs_cis[:queries])
        if self.last:
            q = self._join(img_q)
        else:
            own = yield from ask(self.add_q_proj, txt)
            txt_q = own, self.norm_added_q.scale(), ctx.txt_freqs_cis
            q = self._join(txt_q, img_q)
            del txt_q
        del own, img_q
        keys_values = self._keys_values(img, txt, ctx)
        del img, txt
        k, v = yield from keys_values
        ctx.look("query", q), ctx.look("key", k), ctx.look("value", v)
        heads = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)
        o = attention(*heads, ctx.mask) if ctx.regions is None else ctx.regions.attend(*heads)
        del q, k, v, heads
        return ctx.look("attention", o.transpose(1, 2).flatten(2))

    def _keys_values(
        self, img: Tensor, txt: Tensor, ctx: PassContext
    ) -> Asking[tuple[Tensor, Tensor]]:
        """Keys and values of text and image [B,L+S,H,d]; where `ctx.cached` is given, those of the
        references are computed once per run."""
        cached = ctx.cached
        if cached is not None:
            ref, img = img[:, ctx.tokens :], img[:, : ctx.tokens]
        k = self._join(
            ((yield from ask(self.add_k_proj, txt)), self.norm_added_k.scale(), ctx.txt_freqs_cis),
            (
                (yield from ask(self.to_k, img)),
                self.norm_k.scale(),
                ctx.img_freqs_cis[: img.shape[1]],
            ),
        )
        values = [(yield from ask(self.add_v_proj, txt)), (yield from ask(self.to_v, img))]
        v = self.heads(torch.cat(values, dim=1))
        del values
        if cached is None:
            return k, v
        if cached.kv is None:  # computed without a stop: the next walk finds it
            freqs_cis = ctx.img_freqs_cis[ctx.tokens :]
            keys = self._join((self.to_k(ref), self.norm_k.scale(), freqs_cis))
            cached.kv = keys, self.heads(self.to_v(ref))
        return torch.cat([k, cached.kv[0]], dim=1), torch.cat([v, cached.kv[1]], dim=1)

    def _join(self, *parts: tuple[Tensor, Tensor, Tensor]) -> Tensor:
        """(projection [B,N,D], norm weight, freqs_cis) of each stream -> [B,sum of N,H,d], normed
        and rotated."""
        views = [(self.heads(x), weight, freqs_cis) for x, weight, freqs_cis in parts]
        if torch.is_grad_enabled():
            return torch.cat([norm_rotate(*view) for view in views], dim=1)
        b, _, h, d = views[0][0].shape
        out = views[0][0].new_empty(b, sum(x.shape[1] for x, _, _ in views), h, d)
        start = 0
        for x, weight, freqs_cis in views:
            norm_rotate(x, weight, freqs_cis, out[:, start : start + x.shape[1]])
            start += x.shape[1]
        return out
