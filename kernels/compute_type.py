"""The type to compute in on this machine, measured once.

Half types on a CPU are 2 times faster than float32 where it has the instructions and 5-13 times
slower where it has not, and so it is with int8: never guessed from flags (virtual machines report
wrong ones). Every choice is returned with its reason.
"""

from __future__ import annotations

import functools
import math
import time
from typing import Protocol

import torch
from torch import nn

from .linear import Linear, product

_HOPELESS = 3  # times slower at the first try: no warm-up makes up for that
_FASTER = 1.2  # times as fast as floats, from which int8 is used


def _seconds(dtype: torch.dtype, against: float = math.inf) -> float:
    """Seconds of a product of a typical size (512 tokens, 2048 wide), best of three; of one try
    where that is far slower than `against`."""
    a, b = torch.ones(512, 2048, dtype=dtype), torch.ones(2048, 2048, dtype=dtype)
    times = []
    with torch.no_grad():
        for _ in range(4):
            start = time.perf_counter()
            torch._int_mm(a, b.t()) if dtype == torch.int8 else product(a, b)
            times.append(time.perf_counter() - start)
            if times[0] > _HOPELESS * against:
                return times[0]
    return min(times[1:])


@functools.cache
def best_dtype(device_type: str) -> tuple[torch.dtype, str]:
    """The fastest exact-enough type for large products on this device, and why.

    CPU: bfloat16 if a measured product is at least 1.3 times faster than float32.
    CUDA: bfloat16 where the card has it, else float32 (float16 overflows in this model).
    """
    if device_type == "cuda":
        if torch.cuda.is_bf16_supported(including_emulation=False):
            return torch.bfloat16, "bf16 units"
        return torch.float32, "no bf16 units, fp16 overflows"
    if device_type != "cpu":
        return torch.float32, f"unmeasured device {device_type}"
    plain = _seconds(torch.float32)
    ratio = plain / _seconds(torch.bfloat16, plain)
    if ratio >= 1.3:
        return torch.bfloat16, f"bf16 products measured {ratio:.1f}x as fast as fp32 on this CPU"
    return torch.float32, f"bf16 products measured only {ratio:.2f}x as fast as fp32 on this CPU"


@functools.cache
def int8_refusal(device_type: str, dtype: torch.dtype) -> str:
    """Why products that would be in `dtype` are not computed in int8 on this device; "" where they
    are."""
    if device_type != "cpu":
        return f"int8 products are for CPUs, and this is {device_type}"
    try:
        x = torch.arange(-127, 128).to(torch.int8)[None]
        if torch._int_mm(x, x.t().contiguous()).item() != int((x.long() ** 2).sum()):
            return "this torch's int8 product failed its check"
        floats = _seconds(dtype)
        codes = _seconds(torch.int8, floats)
    except (AttributeError, NotImplementedError, RuntimeError) as error:
        return f"this torch has no int8 product for CPUs ({type(error).__name__})"
    if floats < _FASTER * codes:
        name = str(dtype).removeprefix("torch.")
        return (
            f"int8 products measured only {floats / codes:.2f}x as fast as {name} here: this CPU "
            "seems to have no VNNI instructions"
        )
    return ""


class HasBlocks(Protocol):
    """A diffusion network."""

    transformer_blocks: nn.ModuleList
    int8: bool


def compute_in_int8(network: HasBlocks) -> None:
    """From here on the matrices of attention and MLP in its blocks are multiplied in int8. What
    leads into the blocks and out of them is not, and neither is the modulation."""
    network.int8 = True
    for module in network.transformer_blocks.modules():
        if isinstance(module, Linear):
            module.int8 = True
