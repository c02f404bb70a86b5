"""Placement of a model's weights: resident in memory, streamed block by block, or only in the file.

Every loaded model has one `Residency`. Before a run it settles: it compares the bytes it needs with
the room there is, evicts idle models (they are loaded again from their files), and streams what
still does not fit, one block ahead of the computation. placement.py makes the whole decision as a
pure function, so `inkstone plan` prints the placement of a run.

Resident blocks are loaded lazily: the first blocks compute while the next ones are still read.
"""

from __future__ import annotations

import itertools
import logging
import threading
import weakref
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Protocol, cast

import torch
from torch import Tensor, nn

from ...kernels.block_streaming import BlockStream
from ...kernels.interrupt import waited
from ...kernels.memory import free_bytes, hand_back, limit_in_the_way, used_bytes
from ...quant.storage import Storage
from .param_slots import ParamSlot, fill_all
from .placement import (
    NotEnoughMemory,
    Occupant,
    Placement,
    PlannedMemory,
    PlannedWeights,
    decide,
    turns,
    what_helps,
)

log = logging.getLogger(__name__)
_clock = itertools.count(1)
_RESERVE = 0.05  # of free memory, with what weights hold, that is left to the system
_NAMES = {
    "MMDiT": "diffusion model",
    "SingleStream": "diffusion model",
    "TextEncoder": "text encoder",
    "VisionTower": "vision tower",
    "DeepVisionTower": "vision tower",
    "OutputHead": "output head",
    "FewTokenForms": "form for single tokens",
}
_AHEAD = 2  # resident blocks that are read at once: one core does not fill the bus


class _Streaming(Protocol):
    """A network that asks a stream before each of its blocks."""

    stream: BlockStream | None


class Prefetcher:
    """Loads blocks ahead of the computation. Call `enter(i)` before block i.

    The first `resident` blocks stay once they are loaded; the others are freed after their use.
    """

    def __init__(
        self,
        groups: Sequence[Sequence[ParamSlot]],
        resident: int,
        device: torch.device,
        loaded: int,
    ) -> None:
        self.loaded = loaded  # blocks 0 .. loaded - 1 are in memory to stay
        self._groups, self._resident, self._device = groups, resident, device
        self._reader = ThreadPoolExecutor(_AHEAD, "inkstone-stream")
        self._pending: dict[int, Future[list[Tensor | Storage]]] = {}
        self._current: int | None = None  # the streamed block that is in memory

    @property
    def evicting(self) -> bool:
        """Some blocks are freed after use, so every further forward reads them again."""
        return self._resident < len(self._groups)

    def enter(self, index: int, stop: int | None = None, back: bool = False) -> None:
        """Waits until block `index` is loaded, and starts to read the next ones, up to `stop`, or
        the one before it where a backward pass goes `back`."""
        for block in range(self.loaded, min(index + 1, self._resident)):
            self._load(block)
            self.loaded = block + 1
        if index >= self._resident and self._current != index:
            self._free()
            self._load(index)
            self._current = index
        self._prefetch([i for i in self._ahead(index, back) if stop is None or i < stop])

    def close(self) -> None:
        """Frees the streamed block and stops reading."""
        self._free()
        self._prefetch(())
        self._reader.shutdown(wait=True, cancel_futures=True)

    def _ahead(self, index: int, back: bool) -> Sequence[int]:
        """The blocks to read while block `index` computes: two resident ones or one streamed."""
        if self.loaded < self._resident:
            return range(self.loaded, min(self.loaded + _AHEAD, self._resident))
        if not self.evicting:
            return ()
        if back:  # the first streamed block stays for the next forward
            return (index - 1,) if index > self._resident else ()
        return (index + 1 if self._resident <= index < len(self._groups) - 1 else self._resident,)

    def _load(self, index: int) -> None:
        if index not in self._pending:
            self._prefetch((index,))
        values = waited(self._pending.pop(index))
        for slot, value in zip(self._groups[index], values):
            slot.put(value)

    def _free(self) -> None:
        if self._current is not None:
            for slot in self._groups[self._current]:
                slot.empty()
            self._current = None

    def _prefetch(self, blocks: Sequence[int]) -> None:
        for index in [i for i in self._pending if i not in blocks]:  # of a run that was stopped
            self._pending.pop(index).cancel()
        for index in blocks:
            if index not in self._pending and index != self._current:
                self._pending[index] = self._reader.submit(self._read, index)

    def _read(self, index: int) -> list[Tensor | Storage]:
        return [slot.read().to(self._device) for slot in self._groups[index]]


