"""The progress bar of a denoising run.

Unusual: it counts fractions of steps, because one step of a large model on a CPU takes minutes. On
CUDA a whole step is queued in milliseconds, so the host program waits for its own blocks now and
then: otherwise the bar would run ahead and the stop button would answer late.
"""

from __future__ import annotations

import time
from collections import deque
from typing import TYPE_CHECKING

from .progress import OFTEN, Progress, throw_if_interrupted

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image

    from ..sampling.denoise import Step

_LONG = 2.0  # seconds of a step from which on the text names its blocks
_QUEUED = 4  # blocks that a CUDA device may lag behind


class StepBar:
    """The bar of a denoising run: steps, and the blocks within a long step."""

    def __init__(self, steps: int, blocks: int, device: torch.device) -> None:
        """blocks: estimated calls of `block` per step; the first step gives the exact number."""
        self._steps, self._blocks = steps, blocks
        self._bar, self._pace = Progress(steps), _Pace(device)
        self._step = self._count = 0
        self._started = self._begun = self._shown = time.monotonic()

    def block(self, step: int, block: int) -> None:
        """Before each block. Raises the host's interrupt."""
        throw_if_interrupted()
        self._pace.wait()
        self._count += 1
        now = time.monotonic()
        if now - self._shown < OFTEN or self._count < 2:
            return
        self._shown = now
        done = step + min((self._count - 1) / self._blocks, 0.99)
        text = self._text(block, done, now) if now - self._begun >= _LONG or self._slow else ""
        self._bar.within(round(done, 3), text)

    def step(self, step: Step, preview: Image | None) -> None:
        """After each step."""
        self._blocks, self._count = max(self._count, 1), 0
        self._begun = self._shown = time.monotonic()
        self._step = step.index + 1
        self._bar.update(self._step, preview)

    @property
    def _slow(self) -> bool:
        return self._step > 0 and (self._begun - self._started) / self._step >= _LONG

    def _text(self, block: int, done: float, now: float) -> str:
        left = (now - self._started) * (self._steps - done) / max(done, 1e-3)
        minutes, seconds = divmod(round(left), 60)
        hours, minutes = divmod(minutes, 60)
        clock = f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
        return f"step {self._step + 1} of {self._steps}, block {block + 1}, {clock} left"


class _Pace:
    """Keeps the host program at most some blocks ahead of a CUDA device."""

    def __init__(self, device: torch.device) -> None:
        self._queued: deque[torch.cuda.Event] | None = deque() if device.type == "cuda" else None

    def wait(self) -> None:
        if self._queued is None:
            return
        import torch

        mark = torch.cuda.Event()
        mark.record()
        self._queued.append(mark)
        if len(self._queued) > _QUEUED:
            self._queued.popleft().synchronize()
