"""Keys and values of text and references, kept over the steps of a run and over runs.

In Qwen-Image-2.1 the prefix (text and references) has the modulation of t = 0 and sees nothing of
the target, so its keys and values in every block are the same in every step, for every seed and, as
our positions count, every size of the target. The first forward of a prompt fills the store; the
others compute the target only. They are the numbers that the forward would compute: a run with the
store is bit-equal to one without.

Each half of CFG has its own prompt, so its own store; what a store belongs to is in its key.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

Place = Literal["off", "device", "host"]


class PrefixStore:
    """Keys and values [n,P,H,d] of one prompt in every block, on the device or in main memory."""

    def __init__(self, layers: int, host: bool = False) -> None:
        self.layers, self.host = layers, host
        self._pairs: dict[int, tuple[Tensor, Tensor]] = {}

    @property
    def filled(self) -> bool:
        """True once a forward has gone through all blocks; one that was stopped fills it again."""
        return len(self._pairs) == self.layers

    @property
    def nbytes(self) -> int:
        """Bytes of all keys and values."""
        return sum(t.nbytes for t in self._tensors)

    def bytes_on(self, device: torch.device) -> int:
        """Those of them in the memory of a device."""
        return sum(t.nbytes for t in self._tensors if t.device.type == device.type)

    @property
    def _tensors(self) -> list[Tensor]:
        return [t for pair in list(self._pairs.values()) for t in pair]

    def keep(self, block: int, keys: Tensor, values: Tensor) -> None:
        """Stores what a block computed."""
        pair = keys.detach(), values.detach()
        self._pairs[block] = _to_host(pair) if self.host else pair

    def read(self, block: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """The keys and values of a block on a device."""
        keys, values = self._pairs[block]
        return keys.to(device, non_blocking=True), values.to(device, non_blocking=True)

    def clear(self) -> None:
        """Frees everything; the next forward fills the store again."""
        self._pairs.clear()


def _to_host(pair: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """Copies in main memory, pinned where they come from a card: the way back is twice as fast."""
    keys, values = pair
    if keys.device.type != "cuda":
        return keys.cpu(), values.cpu()
    pinned = [torch.empty(t.shape, dtype=t.dtype, pin_memory=True).copy_(t) for t in pair]
    return pinned[0], pinned[1]


class PrefixStores:
    """The stores of the last run by their keys: one for each half of CFG.

    A key is a digest of all that the numbers depend on: the prompt's states, where references stand
    and what they are, LoRAs and weights. A run frees the stores that it does not read, as they are
    large and a memory plan counts its own.
    """

    def __init__(self) -> None:
        self._stores: dict[str, PrefixStore] = {}

    def of(
        self,
        keys: Sequence[str],
        layers: int,
        place: Place,
        besides: Sequence[PrefixStore | None] = (),
    ) -> list[PrefixStore | None]:
        """The stores of the prompts of a run, new where there is none; None where they are off. All
        others are freed but those in `besides`.
        """
        stay = {key: store for key, store in self._stores.items() if store in besides}
        own = {} if place == "off" else {key: self._of(key, layers, place) for key in keys}
        self._stores = stay | own
        return [own.get(key) for key in keys]

    def _of(self, key: str, layers: int, place: Place) -> PrefixStore:
        store = self._stores.get(key)
        if store is None or store.host != (place == "host") or store.layers != layers:
            return PrefixStore(layers, place == "host")
        return store

    @property
    def nbytes(self) -> int:
        """Bytes of all stores."""
        return sum(store.nbytes for store in list(self._stores.values()))

    def bytes_on(self, device: torch.device) -> int:
        """Bytes of all stores in the memory of a device."""
        return sum(store.bytes_on(device) for store in list(self._stores.values()))

    def clear(self) -> None:
        """Frees all stores, also those that a run still holds."""
        for store in self._stores.values():
            store.clear()
        self._stores = {}
