"""The loop of a LoRA training: batches, gradients, the optimizer, checkpoints, a stop that resumes.

All that a step needs follows from the seed and the step's number: which pictures (order.py), which
noise (objective.py). So a run that was stopped or killed goes on from its last checkpoint and ends
on the same bytes. Tables of modulation are computed for some steps at once, always for the same
ones, because their last bits depend on how many there are.
"""

from __future__ import annotations

import logging
import math
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor, nn

from ...errors import InkstoneError
from ...files.paths import kind_of
from ...pipeline.train_choices import TrainSettings
from ..checkpoint import EMA
from ..dataset.example import Example
from .distributed import Group
from .objective import Draws
from .optimizer import limit_gradient, rate_factor, set_rate
from .order import Order
from .progress import Meter, StepReport
from .state import RunFolder, averaged

log = logging.getLogger(__name__)

AHEAD = 32  # examples whose modulation is computed at once


class Examples(Protocol):
    """The encoded pictures: see cache.py."""

    def example(self, index: int) -> Example:
        """One of them."""


class Steps(Protocol):
    """What computes gradients: see step.py."""

    def look_ahead(self, draws: Sequence[Draws]) -> None:
        """Prepares the choices of some steps."""

    def backward(
        self, examples: Sequence[Example], draws: Sequence[Draws], share: float
    ) -> list[float]:
        """Adds the gradients of share * (the sum of losses)."""


def _nothing(_: object) -> None:
    """Watches nothing."""


@dataclass(frozen=True, kw_only=True)
class Task:
    """A training, ready to run. `draws`: (step, indices of its pictures) -> their choices; `write`
    writes the LoRA of the weights as they are, and `sample` (step) draws with them; `on_step` and
    `on_save` (step) watch.
    """

    settings: TrainSettings
    steps: int
    examples: Examples
    order: Order
    draws: Callable[[int, Sequence[int]], Sequence[Draws]]
    trainer: Steps
    adapter: nn.Module
    optimizer: torch.optim.Optimizer
    folder: RunFolder
    write: Callable[[Path, int], None]
    group: Group = Group()
    on_step: Callable[[StepReport], None] = _nothing
    on_save: Callable[[int], None] = _nothing
    sample: Callable[[int], None] | None = None


@dataclass(frozen=True)
class _Plan:
    """The batches of one step, of all processes, and the choices for each of their pictures."""

    batches: list[list[int]]
    draws: Sequence[Draws]

    def part(self, batch: int) -> slice:
        """The places of a batch among all pictures of the step."""
        start = sum(map(len, self.batches[:batch]))
        return slice(start, start + len(self.batches[batch]))


