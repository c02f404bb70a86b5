"""The one entry for attention: softmax(q k^T / sqrt(d)) v.

The backend is torch's scaled_dot_product_attention, which picks its own flash kernel on CPU and
CUDA. One exception: on a CPU that multiplies bfloat16 but has no tile unit (AMX), torch's kernel
is no faster in bfloat16 than in float32, so long sequences take a path of our own on oneDNN's
products. `backend()` returns the choice and its reason, for logs and bug reports.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from .interrupt import beat
from .linear import cpu_backend, onednn_linear
from .spread import spread, threads

_QUERIES = 256  # per chunk: its float32 scores against 4096 keys (4 MB) stay in the cache
_LONG = 1 << 20  # queries x keys from which our path is faster (measured at 1056^2 and 4128^2)
_INTERVAL = 4e10  # operations between two beats on a CPU: half a second of one core
_PIECE = 4e9  # operations from which heads are computed on threads of our own
_MASK = 1 << 22  # elements of the largest causal mask
_AFTER_HEAD = 1024  # queries from which those behind a short kept head join it, see `_with_head`
_LEAST = 1024  # queries per call; from 768 on torch's kernel takes 256 at a time, like the whole


def attention(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, causal: bool = False
) -> Tensor:
    """q [B,H,Lq,D], k and v [B,Hk,Lk,D] -> [B,H,Lq,D].

    `mask` is boolean, True = is attended to, broadcastable to [B,H,Lq,Lk]. `causal` lines the last
    query up with the last key, so cached keys in front work. Hk may divide H (grouped queries).
    """
    lq, lk = q.shape[-2], k.shape[-2]
    if mask is None and lq == 1 and q.shape[1] != k.shape[1] and not torch.is_grad_enabled():
        return _of_one_token(q, k, v)
    if mask is None and not causal and _takes_chunks(q, k, v):
        return _in_chunks(q, k, v)
    if mask is None and not causal and _is_long(q, lk):
        return _in_calls(q, k, v)
    if mask is None and causal and _joins_head(q, lk):
        return _with_head(q, k, v)
    if causal and lq != lk:
        if lq * lk > _MASK and lq > _QUERIES:
            return _causal_in_calls(q, k, v)
        mask = torch.ones(lq, lk, dtype=torch.bool, device=q.device).tril(lk - lq)
        causal = False
    return F.scaled_dot_product_attention(
        q, k, v, attn_mask=mask, is_causal=causal, enable_gqa=q.shape[1] != k.shape[1]
    )


def _of_one_token(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """A single query sees all keys. The queries of a group become rows of one product: torch would
    copy keys and values for each of them, at every token of an answer.
    """
    groups = k.shape[1]
    rows = q.view(q.shape[0], groups, -1, q.shape[3])  # [B,Hk,H/Hk,D]
    return F.scaled_dot_product_attention(rows, k, v).view_as(q)


def _joins_head(q: Tensor, keys: int) -> bool:
    lq = q.shape[-2]
    return lq >= _AFTER_HEAD and lq < keys <= lq + lq // 8 and not torch.is_grad_enabled()


def _with_head(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Causal attention of queries behind a few kept keys: with rows for those too, which are thrown
    away, it is square. Torch has kernels for that which need no mask and keep no scores.
    """
    head = k.shape[-2] - q.shape[-2]
    square = torch.cat([q.new_zeros(*q.shape[:2], head, q.shape[3]), q], dim=2)
    gqa = q.shape[1] != k.shape[1]
    return F.scaled_dot_product_attention(square, k, v, is_causal=True, enable_gqa=gqa)[:, :, head:]


def keeps_scores(tokens: int, device: torch.device, dtype: torch.dtype) -> bool:
    """True where causal attention of a prompt of this length keeps all its scores at once: in short
    ones, and in float32 on a card, for which torch has no other kernel with grouped queries.
    """
    return tokens < _AFTER_HEAD or (device.type != "cpu" and dtype == torch.float32)


def _is_long(q: Tensor, keys: int) -> bool:
    return q.device.type == "cpu" and 4 * q.numel() * keys > _PIECE and not torch.is_grad_enabled()