class FreeMemory(Protocol):
    """Bytes that are free on a device, see `free_after_asking`."""

    def __call__(self, need: int, device: torch.device, ask: bool = True) -> int: ...


def free_after_asking(need: int, device: torch.device, ask: bool = True) -> int:
    """Bytes free on a device. Inside ComfyUI it is replaced by a function that makes room for
    `need` bytes by unloading the host's models; without `ask` it only says how many there could be.
    """
    return free_bytes(device)


class Beside(Protocol):
    """What is only of use with the weights of a network."""

    def bytes_on(self, device: torch.device) -> int: ...

    def clear(self) -> None: ...


_all: weakref.WeakSet[Residency] = weakref.WeakSet()
_lock = threading.RLock()


def residencies() -> list[Residency]:
    """The residencies of all networks, whether their weights are in memory or not."""
    return list(_all)


class Residency(Occupant):
    """The weights of one network. `blocks` are its layers in order of execution, or empty."""

    def __init__(
        self,
        network: nn.Module,
        slots: Sequence[ParamSlot],
        device: torch.device,
        blocks: nn.ModuleList,
    ) -> None:
        self.network, self.device = network, device
        self.free: FreeMemory = free_after_asking
        owner = {id(m): i for i, block in enumerate(blocks) for m in block.modules()}
        self.groups: list[list[ParamSlot]] = [[] for _ in blocks]
        self.rest: list[ParamSlot] = []
        for slot in slots:
            at = owner.get(id(slot.module))
            (self.rest if at is None else self.groups[at]).append(slot)
        kind = type(network).__name__
        self.name = "control" if kind.endswith("Branch") else _NAMES.get(kind, kind)
        self.placement: Placement | None = None
        self.beside: Beside | None = None  # goes with the weights when they are unloaded
        self._stream: Prefetcher | None = None
        _all.add(self)

    @property
    def sizes(self) -> tuple[int, list[int]]:
        return sum(s.nbytes for s in self.rest), [sum(s.nbytes for s in g) for g in self.groups]

    def spare(self, budget: int | None) -> int:
        """Bytes that are left when all weights are resident. budget: as in `settle`."""
        rest, groups = self.sizes
        held = rest + sum(groups[: self.loaded]) if self.placement is not None else 0
        room = free_bytes(self.device) + held + self.kept
        return max(0, (room if budget is None else min(room, budget)) - rest - sum(groups))

    @property
    def kept(self) -> int:  # type: ignore[override]
        return self.beside.bytes_on(self.device) if self.beside else 0

    @property
    def loaded(self) -> int:
        if self.placement is None:
            return 0
        return self.placement.resident if self._stream is None else self._stream.loaded

    def settle(
        self,
        budget: int | None = None,
        working: int = 0,
        keep: Sequence[Residency] = (),
        after: Sequence[Residency] = (),
    ) -> Placement:
        """Makes room and decides the placement. Resident blocks are loaded lazily; call `fill` to
        load them now.

        budget: bytes for the whole process, None = the bytes free now; working: bytes for
        activations. Evicts other models if that makes room, but never those in `keep`; leaves room
        for those in `after`, which settle next.
        """
        with _lock:
            self.used = next(_clock)
            room = self._room(budget, working) - working
            try:
                placement, evicted = decide(self, self._others(), room, keep, after)
            except NotEnoughMemory as lack:
                need, left = lack.need, lack.room
                enough, limit = self._enough(budget, lack), limit_in_the_way(self.device)
                advice = what_helps(lack.missing, enough, limit)
                raise NotEnoughMemory(need, left, self.name, working, advice) from None
            for other in evicted:
                other.park()
            if placement != self.placement:
                if placement.streamed:
                    log.info("%s: %s", self.name, placement.words())
                self._arrange(placement)
            return placement

    def park(self) -> None:
        """Frees all weights and what goes with them; the next `settle` loads the weights from the
        file again.
        """
        with _lock:
            if not self.reserved:
                return
            log.info("%s is unloaded: %.1f GB", self.name, self.in_memory / 1e9)
            self._close_stream()
            self._empty()
            if self.beside is not None:
                self.beside.clear()
            hand_back()

    def fill(self) -> None:
        """Loads all resident blocks that are not loaded yet."""
        with _lock:
            if self.placement is not None and self.loaded < self.placement.resident:
                self._arrange(self.placement, now=True)

    def _arrange(self, placement: Placement, now: bool = False) -> None:
        """Frees and loads weights for a new placement; `now` loads all of its resident blocks."""
        before, first, resident = self.loaded, self.placement is None, placement.resident
        self._close_stream()
        for slot in itertools.chain(*self.groups[resident:before]):
            slot.empty()
        blocks = itertools.chain(*self.groups[before:resident]) if now else ()
        try:
            fill_all([*(self.rest if first else ()), *blocks], self.device)
        except BaseException:
            self._empty()
            raise
        self.placement = placement
        loaded = resident if now else min(before, resident)
        if placement.streamed or loaded < resident:
            self._set_stream(Prefetcher(self.groups, resident, self.device, loaded))

    def _empty(self) -> None:
        for slot in (*self.rest, *itertools.chain(*self.groups)):
            slot.empty()
        self.placement = None

    def _close_stream(self) -> None:
        if self._stream is not None:
            self._stream.close()
            self._set_stream(None)

    def _set_stream(self, stream: Prefetcher | None) -> None:
        self._stream = stream
        cast(_Streaming, self.network).stream = stream  # only networks with blocks get here

    def _others(self) -> list[Residency]:
        return [r for r in _all if r is not self and r.reserved and r.device == self.device]

    def _enough(self, budget: int | None, lack: NotEnoughMemory) -> int | None:
        """The budget that is enough; None where there is none, or more memory must be free."""
        limited = budget is not None and self._room(budget, 0) < self._room(None, 0)
        return budget + lack.missing if budget is not None and limited else None

    def _room(self, budget: int | None, working: int, makes: bool = True) -> int:
        """Bytes that the weights of all models may take on this device. makes: the host is asked to
        make room; else how much there could be.
        """
        others = self._others()
        held = self.in_memory + sum(r.in_memory for r in others)
        need = self.nbytes + sum(r.reserved for r in others) + working
        ask = max(0, int(need / (1 - _RESERVE)) + 1 - held) if makes else 0
        asked = {} if makes else {"ask": False}
        return room(budget, self.device, held, lambda: self.free(ask, self.device, **asked))


