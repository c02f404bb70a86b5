"""Cancellation and progress hook for long-running work.

Work calls `beat()` between chunks; the host's listener may raise there to cancel, or show progress.
There is one listener per process (ComfyUI runs one graph at a time; the headless one looks up the
host of its context). Helper threads do not call it: what a listener raises must reach the caller.
"""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, TimeoutError
from contextlib import contextmanager
from types import FrameType
from typing import Any, TypeVar

log = logging.getLogger(__name__)

Result = TypeVar("Result")
Listener = Callable[[str, float, float], None]
"""(task, amount done, total); 0 of 0 for a beat without progress."""

_HANG_UP: int | None = getattr(signal, "SIGHUP", None)  # Windows has none
_WAIT = 0.2  # seconds between two beats while waiting for a thread
_listener: Listener | None = None


def listen(listener: Listener | None) -> Listener | None:
    """Sets the listener; returns the previous one."""
    global _listener
    before, _listener = _listener, listener
    return before


def beat(task: str = "", amount: float = 0, total: float = 0) -> None:
    """Calls the listener, between two chunks of work. What it raises cancels the work."""
    if _listener is not None:
        _listener(task, amount, total)


def waited(future: Future[Result]) -> Result:
    """The result of work in another thread; beats while waiting for it."""
    while True:
        try:
            return future.result(_WAIT)
        except TimeoutError:
            if future.done():  # the work itself raised it
                raise
            beat()


@contextmanager
def terminable() -> Iterator[None]:
    """Within it SIGTERM, and a terminal that closes, end work as Ctrl-C does, so that nothing is
    left half done.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    with _handled(_ends(), signal.default_int_handler):
        yield


@contextmanager
def _handled(
    numbers: Iterable[int], handler: Callable[[int, FrameType | None], Any]
) -> Iterator[None]:
    """Within it these signals have this handler."""
    before = {number: signal.signal(number, handler) for number in numbers}
    try:
        yield
    finally:
        for number, earlier in before.items():
            signal.signal(number, earlier)


def _ends() -> list[int]:
    """Signals beside Ctrl-C's that end a process; not that of a terminal where it is not heeded, as
    below `nohup`.
    """
    if _HANG_UP is None or signal.getsignal(_HANG_UP) is signal.SIG_IGN:
        return [signal.SIGTERM]
    return [signal.SIGTERM, _HANG_UP]


@contextmanager
def stoppable(impatient: bool = True) -> Iterator[threading.Event]:
    """Within it Ctrl-C and what ends a process set the event, and work ends after its step; a
    second one ends it at once. impatient=False: it does not, because one request to stop sends
    both.
    """
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return

    def on_signal(number: int, frame: object) -> None:
        if stop.is_set():
            if impatient and number != _HANG_UP:  # a terminal that closes may send it twice
                raise KeyboardInterrupt
            return
        stop.set()
        again = "; interrupt again to stop at once" if impatient else ""
        log.info("stopping after this step%s", again)

    with _handled((signal.SIGINT, *_ends()), on_signal):
        yield stop
