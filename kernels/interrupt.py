"""Cancellation and progress hook for long-running work.

Work calls `beat()` between chunks; the host's listener may raise there to cancel, or show progress.
There is one listener per process (ComfyUI runs one graph at a time; the headless one looks up the
host of its context). Helper threads do not call it: what a listener raises must reach the caller.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, TimeoutError
from typing import TypeVar

Result = TypeVar("Result")
Listener = Callable[[str, float, float], None]
"""(task, amount done, total); 0 of 0 for a beat without progress."""

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
