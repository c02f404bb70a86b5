"""One door for attention: softmax(q k^T / sqrt(d)) v.

The backend is torch's scaled_dot_product_attention, which picks its own flash kernel on CPU and
CUDA. One exception: on a CPU that multiplies bfloat16 but has no tile unit (AMX), torch's kernel
is no faster in bfloat16 than in float32, so long sequences take a path of our own on oneDNN's
products. `backend()` says which and why, for logs and bug reports.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from .interrupt import beat
from .linear import cpu_backend, onednn_linear

_QUERIES = 256  # per piece: its float32 scores against 4096 keys (4 MB) stay in the cache
_LONG = 1 << 20  # queries x keys from which our path is faster (measured at 1056^2 and 4128^2)
_PULSE = 4e10  # operations of one call on a CPU: half a second of one core
_LEAST = 1024  # queries of a call; from 768 on torch's kernel takes 256 at a time, like the whole


def attention(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, causal: bool = False
) -> Tensor:
    """q [B,H,Lq,D], k and v [B,Hk,Lk,D] -> [B,H,Lq,D].

    `mask` is boolean, True = may be seen, broadcastable to [B,H,Lq,Lk]. `causal` lines the last
    query up with the last key, so cached keys in front work. Hk may divide H (grouped queries).
    """
    lq, lk = q.shape[-2], k.shape[-2]
    if mask is None and not causal and _takes_pieces(q, k, v):
        return _in_pieces(q, k, v)
    if mask is None and not causal and _outlasts_a_pulse(q, lk):
        return _in_calls(q, k, v)
    if causal and lq != lk:
        mask = torch.ones(lq, lk, dtype=torch.bool, device=q.device).tril(lk - lq)
        causal = False
    return F.scaled_dot_product_attention(
        q, k, v, attn_mask=mask, is_causal=causal, enable_gqa=q.shape[1] != k.shape[1]
    )


def _outlasts_a_pulse(q: Tensor, keys: int) -> bool:
    long = q.device.type == "cpu" and 4 * q.numel() * keys > _PULSE and q.shape[-2] >= 2 * _LEAST
    return long and not torch.is_grad_enabled()


def _in_calls(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Some queries at a time, so that a stop need not wait for all of them; the same bits."""
    b, h, length, d = q.shape
    calls = min(math.ceil(4 * q.numel() * k.shape[-2] / _PULSE), length // _LEAST)
    step = -(-length // calls // _QUERIES) * _QUERIES
    out = q.new_empty(b, length, h, d)
    for at in range(0, length, step):
        beat()
        part = slice(at, at + step)
        found = F.scaled_dot_product_attention(
            q[:, :, part], k, v, enable_gqa=h != k.shape[1]
        )  # [B,H,n,D]
        out[:, part] = found.transpose(1, 2)
    return out.transpose(1, 2)


def _takes_pieces(q: Tensor, k: Tensor, v: Tensor) -> bool:
    return (
        q.device.type == "cpu"
        and q.dtype == k.dtype == v.dtype == torch.bfloat16
        and q.shape[1] == k.shape[1]
        and q.shape[-2] * k.shape[-2] >= _LONG
        and not torch.is_grad_enabled()
        and _pieces_pay()
    )


def _pieces_pay() -> bool:
    """oneDNN is there, the processor has bf16 products and no tile unit for torch's own kernel."""
    products = getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    tiles = getattr(torch.cpu, "_is_amx_tile_supported", lambda: True)
    return cpu_backend(torch.bfloat16)[0] == "onednn" and products() and not tiles()


def _in_pieces(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Scores and softmax in float32, the product with v in bfloat16; one head, 256 queries."""
    b, h, length, d = q.shape
    out = q.new_empty(b, length, h, d)
    for i in range(b):
        for j in range(h):
            beat()
            keys = (k[i, j].float() * d**-0.5).contiguous()  # [Lk,D]
            values = v[i, j].t().contiguous()  # [D,Lk]
            for at in range(0, length, _QUERIES):
                scores = onednn_linear(q[i, j, at : at + _QUERIES].float(), keys)  # [n,Lk]
                weights = torch.softmax(scores, dim=-1).to(v.dtype)
                out[i, at : at + _QUERIES, j] = onednn_linear(weights, values)
    return out.transpose(1, 2)


def backend(device: torch.device) -> tuple[str, str]:
    """The attention backend for a device and the reason, e.g. ("sdpa", "torch's flash kernel")."""
    reason = f"torch {torch.__version__.split('+')[0]}'s own choice on {device.type}"
    if device.type == "cpu" and _pieces_pay():
        return "sdpa, long bf16 in pieces", f"{reason}; it gains nothing from bf16 without AMX"
    return "sdpa", reason
