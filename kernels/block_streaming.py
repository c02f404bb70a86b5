"""Several independent forwards of one network in step, which share one reading of each block where
weights are streamed, and one unpacking of each weight where they are packed.

A forward is a generator, a walk. It stops before each of its blocks, and wherever it needs the
product of a large layer: it does not call the layer but asks for the product (`ask`), so that all
walks that stand at the same layer get theirs together. They share no numbers: every product is of
one walk's own tensor, in the shape that it has in a forward alone.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor, nn

from .interrupt import beat
from .linear import Linear

Result = TypeVar("Result")


class Asked(Protocol):
    """Something that a walk asks for, and stops until it is there."""

    @property
    def key(self) -> tuple[object, ...]:
        """Equal for what is computed together."""

    @staticmethod
    def compute(group: Sequence[Any]) -> None:
        """Answers all of a group with one key."""


class Product:
    """A product that a walk asks for: layer(x), or layer.gelu(x). It holds x until the product is
    there, then that until the walk takes it: neither is kept alive by who waits for whom.
    """

    def __init__(self, layer: Linear, x: Tensor, gelu: bool) -> None:
        self.layer, self.gelu = layer, gelu
        self._tensors = [x]

    @property
    def x(self) -> Tensor:
        """[...,K]."""
        return self._tensors[0]

    @property
    def key(self) -> tuple[object, ...]:
        """Equal for products that are computed together."""
        return id(self.layer), self.gelu, self.x.dtype, self.x.device

    def answer(self, y: Tensor) -> None:
        """Sets the product [...,N]."""
        self._tensors[0] = y

    def take(self) -> Tensor:
        """The product, which is not held here any longer."""
        return self._tensors.pop()

    @staticmethod
    def compute(group: Sequence[Product]) -> None:
        """Answers products with one layer. One goes through the module itself, with its hooks."""
        layer, gelu = group[0].layer, group[0].gelu
        if len(group) == 1:
            group[0].answer(layer.gelu(group[0].x) if gelu else layer(group[0].x))
            return
        ys = layer.each([product.x for product in group], gelu)
        for product in group:
            product.answer(ys.pop(0))


Asking = Generator[Asked | None, None, Result]
"""A part of a walk. It stops for what it asks for, or (None) before a block."""
Walk = Asking[Tensor]
"""A forward that stops before each of its blocks and returns its result after the last that it
computes."""


def ask(layer: nn.Module, x: Tensor, gelu: bool = False) -> Asking[Tensor]:
    """layer(x), x [...,K] -> [...,N], or with `gelu` layer.gelu(x): `y = yield from ask(...)`."""
    assert isinstance(layer, Linear), "all large layers are of this class"
    product = Product(layer, x, gelu)
    del x  # the product frees it
    yield product
    return product.take()


class BlockStream(Protocol):
    """Loads blocks. Who does it, and from where, is loaders/memory/residency.py."""

    @property
    def evicting(self) -> bool:
        """True if some blocks are evicted after use, so that each forward reads them again."""

    def enter(self, index: int, stop: int | None = None, back: bool = False) -> None:
        """Returns once the weights of block `index` are in place. stop: the first block that this
        forward does not need; None = it runs all. back: the one before it follows."""

    def close(self) -> None:
        """Frees the blocks that were loaded."""


class Streamed(Protocol):
    """A network whose blocks can be streamed."""

    stream: BlockStream | None
    transformer_blocks: nn.ModuleList


def in_step(
    network: Streamed, walks: Sequence[Asking[Result]], together: bool = True
) -> list[Result]:
    """The results of several forwards of one network, run block by block, so that they share one
    reading of streamed weights. They share no numbers. A walk may end early (a step cache); a block
    that none of them computes is not read.

    together: their products with each layer too are computed together, which unpacks weights once
    but needs the activations of all walks at a time; without, one walk is inside of a block.
    """
    results: dict[int, Result] = {}
    walking = dict(enumerate(walks))
    last = len(network.transformer_blocks) - 1
    for index in range(last + 1):
        beat()
        _to_next_block(walking, results, together)
        if not walking:
            break
        if network.stream is not None:
            # behind the last block a backward pass goes back; without one a forward begins again
            back = index == last and torch.is_grad_enabled()
            network.stream.enter(index, stop=0 if back else None)
    _to_next_block(walking, results, together)
    if walking:
        raise RuntimeError("a forward has more blocks than its network")
    return [results[number] for number in range(len(walks))]


def side_by_side(parts: Sequence[Asking[Result]]) -> list[Result]:
    """The results of parts of walks that have no stop before a block; what they ask for is computed
    together."""
    results: dict[int, Result] = {}
    _to_next_block(dict(enumerate(parts)), results, together=True)
    return [results[number] for number in range(len(parts))]


def _to_next_block(
    walking: dict[int, Asking[Result]], results: dict[int, Result], together: bool
) -> None:
    """Each walk to its stop before a block, or to its end: then it leaves `walking`."""
    numbers = list(walking)
    for group in [numbers] if together else [[number] for number in numbers]:
        asked: dict[int, Asked] = {}
        order: dict[object, None] = {}  # keys of products, those that were asked for first first
        ready = group
        while ready:
            for number in ready:
                try:
                    product = next(walking[number])
                except StopIteration as end:
                    results[number] = end.value
                    del walking[number]
                    continue
                if product is not None:
                    asked[number] = product
            ready = _answered(asked, order)


def _answered(asked: dict[int, Asked], order: dict[object, None]) -> list[int]:
    """The walks whose products were computed, which leave `asked`: all that stand at the layer that
    the block reads first, so that walks of different lengths meet again behind it.
    """
    order |= dict.fromkeys(product.key for product in asked.values())
    waiting = {product.key for product in asked.values()}
    key = next((key for key in order if key in waiting), None)
    numbers = [number for number, product in asked.items() if product.key == key]
    group = [asked.pop(number) for number in numbers]
    if group:
        group[0].compute(group)
    return numbers