def _in_calls(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attention of single heads and chunks of queries, on all threads, with a beat between them so
    that a run can be cancelled; the bits are the same.
    """
    b, h, length, d = q.shape
    work = max(4 * length * d * k.shape[-2] / _INTERVAL, 2 * threads() / (b * h))
    calls = max(1, min(math.ceil(work), length // _LEAST))
    step = -(-length // calls // _QUERIES) * _QUERIES
    calls, group = math.ceil(length / step), h // k.shape[1]
    out = q.new_empty(b, length, h, d)

    def call(index: int) -> None:
        (i, j), at = divmod(index // calls, h), index % calls * step
        of, one = slice(i, i + 1), slice(j // group, j // group + 1)
        result = F.scaled_dot_product_attention(
            q[of, j : j + 1, at : at + step], k[of, one], v[of, one]
        )  # [1,1,n,D]
        out[i, at : at + step, j] = result[0, 0]

    # fewer pieces than threads: one after the other, each with all of torch's threads
    pieces = b * h * calls
    spread(call, pieces, threads() if pieces >= threads() else 1)
    return out.transpose(1, 2)


def _causal_in_calls(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Causal attention behind other keys in chunks of queries, so that no mask grows with both."""
    lq, lk = q.shape[-2], k.shape[-2]
    parts = []
    for at in range(0, lq, _QUERIES):
        beat()
        stop = min(at + _QUERIES, lq)
        seen = lk - lq + stop
        parts.append(attention(q[:, :, at:stop], k[:, :, :seen], v[:, :, :seen], causal=True))
    return torch.cat(parts, dim=2)


def _takes_chunks(q: Tensor, k: Tensor, v: Tensor) -> bool:
    return (
        q.device.type == "cpu"
        and q.dtype == k.dtype == v.dtype == torch.bfloat16
        and q.shape[1] == k.shape[1]
        and q.shape[-2] * k.shape[-2] >= _LONG
        and not torch.is_grad_enabled()
        and _chunks_pay()
    )


def scratch_bytes(keys: int, width: int, dtype: torch.dtype) -> int:
    """Bytes that attention to this many keys of `width` takes beside its result: of our path, for
    each thread, a head and the scores of its chunk. Torch's kernel takes none that matter."""
    if dtype != torch.bfloat16 or not _chunks_pay():
        return 0
    head = keys * (width * (4 + 2) + _QUERIES * (4 + 4 + 2))  # scores, softmax, rounded
    return head * torch.get_num_threads()


def _chunks_pay() -> bool:
    """True with oneDNN, bf16 products in the processor and no tile unit for torch's own kernel."""
    products = getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    tiles = getattr(torch.cpu, "_is_amx_tile_supported", lambda: True)
    return cpu_backend(torch.bfloat16)[0] == "onednn" and products() and not tiles()


def _in_chunks(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """256 queries of one head at a time: scores and softmax in float32, times v in bfloat16."""
    b, h, length, d = q.shape
    out = q.new_empty(b, length, h, d)
    chunks = math.ceil(length / _QUERIES)
    parts = min(chunks, math.ceil(2 * threads() / (b * h)))  # of a head's queries
    step = math.ceil(chunks / parts) * _QUERIES

    def head(index: int) -> None:
        (i, j), first = divmod(index // parts, h), index % parts * step
        keys = (k[i, j].float() * d**-0.5).contiguous()  # [Lk,D]
        values = v[i, j].t().contiguous()  # [D,Lk]
        for at in range(first, min(first + step, length), _QUERIES):
            scores = onednn_linear(q[i, j, at : at + _QUERIES].float(), keys)  # [n,Lk]
            weights = torch.softmax(scores, dim=-1).to(v.dtype)
            out[i, at : at + _QUERIES, j] = onednn_linear(weights, values)

    spread(head, b * h * parts)
    return out.transpose(1, 2)


def backend(device: torch.device) -> tuple[str, str]:
    """The attention backend for a device and the reason, e.g. ("sdpa", "torch's flash kernel")."""
    reason = f"torch {torch.__version__.split('+')[0]}'s own choice on {device.type}"
    if device.type == "cpu" and _chunks_pay():
        return "sdpa, long bf16 in chunks", f"{reason}; without AMX it gains nothing from bf16"
    return "sdpa", reason
