"""One run of the check: its card, its files, and the time that each part may take."""

from __future__ import annotations

import shutil
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import torch

from bench.gpu.card import Card
from bench.gpu.report import Part


@dataclass(frozen=True)
class Work:
    """A part: what it does, and its share of the time. What a part leaves goes to those behind."""

    name: str
    title: str
    share: int
    run: Callable[[Run, Part], None]


@dataclass
class Run:
    """Shared by all parts."""

    card: Card
    quick: bool
    deadline: float  # of all parts, by time.monotonic()
    folder: Path
    part: Part = field(default_factory=lambda: Part(""))
    _until: float = 0.0

    @property
    def tiny(self) -> bool:
        """On the CPU at tiny sizes."""
        return self.card.tiny

    @property
    def left(self) -> float:
        """Seconds that this part may still take."""
        return self._until - time.monotonic()

    def time_for(self, what: str, seconds: float = 0.0) -> bool:
        """True while there is time for this; else it is noted as cut."""
        if self.left > seconds:
            return True
        self.part.cut.append(what)
        return False

    def each(self, names: Sequence[str], seconds: float = 0.0) -> Iterator[str]:
        """The names for which there is time; a failure of one does not stop the others."""
        for name in names:
            if self.time_for(name, seconds):
                yield name

    @contextmanager
    def guarded(self, what: str) -> Iterator[None]:
        """A failure within is a fault of the part, and the part goes on. Errors of the card itself
        are not caught: nothing works after them in this process.
        """
        try:
            yield
        except Exception as error:
            if lost(error):
                raise
            self.part.checks += 1
            self.part.faults.append(f"{what}: {one_line(error)}")
            traceback.print_exc(file=sys.stderr)

    def do(self, work: Work, later: int) -> Part:
        """Runs one part. later: shares of the parts behind it."""
        now = time.monotonic()
        self.part = Part(work.name, work.title)
        self._until = now + max(0.0, self.deadline - now) * work.share / (work.share + later)
        if self.deadline - now < 1:
            self.part.cut.append("the whole part")
            return self.part
        with self.guarded(work.name), torch.inference_mode():
            work.run(self, self.part)
        self.card.forget()
        self.part.seconds = time.monotonic() - now
        return self.part


def lost(error: Exception) -> bool:
    """True for errors after which a CUDA context is of no use any more."""
    if isinstance(error, torch.OutOfMemoryError):
        return False
    return type(error).__name__ == "AcceleratorError" or "CUDA error" in str(error)


def one_line(error: Exception) -> str:
    """The kind of an error and its text."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"


@contextmanager
def scratch(folder: Path | None) -> Iterator[Path]:
    """The folder for model files: kept where one is named."""
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        yield folder
        return
    place = Path(tempfile.mkdtemp(prefix="inkstone-gpu-"))
    try:
        yield place
    finally:
        shutil.rmtree(place, ignore_errors=True)
