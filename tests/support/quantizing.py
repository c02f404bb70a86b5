"""A small source of quantizations."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import torch

from inkstone.kernels.configs import MMDiTConfig
from inkstone.loaders.arch.expected_tensors import mmdit_layout

SMALL = MMDiTConfig(layers=3, heads=2, head_dim=128, channels=64, joint=256, ff=512)
Q = "transformer_blocks.1.attn.to_q.weight"


def quiet(value: int, total: int) -> None:
    """No progress."""


def tensors(config: MMDiTConfig = SMALL) -> dict[str, torch.Tensor]:
    torch.manual_seed(1)
    return {n: (torch.randn(s) * 0.02).bfloat16() for n, s in mmdit_layout(config).items()}


def left(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def forked(run: Callable[[], object]) -> int:
    """Runs in a child process; returns its id. (A fork, since importing torch takes seconds.)"""
    child = os.fork()
    if child:
        return child
    try:
        torch.set_num_threads(1)
        run()
        os._exit(0)
    except BaseException:
        os._exit(1)
