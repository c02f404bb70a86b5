"""The choice between the two kernels for a product on a GPU, and its tiles. Needs no GPU.

On paper (no figure here was measured on a card): at 4096 tokens a layer is bound by arithmetic, the
library's product is the better one, and unpacking before it costs one pass over the weight. With
few tokens the weight's bytes are the cost, and reading them packed is all there is to win.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

import torch

HOWS = ("fused", "unpack")
UNPACK_FROM = 512  # tokens; on paper, see above
MATRIX_UNITS = (8, 0)  # compute capability; for 7.5 Triton 3.7 compiles products without them
MOST_SPLITS = 8
LEAST_STEPS = 8  # in each part of K

_forced: ContextVar[str | None] = ContextVar("inkstone_triton_how", default=None)


@dataclass(frozen=True)
class Tile:
    """Tokens and rows of the weight that one program works on, its warps and pipeline stages."""

    tokens: int
    rows: int
    warps: int
    stages: int


# by the most tokens; as compiled, shared memory is at most 36 KB on 8.0 and 12.0, 68 KB on 9.0
TILES = {16: Tile(16, 64, 4, 3), 32: Tile(32, 64, 4, 3), 64: Tile(64, 64, 4, 3)}
LARGE = Tile(128, 64, 4, 2)


def tile(tokens: int) -> Tile:
    """The tile for this number of tokens."""
    return next((t for most, t in TILES.items() if tokens <= most), LARGE)


def splits(programs: int, steps: int, processors: int) -> int:
    """The number of parts of K, so that there are two programs for every processor."""
    parts = 1
    while (
        parts < MOST_SPLITS
        and programs * parts < 2 * processors
        and steps // (2 * parts) >= LEAST_STEPS
    ):
        parts *= 2
    return parts


@contextmanager
def force(how: str | None) -> Iterator[None]:
    """Force one of HOWS for the products within the block (tests, benchmarks, bug reports)."""
    token = _forced.set(how)
    try:
        yield
    finally:
        _forced.reset(token)


def choose(
    kind: str, dtype: torch.dtype, tokens: int, device: torch.device, gradient: bool = False
) -> tuple[str, str]:
    """(one of HOWS, reason) for a product of `tokens` with a weight of this type."""
    forced = _forced.get()
    if forced is not None:
        return forced, "forced"
    if gradient:
        return "unpack", "the fused kernel has no backward"
    return _choose(kind, dtype, tokens >= UNPACK_FROM, device)


@functools.cache
def _choose(kind: str, dtype: torch.dtype, many: bool, device: torch.device) -> tuple[str, str]:
    if dtype == torch.float32:
        return "unpack", "matrix units do not take float32: the library's product is used"
    if device.type == "cuda" and torch.cuda.get_device_capability(device) < MATRIX_UNITS:
        return "unpack", "Triton does not use the matrix units of a card before 8.0"
    if many:
        return "unpack", f"from {UNPACK_FROM} tokens on the library's product wins (on paper)"
    return "fused", f"{kind} is read packed: below {UNPACK_FROM} tokens bytes cost most (on paper)"