def settle_together(
    main: Residency,
    controls: Sequence[Residency],
    budget: int | None,
    working: int,
    together: int = 0,
) -> bool:
    """Settles a network and the controls that run in the same steps, see `turns`. working: bytes of
    activations; together: see `PlannedMemory.chosen`, whose choice this makes. True: together.
    """
    with _lock:
        chosen = _chosen(main, controls, budget, working, together) if together else working
        for weights, keep, after in turns(main, controls):
            weights.settle(budget, chosen, keep, after)
        return together > 0 and chosen == together


def _chosen(
    main: Residency, controls: Sequence[Residency], budget: int | None, working: int, together: int
) -> int:
    """The bytes of activations that a plan chooses from the memory as it is now."""
    every = dict.fromkeys((*main._others(), *controls, main))
    planned = {one: PlannedWeights.of(one) for one in every}
    present = [weights for one, weights in planned.items() if one.reserved]
    memory = PlannedMemory(main._room(budget, together, False), present)
    return memory.chosen(planned[main], [planned[one] for one in controls], working, together)


def room(budget: int | None, device: torch.device, held: int, free: Callable[[], int]) -> int:
    """Bytes that the weights of all models may take where they take `held` bytes now: within the
    budget (see `Residency.settle`) and what is free.
    """
    most = int((free() + held) * (1 - _RESERVE))
    return most if budget is None else min(most, budget - max(0, used_bytes(device) - held))
