"""Classifier-free guidance with the norm rescale of the Qwen-Image pipelines."""

from __future__ import annotations

import torch
from torch import Tensor


def guide(positive: Tensor, negative: Tensor, scale: float, rescale: bool = True) -> Tensor:
    """c = neg + scale * (pos - neg), rescaled per token to the length of pos.

    positive, negative [B,S,64] velocities of the target tokens. Reference: QwenImagePipeline; the
    layered one does not rescale. A zero prediction stays zero (the reference would divide by zero).
    """
    combined = negative + scale * (positive - negative)
    if not rescale:
        return combined
    length = torch.linalg.vector_norm(combined, dim=-1, keepdim=True)
    target = torch.linalg.vector_norm(positive, dim=-1, keepdim=True)
    return combined * (target / length.where(length > 0, torch.ones_like(length)))
