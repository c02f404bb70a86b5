"""Where the weights of a model are: in memory, leaving it, or coming block by block from the file.

Every loaded model has one `Residency`. Before it works it settles: what it needs is compared with
the room there is, other models that are not at work leave first (they come back from their files),
and what still does not fit is streamed, one block ahead of the one at work. `place` is the whole
decision as a pure function, so `inkstone plan` prints what a run will do.

Nothing waits for a whole file: blocks that stay come in while the ones before them already work.
"""

from __future__ import annotations

import itertools
import logging
import threading
import weakref
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ...errors import InkstoneError
from ...kernels.interrupt import waited
from ...kernels.memory import free_bytes, hand_back, process_bytes
from ...quant.storage import Storage
from .param_slots import ParamSlot, fill_all

log = logging.getLogger(__name__)
_clock = itertools.count(1)
_RESERVE = 0.05  # of measured free memory that is left to the system
_AHEAD = 2  # blocks that are read at once where they stay: one core does not fill the bus


@dataclass(frozen=True)
class Placement:
    """Blocks 0 .. kept - 1 stay in memory, the others are streamed; `nbytes` is the most held."""

    kept: int
    streamed: int
    nbytes: int

    def words(self) -> str:
        """For the log."""
        if not self.streamed:
            return "resident"
        return f"{self.kept} blocks resident, {self.streamed} streamed from the file"


def place(rest: int, groups: Sequence[int], room: int | None) -> Placement:
    """rest: bytes outside of blocks; groups: bytes of each block; room None = no limit.

    Streaming holds two blocks at a time, the one at work and the next. Raises InkstoneError when
    even that does not fit.
    """
    total = rest + sum(groups)
    if room is None or total <= room:
        return Placement(len(groups), 0, total)
    for kept in range(len(groups) - 2, -1, -1):
        need = rest + sum(groups[:kept]) + 2 * max(groups[kept:])
        if need <= room:
            return Placement(kept, len(groups) - kept, need)
    least = rest + 2 * max(groups, default=0)
    raise InkstoneError(
        f"The model needs {least / 1e9:.2f} GB even when streamed block by block, and there is "
        f"room for {max(room, 0) / 1e9:.2f} GB. Give more --memory, close other programs, draw a "
        "smaller picture, or use a file of a smaller type."
    )


class Prefetcher:
    """Brings blocks in, ahead of the one at work. Call `enter(i)` before block i works.

    The first `kept` blocks stay once they are here: a run begins while they are still read. The
    others leave after their work.
    """

    def __init__(
        self, groups: Sequence[Sequence[ParamSlot]], kept: int, device: torch.device, arrived: int
    ) -> None:
        self.arrived = arrived  # blocks 0 .. arrived - 1 are here to stay
        self._groups, self._kept, self._device = groups, kept, device
        self._reader = ThreadPoolExecutor(_AHEAD, "inkstone-stream")
        self._coming: dict[int, Future] = {}
        self._here: int | None = None  # of those that leave

    @property
    def passing(self) -> bool:
        """Some blocks leave again, so each further pass over the network reads them anew."""
        return self._kept < len(self._groups)

    def enter(self, index: int) -> None:
        """Waits until block `index` is in place, and starts to read what comes after it."""
        for block in range(self.arrived, min(index + 1, self._kept)):
            self._bring(block)
            self.arrived = block + 1
        if index >= self._kept and self._here != index:
            self._leave()
            self._bring(index)
            self._here = index
        self._fetch(self._ahead(index))

    def close(self) -> None:
        """Lets go of what does not stay."""
        self._leave()
        self._fetch(())
        self._reader.shutdown(wait=True, cancel_futures=True)

    def _ahead(self, index: int) -> Sequence[int]:
        """What is read while block `index` works: two of those that stay, or one that leaves."""
        if self.arrived < self._kept:
            return range(self.arrived, min(self.arrived + _AHEAD, self._kept))
        if not self.passing:
            return ()
        return (index + 1 if self._kept <= index < len(self._groups) - 1 else self._kept,)

    def _bring(self, index: int) -> None:
        if index not in self._coming:
            self._fetch((index,))
        for slot, value in zip(self._groups[index], waited(self._coming.pop(index))):
            slot.put(value)

    def _leave(self) -> None:
        if self._here is not None:
            for slot in self._groups[self._here]:
                slot.empty()
            self._here = None

    def _fetch(self, wanted: Sequence[int]) -> None:
        for index in [i for i in self._coming if i not in wanted]:  # of a run that was stopped
            self._coming.pop(index).cancel()
        for index in wanted:
            if index not in self._coming and index != self._here:
                self._coming[index] = self._reader.submit(self._read, index)

    def _read(self, index: int) -> list[Tensor | Storage]:
        return [slot.read().to(self._device) for slot in self._groups[index]]


def free_after_asking(need: int, device: torch.device) -> int:
    """Bytes free on a device. Inside ComfyUI its own function of this form takes this place: it
    makes room for `need` bytes by unloading the host's models."""
    return free_bytes(device)


_all: weakref.WeakSet[Residency] = weakref.WeakSet()
_lock = threading.RLock()


def residencies() -> list[Residency]:
    """Of every network that is loaded, whether its weights are in memory or not."""
    return list(_all)


