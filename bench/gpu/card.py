"""The device under test: a CUDA card, or the CPU in its place (`--tiny`), with the same methods."""

from __future__ import annotations

import shutil
import statistics
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property

import torch
from torch import Tensor

from bench import harness

FLUSH = 256 << 20  # bytes written between calls: more than any card's second-level cache
_GUARD = 1 << 30  # bytes of the copies whose speed is measured


class Card:
    """A device, its clock, its memory and its measured speeds."""

    def __init__(self, tiny: bool) -> None:
        self.tiny = tiny
        self.device = torch.device("cpu" if tiny else "cuda")
        self.cuda = not tiny
        self._size = _GUARD // (256 if tiny else 1)

    @cached_property
    def facts(self) -> dict[str, str]:
        """The name of the device and the versions that matter."""
        if not self.cuda:
            machine = harness.machine()
            return {"device": f"{machine['cpu']} in place of a card", "torch": torch.__version__}
        import triton

        card = torch.cuda.get_device_properties(self.device)
        return {
            "device": card.name,
            "capability": f"{card.major}.{card.minor}",
            "processors": str(card.multi_processor_count),
            "memory GB": f"{card.total_memory / 1e9:.1f}",
            "driver": _driver(),
            "CUDA": str(torch.version.cuda),
            "torch": torch.__version__,
            "triton": triton.__version__,
        }

    def sync(self) -> None:
        """Waits until the card is done."""
        if self.cuda:
            torch.cuda.synchronize(self.device)

    def clock(self) -> float:
        """Seconds, when the card is done."""
        self.sync()
        return time.perf_counter()

    def seconds(self, call: Callable[[], object], repeats: int = 3) -> float:
        """The best of some calls, by the clock on the wall."""
        times = []
        for _ in range(repeats):
            start = self.clock()
            call()
            times.append(self.clock() - start)
        return min(times)

    def milliseconds(self, call: Callable[[], object], repeats: int) -> float:
        """Median time of a call that begins with a cold second-level cache, as the layers of a
        network do; compilation and first calls apart."""
        call()
        if not self.cuda:
            return 1e3 * self.seconds(call, 1)
        call()
        flush = torch.empty(FLUSH, dtype=torch.uint8, device=self.device)
        pairs = []
        for _ in range(repeats):
            flush.zero_()
            start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            call()
            stop.record()
            pairs.append((start, stop))
        self.sync()
        return statistics.median(start.elapsed_time(stop) for start, stop in pairs)

    # --- memory

    def begin_peak(self) -> int:
        """Begins a new peak; returns what is allocated now."""
        if not self.cuda:
            return harness.resident()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(self.device)
        return int(torch.cuda.memory_allocated(self.device))

    def peak(self) -> int:
        """The most bytes of tensors since then; on a CPU of the process."""
        return int(torch.cuda.max_memory_allocated(self.device)) if self.cuda else harness.peak()

    def free(self) -> int:
        """Bytes that nobody uses, as nvidia-smi counts."""
        from inkstone.kernels.memory import free_bytes

        return free_bytes(self.device)

    @contextmanager
    def least_free(self) -> Iterator[list[int]]:
        """Watches free memory; the list has the least of it."""
        least, done = [self.free()], threading.Event()

        def watch() -> None:
            while not done.wait(0.02):
                least[0] = min(least[0], self.free())

        watcher = threading.Thread(target=watch, daemon=True)
        watcher.start()
        try:
            yield least
        finally:
            done.set()
            watcher.join()

    def forget(self) -> None:
        """Frees what the allocator keeps."""
        if self.cuda:
            torch.cuda.empty_cache()

    # --- speeds

    @cached_property
    def upload(self) -> float:
        """Bytes per second from pinned memory to the card: the best that streaming can do."""
        return self._copies(pinned=self.cuda)

    @cached_property
    def upload_pageable(self) -> float:
        """Bytes per second from ordinary memory."""
        return self._copies(pinned=False)

    def _copies(self, pinned: bool) -> float:
        source = torch.empty(self._size, dtype=torch.uint8, pin_memory=pinned).fill_(1)
        target = torch.empty(self._size, dtype=torch.uint8, device=self.device)
        return self._size / self.seconds(lambda: target.copy_(source))

    @cached_property
    def memory_rate(self) -> float:
        """Bytes per second of a copy within the card, reads and writes counted."""
        source = torch.ones(self._size, dtype=torch.uint8, device=self.device)
        target = torch.empty_like(source)
        return 2 * self._size / self.seconds(lambda: target.copy_(source))

    def products(self, dtype: torch.dtype) -> float:
        """FLOP per second of a large product."""
        if dtype not in self._products:
            n = 512 if self.tiny else 8192
            a, b = (torch.randn(n, n, device=self.device).to(dtype) for _ in range(2))
            self._products[dtype] = 2 * n**3 / self.seconds(lambda: a @ b, 5)
        return self._products[dtype]

    @cached_property
    def _products(self) -> dict[torch.dtype, float]:
        return {}

    def relative(self, got: Tensor, want: Tensor) -> float:
        """||got - want|| / ||want|| in float64, wherever they are."""
        a, b = got.detach().cpu().double(), want.detach().cpu().double()
        return ((a - b).norm() / b.norm()).item()


def _driver() -> str:
    """The driver's version as nvidia-smi says it."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return "unknown"
    call = [tool, "--query-gpu=driver_version", "--format=csv,noheader"]
    done = subprocess.run(call, capture_output=True, text=True, check=False, timeout=20)
    return done.stdout.strip().splitlines()[0] if done.stdout.strip() else "unknown"
