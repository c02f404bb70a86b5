"""Streaming of weights that are not all resident: the interface a network calls before each of its
blocks, and several independent forwards that share one reading of each block."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import Protocol, TypeVar

from torch import Tensor, nn

from .interrupt import beat

Walk = Generator[None, None, Tensor]
"""A forward that stops before each of its blocks and returns its result after the last that it
computes."""


Result = TypeVar("Result")


class BlockStream(Protocol):
    """Loads blocks. Who does it, and from where, is loaders/memory/residency.py."""

    @property
    def evicting(self) -> bool:
        """True if some blocks are evicted after use, so that each forward reads them again."""

    def enter(self, index: int, stop: int | None = None) -> None:
        """Returns once the weights of block `index` are in place. stop: the first block that this
        forward does not need; None = it runs all."""

    def close(self) -> None:
        """Frees the blocks that were loaded."""


class Streamed(Protocol):
    """A network whose blocks can be streamed."""

    stream: BlockStream | None
    transformer_blocks: nn.ModuleList


def in_step(network: Streamed, walks: Sequence[Generator[None, None, Result]]) -> list[Result]:
    """The results of several forwards of one network, run block by block, so that they share one
    reading of streamed weights. They share no numbers. A walk may end early (a step cache); a block
    that none of them computes is not read.
    """
    results: dict[int, Result] = {}
    walking = dict(enumerate(walks))
    for index in range(len(network.transformer_blocks)):
        beat()
        for number, walk in list(walking.items()):
            try:
                next(walk)
            except StopIteration as end:
                results[number] = end.value
                del walking[number]
        if not walking:
            break
        if network.stream is not None:
            network.stream.enter(index)
    results |= {number: _result(walk) for number, walk in walking.items()}
    return [results[number] for number in range(len(walks))]


def _result(walk: Generator[None, None, Result]) -> Result:
    try:
        next(walk)
    except StopIteration as end:
        return end.value
    raise RuntimeError("a forward has more blocks than its network")
