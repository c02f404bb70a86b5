"""One door for attention: softmax(q k^T / sqrt(d)) v.

The backend is torch's scaled_dot_product_attention everywhere; it picks its own flash kernel on CPU
and CUDA. `backend()` says which and why, for logs and bug reports.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, causal: bool = False) -> Tensor:
    """q [B,H,Lq,D], k and v [B,Hk,Lk,D] -> [B,H,Lq,D].

    `mask` is boolean, True = may be seen, broadcastable to [B,H,Lq,Lk]. `causal` lines the last query
    up with the last key, so cached keys in front work. Hk may divide H (grouped queries).
    """
    lq, lk = q.shape[-2], k.shape[-2]
    if causal and lq != lk:
        mask = torch.ones(lq, lk, dtype=torch.bool, device=q.device).tril(lk - lq)
        causal = False
    return F.scaled_dot_product_attention(
        q, k, v, attn_mask=mask, is_causal=causal, enable_gqa=q.shape[1] != k.shape[1]
    )


def backend(device: torch.device) -> tuple[str, str]:
    """The attention backend for a device and the reason, e.g. ("sdpa", "torch's flash kernel")."""
    return "sdpa", f"torch {torch.__version__.split('+')[0]}'s own choice on {device.type}"
