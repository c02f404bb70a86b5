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

_TURNS = 12  # of each type
# of this thread's own work where that clock is fine enough, so that programs at work do not count
_FINE = time.get_clock_info("thread_time").resolution < 1e-4
_clock = time.thread_time if _FINE else time.perf_counter
_HOPELESS = 3  # times slower in three turns: no warm-up makes up for that
_FASTER = 1.2  # times as fast as floats, from which int8 is used


def _seconds(dtype: torch.dtype) -> float:
    """Seconds of a product of 256 tokens, 1024 wide."""
    a, b = torch.ones(256, 1024, dtype=dtype), torch.ones(1024, 1024, dtype=dtype)
    start = _clock()
    torch._int_mm(a, b.t()) if dtype == torch.int8 else product(a, b)
    return _clock() - start


def _speed(dtype: torch.dtype, other: torch.dtype) -> float:
    """How many times as fast products in `dtype` are as in `other`: both in turns on one thread,
    the best of each."""
    best, number = {dtype: math.inf, other: math.inf}, torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.no_grad():
            for turn in range(_TURNS):
                for kind in best:
                    best[kind] = min(best[kind], _seconds(kind))
                if turn > 1 and best[dtype] > _HOPELESS * best[other]:
                    break
    finally:
        torch.set_num_threads(number)
    return best[other] / best[dtype]


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
    ratio = _speed(torch.bfloat16, torch.float32)
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
        ratio = _speed(torch.int8, dtype)
    except (AttributeError, NotImplementedError, RuntimeError) as error:
        return f"this torch has no int8 product for CPUs ({type(error).__name__})"
    if ratio < _FASTER:
        name = str(dtype).removeprefix("torch.")
        return (
            f"int8 products measured only {ratio:.2f}x as fast as {name} here: this CPU "
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
