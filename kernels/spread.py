"""Pieces of work on threads that take the next piece when they are done with one.

torch cuts an operation into equal parts, one for each core, and waits for the last: a core that
another program holds makes each operation wait for its turn, some 8 ms, and a network has tens of
thousands of them. Here each thread computes whole pieces by itself, with torch's operations on one
thread, and a slow one takes fewer pieces.
"""

from __future__ import annotations

import itertools
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, TimeoutError
from contextlib import contextmanager
from typing import Generic, TypeVar

import torch

from .interrupt import beat

Work = Callable[[int], None]
Scratch = TypeVar("Scratch")

_FEW = 4  # threads up to which what is not spread may run on one
_BEAT = 0.05  # seconds between two beats while threads work
_lock = threading.Lock()


class _Here(threading.local):
    """What a thread is."""

    running = False  # one of a pool
    apart = 0  # in `apart`: the threads that `spread` uses


_here = _Here()
_pools: dict[int, ThreadPoolExecutor] = {}  # by their number of threads


def threads() -> int:
    """Threads that `spread` uses when called from here: torch's, but one where gradients are on and
    in a piece of work."""
    if torch.is_grad_enabled() or _here.running:
        return 1
    return _here.apart or torch.get_num_threads()


@contextmanager
def apart(device: torch.device) -> Iterator[None]:
    """Within the block only `spread` uses more than one thread: torch's own threads wait for work
    in a loop, and take from others the core that they wait on. For work on a CPU of few cores, all
    of which is spread but for small operations."""
    number = threads()
    if device.type != "cpu" or not 1 < number <= _FEW or _here.apart:
        yield
        return
    executor(number)
    _here.apart = number
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(number)
        _here.apart = 0


def spread(work: Work, count: int, most: int | None = None) -> None:
    """Calls work(0) ... work(count - 1) once each, in no order, on as many threads as torch has.

    most: fewer threads than that. Pieces must not depend on each other. The first exception of a
    piece is raised here, after all threads have stopped; so is what a beat raises.
    """
    number = min(threads(), count if most is None else most, count)
    if number <= 1:
        for index in range(count):
            beat()
            work(index)
        return
    numbers = itertools.count()  # its next() is one step of the interpreter
    stopped = threading.Event()
    inference = torch.is_inference_mode_enabled()

    def take() -> None:
        with torch.inference_mode(inference), torch.no_grad():
            while not stopped.is_set() and (index := next(numbers)) < count:
                try:
                    work(index)
                except BaseException:
                    stopped.set()
                    raise

    futures = [executor(threads()).submit(take) for _ in range(number)]
    try:
        for future in futures:
            _wait(future)
    finally:
        stopped.set()
        failures = [future.exception() for future in futures]  # waits for all
    for failure in failures:
        if failure is not None:
            raise failure


class Buffers(Generic[Scratch]):
    """Scratch tensors, or records of them, one for each thread that works at a time."""

    def __init__(self, make: Callable[[], Scratch]) -> None:
        self._make = make
        self._free: list[Scratch] = []

    @contextmanager
    def one(self) -> Iterator[Scratch]:
        """A buffer of this thread's own, with numbers of earlier pieces in it."""
        try:
            buffer = self._free.pop()
        except IndexError:
            buffer = self._make()
        try:
            yield buffer
        finally:
            self._free.append(buffer)


def _wait(future: Future[None]) -> None:
    """Returns when the thread is done, however it ended; beats meanwhile."""
    while not future.done():
        try:
            future.exception(_BEAT)
        except TimeoutError:
            beat()


def executor(number: int) -> ThreadPoolExecutor:
    """The threads of this process, each with one thread of torch's."""
    with _lock:
        if number not in _pools:
            _pools[number] = _started(number)
        return _pools[number]


def _started(number: int) -> ThreadPoolExecutor:
    """Threads that have set their own number. It is also the number that threads of others would
    begin with, which is therefore set back."""
    before = torch.get_num_threads()
    pool = ThreadPoolExecutor(number, "inkstone-pieces")
    ready = threading.Barrier(number + 1)

    def begin() -> None:
        torch.get_num_threads()  # the first question sets a thread's number to torch's
        torch.set_num_threads(1)
        _here.running = True
        ready.wait()

    for _ in range(number):
        pool.submit(begin)
    ready.wait()
    torch.set_num_threads(before)
    return pool


def _forget() -> None:
    """A forked process has none of the threads."""
    global _lock
    _pools.clear()
    _lock = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