class Loop:
    """Runs a task."""

    def __init__(self, task: Task) -> None:
        self._task, settings = task, task.settings
        self._ema = EMA(task.adapter, settings.ema) if settings.ema else None
        self._weights = [p for p in task.adapter.parameters() if p.requires_grad]
        self._per_step = settings.accumulate * task.group.size
        self._window = max(1, AHEAD // (self._per_step * settings.batch))
        self._ahead = -1  # the window that the trainer is prepared for

    def run(self, stop: threading.Event) -> None:
        """Trains from the last checkpoint to the end, and writes the result. KeyboardInterrupt
        after a stop, whose state is saved; InkstoneError for a loss that is no number.
        """
        task = self._task
        first = task.folder.checkpoint.restore(task.adapter, self._ema, task.optimizer)
        if first >= task.steps and kind_of(task.folder.output):
            log.info(
                "%s is finished: %d steps. Options that are others now change nothing in it: "
                "choose another --output for them",
                task.folder.output,
                first,
            )
            self._sample(first)  # where an interrupt came before them
            return
        before = task.folder.log.resumed(first) if task.group.first else []
        if first:
            log.info("resuming after step %d of %d", first, task.steps)
        if self._shows(first) and not self._ends(stop):  # again where a kill came before them
            self._sample(first)
        meter = Meter(task.steps, self._weights[0].device, before)
        for step in range(first, task.steps):
            if self._ends(stop):
                self._stop(step)
            losses, ended = self._gradients(step, stop)
            if ended:
                self._stop(step)
            report = self._update(step, losses, meter)
            if task.group.first:
                task.folder.log.add(report.line)
                task.on_step(report)
            done = step + 1
            if done % task.settings.save_every == 0 or done == task.steps:
                self._save(done)
            if self._shows(done) and not (self._ends(stop) and done < task.steps):
                self._sample(done)
            meter.skip()
        if task.group.first:
            self._write(task.folder.output, task.steps)

    def _gradients(self, step: int, stop: threading.Event) -> tuple[list[float], bool]:
        """The losses of a step's pictures, with its gradients summed over all processes; True where
        the run is to stop: then they are not whole.
        """
        task, plan = self._task, self._plan(step)
        self._look_ahead(step)
        task.optimizer.zero_grad(set_to_none=True)
        losses = [0.0] * len(plan.draws)
        for number in range(task.group.rank, len(plan.batches), task.group.size):
            part = plan.part(number)
            examples = [task.examples.example(index) for index in plan.batches[number]]
            own = task.trainer.backward(examples, plan.draws[part], 1 / len(plan.draws))
            losses[part] = own
            self._require_numbers(step, examples, own)
            if self._ends(stop):
                return losses, True
        return self._agree(losses, stop)

    def _ends(self, stop: threading.Event) -> bool:
        """True where this process alone decides to stop, and is to; several agree in a step."""
        return stop.is_set() and self._task.group.size == 1

    def _agree(self, losses: list[float], stop: threading.Event) -> tuple[list[float], bool]:
        """Gradients, losses and the wish to stop, summed over all processes."""
        for weight in self._weights:
            if weight.grad is None:  # no picture of this step went through its layer
                weight.grad = torch.zeros_like(weight)
        if self._task.group.size == 1:
            return losses, False
        device = self._weights[0].device
        facts = torch.tensor([*losses, float(stop.is_set())], dtype=torch.float64, device=device)
        self._task.group.sum([facts])
        self._task.group.sum([_gradient(weight) for weight in self._weights])
        *losses, wish = facts.tolist()
        return losses, wish > 0

    def _update(self, step: int, losses: Sequence[float], meter: Meter) -> StepReport:
        task, settings = self._task, self._task.settings
        length = limit_gradient(self._weights, settings.clip)
        if not math.isfinite(length):
            raise InkstoneError(
                f"Step {step + 1}: the gradient is {length}, though the losses are numbers. "
                f"{self._advice()}"
            )
        rate = settings.lr * rate_factor(settings, step, task.steps)
        set_rate(task.optimizer, rate)
        task.optimizer.step()
        if self._ema is not None:
            self._ema.update(task.adapter, step)
        return meter.step(step + 1, sum(losses) / len(losses), rate, length)

    def _require_numbers(
        self, step: int, examples: Sequence[Example], losses: Sequence[float]
    ) -> None:
        for example, loss in zip(examples, losses):
            if not math.isfinite(loss):
                raise InkstoneError(
                    f"Step {step + 1}: the loss of {example.name} is {loss}. {self._advice()}"
                )

    def _advice(self) -> str:
        step = self._task.folder.checkpoint.step()
        kept = f"The checkpoint of step {step} stays" if step else "Nothing was saved"
        return (
            f"{kept}. Train with a lower --lr, with --dtype float32, or without this picture, with "
            "another --output."
        )

    def _plan(self, step: int) -> _Plan:
        numbers = range(step * self._per_step, (step + 1) * self._per_step)
        batches = [self._task.order.batch(number) for number in numbers]
        indices = [index for batch in batches for index in batch]
        return _Plan(batches, self._task.draws(step, indices))

    def _look_ahead(self, step: int) -> None:
        window = step // self._window
        if window == self._ahead:
            return
        steps = range(window * self._window, min((window + 1) * self._window, self._task.steps))
        self._task.trainer.look_ahead([draw for each in steps for draw in self._plan(each).draws])
        self._ahead = window

    def _save(self, done: int) -> None:
        """The state, and the LoRA so far."""
        task = self._task
        if not task.group.first:
            return
        task.folder.checkpoint.save(task.adapter, self._ema, task.optimizer, done)
        if done < task.steps:
            self._write(task.folder.lora_at(done), done)
            task.folder.prune()
        task.on_save(done)

    def _shows(self, done: int) -> bool:
        """True where samples are drawn after this number of steps."""
        return done % self._task.settings.sample_every == 0 or done == self._task.steps

    def _sample(self, done: int) -> None:
        """Pictures, by the first process; the others wait for its next gradient."""
        if self._task.sample is not None and self._task.group.first:
            with averaged(self._task.adapter, self._ema):
                self._task.sample(done)

    def _write(self, path: Path, done: int) -> None:
        with averaged(self._task.adapter, self._ema):
            self._task.write(path, done)

    def _stop(self, done: int) -> None:
        """Ends the run after `done` steps."""
        task = self._task
        if task.group.first and done:
            task.folder.checkpoint.save(task.adapter, self._ema, task.optimizer, done)
            log.info("step %d of %d is saved in %s", done, task.steps, task.folder.checkpoint.path)
        raise KeyboardInterrupt


def _gradient(weight: nn.Parameter) -> Tensor:
    assert weight.grad is not None
    return weight.grad
