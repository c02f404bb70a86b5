"""Finite check of the first step: names the block and the operation instead of saving black."""

from __future__ import annotations

import torch
from torch import Tensor

from ..errors import InkstoneError


def is_finite(x: Tensor) -> bool:
    """True if no element is NaN or infinite. Tries the sum first: one pass without a copy."""
    return bool(torch.isfinite(x.sum(dtype=torch.float32))) or bool(torch.isfinite(x).all())


def check(where: str, x: Tensor, weights: str) -> None:
    """Raises if `x` holds NaN or infinities. `where` names block and operation."""
    if is_finite(x):
        return
    bad = int((~torch.isfinite(x)).sum())
    raise InkstoneError(
        f"{where}: {bad} of {x.numel()} values are not finite ({x.dtype}, weights {weights}), so "
        "no picture was saved. Try --dtype float32; if the error stays, the weight file is "
        "damaged: compare its hash and download it again."
    )
