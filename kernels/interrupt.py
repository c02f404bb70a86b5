"""The pulse of long work: it beats between pieces, and whoever hosts the work may stop it there, by
raising, or show how far it is.

There is one listener per process (ComfyUI runs one graph at a time; headless it asks the context
for its host). Helper threads do not beat: what a listener raises must reach the caller.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, TimeoutError
from typing import TypeVar

Result = TypeVar("Result")
Listener = Callable[[str, float, float], None]
"""(what is done, how much of it, of how much); 0 of 0 where only the beat counts."""

_WAIT = 0.2  # seconds between two beats while a thread is waited for
_listener: Listener | None = None


def listen(listener: Listener | None) -> Listener | None:
    """Sets who hears the beats; returns who did before."""
    global _listener
    before, _listener = _listener, listener
    return before


def beat(what: str = "", done: float = 0, of: float = 0) -> None:
    """Called between two pieces of work. Whatever the listener raises stops the work."""
    if _listener is not None:
        _listener(what, done, of)


def waited(future: Future[Result]) -> Result:
    """The result of work in another thread; beats while it is not there."""
    while True:
        try:
            return future.result(_WAIT)
        except TimeoutError:
            if future.done():  # the work itself ran out of some time
                raise
            beat()
