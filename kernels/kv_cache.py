"""Keys and values of the tokens that a language model has read, in buffers that grow in chunks.

The first tokens get exactly the room they need, so encoding a prompt wastes none. From then on
`CHUNK` tokens more are allocated at a time, so a new token copies only itself. The values are those
that the layers computed: a forward with the cache gives the numbers of one over all tokens.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .configs import TextConfig

CHUNK = 256  # tokens


class KeyValues:
    """One row of a batch: keys, already rotated, and values of every layer, [1,Hk,L,d]."""

    def __init__(self, layers: int) -> None:
        self._buffers: list[tuple[Tensor, Tensor] | None] = [None] * layers
        self._lengths = [0] * layers

    @property
    def length(self) -> int:
        """Tokens that every layer has seen."""
        return min(self._lengths, default=0)

    @property
    def nbytes(self) -> int:
        """Bytes of all buffers."""
        return sum(t.nbytes for pair in self._buffers if pair is not None for t in pair)

    def extend(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Appends k and v [1,Hk,n,d] of new tokens; returns those of all tokens so far."""
        start = self._lengths[layer]
        stop = start + k.shape[2]
        pair = self._buffers[layer]
        if pair is None or pair[0].shape[2] < stop:
            pair = self._buffers[layer] = self._grown(pair, start, stop, k)
        for buffer, new in zip(pair, (k, v)):
            buffer[:, :, start:stop] = new
        self._lengths[layer] = stop
        return pair[0][:, :, :stop], pair[1][:, :, :stop]

    def head(self, length: int) -> KeyValues:
        """A copy of the first `length` tokens."""
        copy = KeyValues(len(self._buffers))
        for layer, pair in enumerate(self._buffers):
            assert pair is not None and self._lengths[layer] >= length, "not read yet"
            copy.extend(layer, pair[0][:, :, :length], pair[1][:, :, :length])
        return copy

    @staticmethod
    def _grown(
        pair: tuple[Tensor, Tensor] | None, start: int, stop: int, like: Tensor
    ) -> tuple[Tensor, Tensor]:
        room = stop if pair is None else room_of(stop)
        shape = (*like.shape[:2], room, like.shape[3])
        grown = like.new_empty(shape), like.new_empty(shape)
        if pair is not None:
            for new, old in zip(grown, pair):
                new[:, :, :start] = old[:, :, :start]
        return grown


def room_of(tokens: int) -> int:
    """Tokens that a grown buffer has room for."""
    return -(-tokens // CHUNK) * CHUNK


def cache_bytes(config: TextConfig, tokens: int, dtype: torch.dtype) -> int:
    """Bytes of a row that has grown to `tokens`, with the old buffers of the layer that grows."""
    one = 2 * config.kv_heads * config.head_dim * room_of(tokens) * dtype.itemsize
    return one * (config.layers + 1)
