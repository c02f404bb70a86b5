"""One door for linear layers, and the choice of arithmetic on this machine.

Half types on a CPU are 2 times faster than float32 where it has the instructions and 5-13 times slower
where it has not, so the choice is measured once, never guessed from flags (they lie in virtual
machines), and returned with its reason.
"""

from __future__ import annotations

import functools
import time

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Linear(nn.Linear):
    """y = x W^T + b. Every linear layer of the networks is this class, so a storage format or a LoRA
    has one place to attach."""

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight, self.bias)


def _seconds(dtype: torch.dtype) -> float:
    """Best of three of a product of the size that matters (512 tokens, 2048 wide)."""
    a, b = torch.ones(512, 2048, dtype=dtype), torch.ones(2048, 2048, dtype=dtype)
    times = []
    for _ in range(4):
        start = time.perf_counter()
        F.linear(a, b)
        times.append(time.perf_counter() - start)
    return min(times[1:])


@functools.cache
def best_dtype(device_type: str) -> tuple[torch.dtype, str]:
    """The fastest exact-enough type for large products on this device, and why.

    CPU: bfloat16 if a measured product is at least 1.3 times faster than float32.
    CUDA: bfloat16 where the card has it, else float32 (float16 overflows in this model).
    """
    if device_type == "cuda":
        ok = torch.cuda.is_bf16_supported(including_emulation=False)
        return (torch.bfloat16, "bf16 units") if ok else (torch.float32, "no bf16 units, fp16 overflows")
    if device_type != "cpu":
        return torch.float32, f"unmeasured device {device_type}"
    ratio = _seconds(torch.float32) / _seconds(torch.bfloat16)
    if ratio >= 1.3:
        return torch.bfloat16, f"bf16 products measured {ratio:.1f}x as fast as fp32 on this CPU"
    return torch.float32, f"bf16 products measured only {ratio:.2f}x as fast as fp32 on this CPU"
