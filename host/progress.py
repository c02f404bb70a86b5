"""Progress of a node and the stop button: a bar and a line of text on the node.

Long work calls `kernels/interrupt.beat` between its chunks; the `Heartbeat` that `listen` registers
turns those calls into progress, and raises when the user presses stop.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Protocol

from ..kernels import interrupt
from .headless import Interrupted, headless_host

if TYPE_CHECKING:
    from PIL.Image import Image

PREVIEW_SIDE = 512  # pixels of a preview's longer side on the page
OFTEN = 0.25  # seconds between two messages at least
_SHOWN_LETTERS = 600  # of the end of a text that is being written
_QUIET = 0.5  # seconds of work before it gets a progress bar


class _HostBar(Protocol):
    """ComfyUI's progress bar."""

    def update_absolute(
        self,
        value: float,
        total: float | None = None,
        preview: tuple[str, Image, int] | None = None,
    ) -> None: ...


class Heartbeat:
    """Listener for `beat`: raises when the user stops the run, shows work longer than a moment."""

    def __init__(self) -> None:
        self._what, self._done, self._since, self._shown = "", 0.0, 0.0, 0.0

    def __call__(self, what: str, done: float, of: float) -> None:
        throw_if_interrupted()
        if not of:
            return
        now = time.monotonic()
        if what != self._what or done < self._done:
            self._since = now
        self._what, self._done = what, done
        if now - self._since >= _QUIET and (now - self._shown >= OFTEN or done >= of):
            self._shown = now
            number = f"{done:.1f} of {of:.1f}" if isinstance(of, float) else f"{done} of {of}"
            show_amount(done, of, f"{what} {number}")


def listen() -> None:
    """Registers the listener: from now on long work in this process reports and can be stopped."""
    interrupt.listen(Heartbeat())


class Progress:
    """A progress bar of `total` steps; `update` also stops the run when the user asked for it."""

    def __init__(self, total: float) -> None:
        self.total = total
        self._headless = headless_host()
        self._bar: _HostBar | None = None
        if self._headless is None:
            from comfy.utils import ProgressBar

            self._bar = ProgressBar(total)

    def update(self, value: int, preview: Image | None = None) -> None:
        """Reports that `value` steps are done. Raises the host's interrupt."""
        if self._bar is not None:
            jpeg = None if preview is None else ("JPEG", preview, PREVIEW_SIDE)
            self._bar.update_absolute(value, self.total, jpeg)
        elif self._headless is not None and self._headless.on_progress is not None:
            self._headless.on_progress(value, int(self.total), preview)
        throw_if_interrupted()

    def within(self, value: float, text: str = "") -> None:
        """Reports a fraction of a step, with a line of text; headless only the text is reported."""
        if self._bar is not None:
            self._bar.update_absolute(value, self.total)
            if text:
                _show_on_node(text)
        elif text and self._headless is not None and self._headless.on_detail is not None:
            self._headless.on_detail(text)


class WrittenText:
    """Shows an answer on its node while it is written: call it with every piece. most: tokens."""

    def __init__(self, most: int) -> None:
        self._bar = Progress(most)
        self._text, self._pieces, self._shown = "", 0, 0.0

    def __call__(self, piece: str) -> None:
        self._text += piece
        self._pieces += 1
        now = time.monotonic()
        if now - self._shown >= OFTEN:
            self._shown = now
            self._bar.within(self._pieces, self._text[-_SHOWN_LETTERS:])


def show_amount(done: float, of: float, text: str) -> None:
    """Shows how much of some work without steps is done: a bar, and a line on the node."""
    Progress(of).within(done, text)


def _show_on_node(text: str) -> None:
    """A line below the running node, until the graph is finished."""
    from comfy_execution.utils import get_executing_context
    from server import PromptServer

    server, context = getattr(PromptServer, "instance", None), get_executing_context()
    send = getattr(server, "send_progress_text", None)
    if server is not None and send is not None and context is not None:
        send(text, context.node_id, sid=server.client_id)


def throw_if_interrupted() -> None:
    """Raises the host's interrupt exception (headless: Interrupted) when the user pressed stop."""
    headless = headless_host()
    if headless is None:
        from comfy import model_management

        model_management.throw_exception_if_processing_interrupted()
    elif headless.interrupt.is_set():
        raise Interrupted("The run was stopped.")
