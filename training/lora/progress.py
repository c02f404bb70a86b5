"""How far a training is: what one step gave, the speed, the time that is left, and the log of all.

`log.jsonl` has a line for each step. A line is written whole; after a resume the lines behind the
step that is resumed are dropped, so the file is that of a run that never stopped.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from ...errors import InkstoneError
from ...files.atomic import replacement
from ...files.json_text import parse_json
from ...files.paths import kind_of
from ...kernels.memory import process_bytes

_SMOOTH = 0.95  # of the loss that is shown
_RECENT = 0.9  # of the seconds of a step
LOG = "log.jsonl"


@dataclass(frozen=True)
class StepLine:
    """One step in the log. seconds: since the beginning of the training, without its stops."""

    step: int  # steps done, this one included
    loss: float
    lr: float
    grad: float  # length of the gradient, before it is limited
    seconds: float


@dataclass(frozen=True)
class StepReport:
    """A step for whoever watches."""

    line: StepLine
    steps: int
    smooth: float  # the loss, smoothed
    rate: float  # steps in a second
    left: float  # seconds
    memory: int  # bytes: the peak on a card, else what the process has

    def text(self) -> str:
        """The line without the steps: "loss 0.1234, 1.52 it/s, 12:34 left, 5.1 GB"."""
        rate = f"{self.rate:.2f} it/s" if self.rate >= 0.1 else f"{1 / self.rate:.1f} s/it"
        return (
            f"loss {self.smooth:.4f}, {rate}, {clock(self.left)} left, {self.memory / 1e9:.1f} GB"
        )


def clock(seconds: float) -> str:
    """Time as 1:02:03 or 2:03."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


class Meter:
    """Turns steps into reports. `before`: the lines of the steps that are resumed from."""

    def __init__(self, steps: int, device: torch.device, before: Sequence[StepLine] = ()) -> None:
        self._steps, self._device = steps, device
        self._smooth, self._pace = 0.0, 0.0
        for line in before:
            self._add(line.loss, line.step)
        self._spent = before[-1].seconds if before else 0.0
        self._last = time.monotonic()

    def step(self, done: int, loss: float, lr: float, grad: float) -> StepReport:
        """The report of a step that ends now."""
        now = time.monotonic()
        took, self._last = now - self._last, now
        self._spent += took
        self._pace = _RECENT * self._pace + (1 - _RECENT) * took if self._pace else took
        self._add(loss, done)
        line = StepLine(done, loss, lr, grad, round(self._spent, 3))
        left = (self._steps - done) * self._pace
        pace = max(self._pace, 1e-9)
        return StepReport(line, self._steps, self._smooth, 1 / pace, left, self._memory())

    def skip(self) -> None:
        """What was done since the last step, such as samples, does not count as training."""
        self._last = time.monotonic()

    def _add(self, loss: float, done: int) -> None:
        weight = max(1 - _SMOOTH, 1 / done)
        self._smooth += weight * (loss - self._smooth)

    def _memory(self) -> int:
        if self._device.type == "cuda":
            return int(torch.cuda.max_memory_allocated(self._device))
        return process_bytes()


class Log:
    """`log.jsonl` of a run, for adding lines. Raises InkstoneError."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def resumed(self, step: int) -> list[StepLine]:
        """The lines up to a step; others are removed from the file."""
        lines = [line for line in read_log(self.path) if line.step <= step]
        text = "".join(_as_text(line) for line in lines)
        try:
            with replacement(self.path) as file:
                file.write(text.encode())
        except OSError as error:
            raise self._fault(error) from None
        return lines

    def add(self, line: StepLine) -> None:
        """Adds a line, whole."""
        data = _as_text(line).encode()
        try:
            handle = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
            try:
                written = os.write(handle, data)
            finally:
                os.close(handle)
        except OSError as error:
            raise self._fault(error) from None
        if written != len(data):
            raise self._fault(OSError(0, "the disk is full"))

    def _fault(self, error: OSError) -> InkstoneError:
        return InkstoneError(
            f"{self.path}: cannot be written: {error.strerror}. Check the folder and the free "
            "space; the same command resumes from the last checkpoint."
        )


def read_log(path: Path) -> list[StepLine]:
    """The lines of a log, a line that a crash cut left out."""
    if kind_of(path) != "a file":
        return []
    lines: list[StepLine] = []
    with open(path, encoding="utf-8", errors="replace") as file:
        for text in file:
            try:
                line = StepLine(**parse_json(text))
            except (ValueError, TypeError):
                break
            numbers = all(isinstance(x, (int, float)) for x in asdict(line).values())
            if not numbers or (lines and line.step <= lines[-1].step):
                break
            lines.append(line)
    return lines


def _as_text(line: StepLine) -> str:
    return json.dumps(asdict(line)) + "\n"
