"""Shared by benchmarks with tables of their own: alignment, last lines, the command."""

from __future__ import annotations

import argparse
import sys
import time
from typing import TYPE_CHECKING

from bench import harness

if TYPE_CHECKING:
    import torch
    from torch import nn

    from inkstone.kernels.configs import MMDiTConfig

Cells = list[tuple[str, ...]]
# the command of this tree, in a process of its own, installed or not
_RUN = (
    f"import sys; sys.path.insert(0, {str(harness.ROOT)!r}); import scripts.package; "
    "from inkstone.headless.cli.main import main; sys.exit(main(sys.argv[1:]))"
)
INKSTONE = (sys.executable, "-c", _RUN)


def facts(args: argparse.Namespace) -> dict:
    """Command line, machine and threads, for every report."""
    return {"command": harness.command(), **harness.machine(), "threads": args.threads}


def of_all_layers(seconds: tuple[float, float], layers: tuple[int, int], of: int) -> float:
    """Seconds of a model of `of` layers, from those of files with two other numbers of layers."""
    (short, long), (few, more) = seconds, layers
    return short + (of - few) * (long - short) / (more - few)


def product_rate(dtype: torch.dtype) -> float:
    """FLOP per second of this CPU's largest products."""
    import torch

    from inkstone.kernels.linear import product

    a, b = torch.randn(2048, 4096).to(dtype), torch.randn(4096, 4096).to(dtype)
    best = float("inf")
    with torch.inference_mode():
        for _ in range(5):
            start = time.perf_counter()
            product(a, b)
            best = min(best, time.perf_counter() - start)
    return 2 * 2048 * 4096 * 4096 / best


def step_flop(config: MMDiTConfig, tokens: int, text: int) -> float:
    """FLOP of one forward of the MMDiT: the linear layers of both streams, and attention."""
    total, width = tokens + text, config.width
    linear = 2 * total * (4 * width**2 + 2 * width * config.ff)
    return config.layers * (linear + 4 * total**2 * width)


def aligned(cells: Cells) -> list[str]:
    """Rows of a table, the first column to the left, the others to the right."""
    widths = [max(len(c[i]) for c in cells) for i in range(len(cells[0]))]
    return [
        "  ".join(
            [c[0].ljust(widths[0]), *(v.rjust(w) for v, w in zip(c[1:], widths[1:], strict=True))]
        )
        for c in cells
    ]


def report(title: str, cells: Cells, facts: dict) -> str:
    """Title, table, machine, command."""
    machine = f"{facts['cpu']} ({' '.join(facts['flags'])})"
    foot = f"{machine}, {facts['threads']} threads, torch {facts['torch']}"
    return "\n".join([title, *aligned(cells), foot, f"$ {facts['command']}"])


def ratio(a: float | None, b: float | None) -> str:
    """a / b for a table; "-" where one is missing."""
    return f"{a / b:.3f}" if a and b else "-"


def random_weights(module: nn.Module, dtype: torch.dtype) -> nn.Module:
    """Meta module -> random weights on the CPU, without a float32 copy."""
    import torch

    for p in module.parameters():
        p.data = p.data.to(dtype)
    module = module.to_empty(device="cpu").requires_grad_(False).eval()
    noise = torch.randn(1 << 22).mul_(0.02).to(dtype)  # repeated: drawing all would take minutes
    for p in module.parameters():
        for piece in p.view(-1).split(noise.numel()):
            piece.copy_(noise[: piece.numel()])
    return module