class Residency:
    """The weights of one network. `blocks` are its layers in order of work, where it has some."""

    def __init__(
        self,
        network: nn.Module,
        slots: Sequence[ParamSlot],
        device: torch.device,
        blocks: nn.ModuleList,
    ) -> None:
        self.network, self.device, self.free = network, device, free_after_asking
        owner = {id(m): i for i, block in enumerate(blocks) for m in block.modules()}
        self.groups: list[list[ParamSlot]] = [[] for _ in blocks]
        self.rest: list[ParamSlot] = []
        for slot in slots:
            at = owner.get(id(slot.module))
            (self.rest if at is None else self.groups[at]).append(slot)
        self.placement: Placement | None = None  # None = nothing is in memory
        self._used = 0
        _all.add(self)

    @property
    def sizes(self) -> tuple[int, list[int]]:
        """(bytes outside of blocks, bytes of each block)."""
        return sum(s.nbytes for s in self.rest), [sum(s.nbytes for s in g) for g in self.groups]

    @property
    def nbytes(self) -> int:
        """Bytes when all of it is in memory."""
        rest, groups = self.sizes
        return rest + sum(groups)

    @property
    def held(self) -> int:
        """The most bytes that it holds, with the blocks that are still to come in."""
        return self.placement.nbytes if self.placement else 0

    @property
    def present(self) -> int:
        """The most bytes that it holds until more blocks come in."""
        sizes = self.sizes[1] if self.placement else []
        return self.held - sum(sizes[self._arrived : self.placement.kept]) if sizes else self.held

    @property
    def _arrived(self) -> int:
        """Blocks 0 .. this - 1 are in memory to stay."""
        if self.placement is None:
            return 0
        stream = getattr(self.network, "stream", None)
        return self.placement.kept if stream is None else stream.arrived

    @property
    def least(self) -> int:
        """Bytes that it holds at least when it works: all but two blocks are streamed."""
        rest, groups = self.sizes
        return min(self.nbytes, rest + 2 * max(groups, default=0))

    def settle(
        self,
        budget: int | None = None,
        working: int = 0,
        beside: Sequence[Residency] = (),
        after: Residency | None = None,
    ) -> Placement:
        """Gets ready to work. budget: bytes for the whole process, None = what is free now;
        working: bytes that the work itself will need. Others leave if that makes room, but not
        those `beside`; `after` settles next, and room is left for it. What stays comes in as it is
        needed; `fill` reads all of it now.
        """
        with _lock:
            self._used = next(_clock)
            room = self._room(budget) - working
            room -= after.least if after is not None and not after.held else 0
            whole = self.placement is not None and not self.placement.streamed
            if whole and self.held + self._others_held() <= room:
                return self.placement
            others = [r for r in self._others() if r not in beside]
            others.sort(key=lambda r: (r is after, r._used))
            while others and self.nbytes + self._others_held() > room:
                leaving = others.pop(0)
                leaving.park()
                room -= after.least if leaving is after else 0
            wanted = place(*self.sizes, room - self._others_held())
            if wanted != self.placement:
                self._arrange(wanted)
            return wanted

    def park(self) -> None:
        """Leaves memory; the next `settle` reads the file again."""
        with _lock:
            if self.placement is None:
                return
            log.info("%s leaves memory: %.1f GB", type(self.network).__name__, self.held / 1e9)
            self._close_stream()
            for slot in (*self.rest, *itertools.chain(*self.groups)):
                slot.empty()
            self.placement = None
            hand_back()

    def fill(self) -> None:
        """Reads all that is to stay and is not here yet."""
        with _lock:
            if self.placement is not None and self._arrived < self.placement.kept:
                self._arrange(self.placement, now=True)

    def _arrange(self, wanted: Placement, now: bool = False) -> None:
        had, first = self._arrived, self.placement is None
        self._close_stream()
        for slot in itertools.chain(*self.groups[wanted.kept : had]):
            slot.empty()
        fresh = itertools.chain(*self.groups[had : wanted.kept]) if now else ()
        try:
            fill_all([*(self.rest if first else ()), *fresh], self.device)
        except BaseException:
            for slot in (*self.rest, *itertools.chain(*self.groups)):
                slot.empty()
            self.placement = None
            raise
        self.placement = wanted
        arrived = wanted.kept if now else min(had, wanted.kept)
        if wanted.streamed or arrived < wanted.kept:
            self.network.stream = Prefetcher(self.groups, wanted.kept, self.device, arrived)

    def _close_stream(self) -> None:
        stream = getattr(self.network, "stream", None)
        if stream is not None:
            stream.close()
            self.network.stream = None

    def _others(self) -> list[Residency]:
        return [r for r in _all if r is not self and r.held and r.device == self.device]

    def _others_held(self) -> int:
        return sum(r.held for r in self._others())

    def _room(self, budget: int | None) -> int:
        """Bytes that weights of all models may take on this device."""
        held = self.present + sum(r.present for r in self._others())
        if budget is None:
            return int(self.free(self.nbytes - self.present, self.device) * (1 - _RESERVE)) + held
        if self.device.type != "cpu":
            return budget
        return budget - max(0, process_bytes() - held)


def settle_together(
    main: Residency | None, beside: Sequence[Residency], budget: int | None, working: int
) -> None:
    """Gets a network ready with those that work in the same steps (controls). They are small: they
    come first, and what does not fit of `main` is streamed.
    """
    with _lock:
        for number, one in enumerate(beside):
            one.settle(budget, working, beside[:number], main)
        if main is not None:
            main.settle(budget, working, beside)
