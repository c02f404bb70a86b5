"""A job as clients see it: where it stands, and what it became."""

from __future__ import annotations

import asyncio
import io
import threading
import time
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ....files.paths import kind_of
from ...node_types import Json

if TYPE_CHECKING:
    from PIL.Image import Image

    from ...queue.jobs import Job

QUEUED, RUNNING, DONE, FAILED, CANCELLED = "queued", "running", "done", "failed", "cancelled"
_BEAT = 0.5  # seconds after which a watcher looks up in any case
_PREVIEW_SIDE, _PREVIEWS_APART = 512, 0.2  # pixels; seconds
_PREVIEW_QUALITY = 80  # of JPEG
_PRIVATE = ("prompt", "negative", "enhanced", "region")  # of a record: no log of prompts


class Ticket:
    """One job. Written by the thread that draws, read by everybody."""

    def __init__(self, name: str, owner: str, lasting: bool) -> None:
        self.id, self.owner, self.lasting = name, owner, lasting
        self.job: Job | None = None
        self.state, self.created, self.ended = QUEUED, time.time(), 0.0
        self.shares = False  # it is in a pass with others; its own work comes after that
        self.stop = threading.Event()  # set: it leaves that pass
        self.step = self.steps = 0
        self.attempts = 0  # how often it was sent to a replica
        self.seed: int | None = None
        self.preview: bytes | None = None  # a JPEG
        self.previewed = 0  # previews so far
        self.error: str | None = None
        self.unexpected = False  # the fault is the server's
        self.stopped = False  # cancelled by nobody: the server ends
        self.cached = False  # its files are copies of an earlier job's
        self.files: list[Path] = []
        self.seconds: dict[str, float] = {}
        self.notes: list[str] = []  # what its drawing said, such as words that were not used
        self.enhanced: list[str] = []  # the prompts as they were enhanced, one or one for each file
        self._shown = 0.0
        self._watchers: set[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = set()
        self._lock = threading.Lock()

    @property
    def over(self) -> bool:
        """True once it has ended, one way or the other."""
        return self.state in (DONE, FAILED, CANCELLED)

    def on_preview(self, picture: Image) -> None:
        """Keeps the picture of a step, small, and not more often than anybody looks."""
        now = time.monotonic()
        if now - self._shown < _PREVIEWS_APART:
            return
        self._shown = now
        picture = picture.convert("RGB")
        picture.thumbnail((_PREVIEW_SIDE, _PREVIEW_SIDE))
        data = io.BytesIO()
        picture.save(data, "JPEG", quality=_PREVIEW_QUALITY)
        self.show(data.getvalue())

    def show(self, preview: bytes) -> None:
        """Keeps a preview that is a JPEG already."""
        self.preview = preview
        self.previewed += 1

    def on_step(self, done: int, of: int) -> None:
        """Counts a step."""
        self.step, self.steps = done, of
        self.touch()

    def end(self, state: str, error: str | None = None) -> None:
        """The last change."""
        self.error, self.ended, self.preview = error, time.time(), None
        self.state = state
        self.touch()

    def hear(self, outcome: Mapping[str, Any], for_client: Callable[[str], str]) -> None:
        """Takes what its client gets and no journal keeps. for_client: a sentence without the
        paths of this machine.
        """
        self.notes = [for_client(note) for note in outcome.get("notes") or ()]
        enhanced = (outcome.get("call") or {}).get("enhanced") or []
        self.enhanced = [enhanced] if isinstance(enhanced, str) else list(enhanced)

    def read(self, record: Mapping[str, Any], folder: Path) -> None:
        """Takes what a record of the journal says. folder: of results."""
        self.seconds, self.seed = record.get("seconds") or {}, record.get("seed")
        self.files = [folder / file for file in record.get("files") or ()]
        self.unexpected, self.cached = "unexpected" in record, "cached" in record

    def touch(self) -> None:
        """Wakes all who watch."""
        with self._lock:
            watchers = list(self._watchers)
        for loop, event in watchers:
            try:
                loop.call_soon_threadsafe(event.set)
            except RuntimeError:  # that loop has ended
                continue

    async def changes(self) -> AsyncIterator[None]:
        """One item now, one after each change (several may be one), the last when it is over."""
        watcher = (asyncio.get_running_loop(), asyncio.Event())
        with self._lock:
            self._watchers.add(watcher)
        try:
            while True:
                over = self.over
                yield
                if over:
                    return
                try:
                    await asyncio.wait_for(watcher[1].wait(), _BEAT)
                except asyncio.TimeoutError:
                    continue
                watcher[1].clear()
        finally:
            with self._lock:
                self._watchers.discard(watcher)

    def facts(self, outcome: Mapping[str, Json]) -> dict[str, Json]:
        """What the journal keeps of its end: no prompts."""
        call = outcome.get("call") or {}
        outcome = {name: value for name, value in outcome.items() if name != "notes"}
        kept = {name: value for name, value in call.items() if name not in _PRIVATE}
        own = {"owner": self.owner, "ended": round(time.time(), 3), "seed": self.seed}
        own |= {"attempts": self.attempts} if self.attempts else {}
        return {**outcome, "call": kept, **own}

    def document(self, base: str, place: int | None) -> dict[str, Json]:
        """The job as JSON. base: the server's address; place: in the queue, from 1."""
        return {
            "id": self.id,
            "object": "job",
            "created": int(self.created),
            "state": self.state,
            "place": place,
            "step": self.step,
            "steps": self.steps,
            "seed": self.seed,
            "seconds": self.seconds or None,
            "cached": self.cached,
            "error": self.error,
            "notes": self.notes,
            "files": self.addresses(base),
        }

    def addresses(self, base: str) -> list[str]:
        """Where the results are; names that nobody can guess."""
        names = [f"{k}{file.suffix}" for k, file in enumerate(self.files) if kind_of(file)]
        return [f"{base}/v1/files/{self.id}/{name}" for name in names]
