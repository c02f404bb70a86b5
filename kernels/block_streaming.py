"""Weights that are not all in memory: what a network asks before each of its blocks, and several
independent passes that go through the blocks together, so that each block is brought in once."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import Protocol, TypeVar

from torch import Tensor

from .interrupt import beat

Walk = Generator[None, None, Tensor]
"""A forward that stops before each of its blocks and returns its result after the last."""


Result = TypeVar("Result")


class BlockStream(Protocol):
    """Brings blocks in. Who does it, and from where, is loaders/memory/residency.py."""

    passing: bool  # some blocks leave again: each further pass over the network reads them anew

    def enter(self, index: int) -> None:
        """Returns once the weights of block `index` are in place."""

    def close(self) -> None:
        """Lets go of what was brought in."""


def in_step(
    walks: Sequence[Generator[None, None, Result]], blocks: int, stream: BlockStream | None
) -> list[Result]:
    """The results of passes over one network, block by block: their numbers never meet."""
    for index in range(blocks):
        beat()
        for walk in walks:
            next(walk)
        if stream is not None:
            stream.enter(index)
    return [_result(walk) for walk in walks]


def _result(walk: Generator[None, None, Result]) -> Result:
    try:
        next(walk)
    except StopIteration as end:
        return end.value
    raise RuntimeError("a pass has more blocks than its network")
