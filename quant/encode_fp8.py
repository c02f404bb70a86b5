"""Encoding a matrix as float8 e4m3 with one scale, as ComfyUI reads it (`scale_weight`)."""

import torch
from torch import Tensor

E4M3 = torch.float8_e4m3fn
LARGEST = 448.0  # of e4m3


def scale_of(largest: float) -> float:
    """The scale of a matrix whose largest magnitude this is; 1 for a matrix of zeros."""
    scale = float(torch.tensor(largest, dtype=torch.float32) / LARGEST)
    return scale if scale > 0 else 1.0


def encode_fp8(rows: Tensor, scale: float) -> Tensor:
    """Weights [r, columns] -> bytes of the same shape. The largest weight becomes 448."""
    codes = (rows.float() / scale).clamp_(-LARGEST, LARGEST).to(E4M3)
    return codes.view(torch.uint8)
