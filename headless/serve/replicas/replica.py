"""What draws on a cluster: a hand of the server's kind, in a process of Ray Serve.

A replica does one job at a time. It ends when the server that it works for has gone.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import sys
import threading
from collections.abc import AsyncGenerator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from .... import __version__
from ....errors import InkstoneError
from ...draw.request import DrawCall
from ...node_types import Json
from ...queue.away import files_of, own_folder
from ...queue.journal import FAILED
from ...queue.worker import Places
from ..desk.hand import LocalHand
from ..desk.orders import without_folders
from ..desk.quiet_log import DRAWS, keep_quiet
from ..desk.tickets import CANCELLED, DONE, Ticket
from .parcel import Finished, Parcel, Progress, unpack

_APART = 0.2  # seconds between two messages


class Replica:
    """places: models as on the server; the folder of input pictures is the replica's own."""

    def __init__(self, places: Places, default: DrawCall, name: str) -> None:
        keep_quiet()
        self._folder, self._name = own_folder(), name
        self._order, self._inputs = self._folder / "order", self._folder / "input"
        self._inputs.mkdir()
        self._hand = LocalHand(self._folder / "work", replace(places, input=self._inputs))
        self._thread = ThreadPoolExecutor(1, DRAWS)
        self._lock = threading.Lock()
        self._gone = False  # the server
        self._current: threading.Event | None = None  # set once the job at work is unwanted
        self.fault: str | None = None
        try:
            self._hand.open(default)
        except InkstoneError as error:
            self.fault = str(error)

    async def ready(self) -> tuple[str, str | None]:
        """(version, why the server's default model cannot be opened here)."""
        return __version__, self.fault

    def check_health(self) -> None:
        """Raises RuntimeError where this process can draw no more; it is replaced then."""
        if self.fault is not None:
            raise RuntimeError(self.fault)

    async def run(self, parcel: Parcel) -> AsyncGenerator[Progress | Finished, None]:
        """Progress from time to time, and what became of the job. Where the caller ends this, the
        job ends too.
        """
        unwanted = threading.Event()
        ticket = Ticket(parcel.job.name, "", lasting=False)
        loop = asyncio.get_running_loop()
        work = loop.run_in_executor(self._thread, self._draw, parcel, ticket, unwanted)
        shown, previews = (0, 0), 0
        try:
            while not work.done():
                await asyncio.wait([work], timeout=_APART)
                now, new = (ticket.step, ticket.steps), ticket.previewed > previews
                if now != shown or new:
                    shown, previews = now, ticket.previewed
                    yield Progress(*now, ticket.preview if new else None)
            yield work.result()
        finally:
            self._end(unwanted)
            await asyncio.wait([work])

    def leave(self) -> None:
        """The server has gone: what is drawn ends, nothing more is."""
        with self._lock:
            self._gone = True
            self._hand.stop.set()

    def close(self) -> None:
        """Deletes its folder."""
        shutil.rmtree(self._folder, ignore_errors=True)

    def _begin(self, unwanted: threading.Event) -> bool:
        """A job is at work; False where nobody wants it."""
        with self._lock:
            if self._gone or unwanted.is_set():
                return False
            self._current = unwanted
            self._hand.stop.clear()
            return True

    def _end(self, unwanted: threading.Event) -> None:
        """A job is not wanted any more; the next one may be at work already."""
        with self._lock:
            unwanted.set()
            if self._current is unwanted:
                self._hand.stop.set()

    def _draw(self, parcel: Parcel, ticket: Ticket, unwanted: threading.Event) -> Finished:
        try:
            if not self._begin(unwanted):
                return Finished(CANCELLED)
            shutil.rmtree(self._order, ignore_errors=True)
            self._order.mkdir()
            outcome = self._hand.run(unpack(parcel, self._order, self._inputs), ticket)
            files = files_of(outcome, self._folder / "work")
            facts = _in_order(outcome.facts, self._folder) | self._place()
            if outcome.facts.get("unexpected"):
                self.fault = _card_fault()
            return Finished(outcome.status, facts, files)
        except KeyboardInterrupt:
            return Finished(CANCELLED)
        except (InkstoneError, OSError) as error:  # the disk of this machine
            return Finished(FAILED, _in_order({"error": str(error)}, self._folder) | self._place())
        finally:
            ticket.end(DONE)
            for path in self._inputs.iterdir():
                path.unlink(missing_ok=True)

    def _place(self) -> dict[str, Json]:
        return {"worker": self._name, "host": socket.gethostname(), "process": os.getpid()}


def _in_order(facts: dict[str, Json], folder: Path) -> dict[str, Json]:
    """Facts whose error names no folder of this machine."""
    inside = [*(folder / name for name in ("order", "input", "work")), folder]
    error, notes = facts.get("error"), facts.get("notes")
    if isinstance(error, str):
        facts = {**facts, "error": without_folders(error, *inside)}
    if isinstance(notes, list):
        facts = {**facts, "notes": [without_folders(str(one), *inside) for one in notes]}
    return facts


def _card_fault() -> str | None:
    """Why the GPU does nothing more in this process; None where it does. Some faults of a kernel
    make every later call fail.
    """
    torch = sys.modules.get("torch")
    try:
        if torch is not None and torch.cuda.is_initialized():
            torch.cuda.synchronize()
    except RuntimeError as error:
        return f"the GPU fails: {error}"
    return None
