"""What a run gives while it trains and at its end: the LoRA file, a plot of its loss, samples,
events.
"""

from __future__ import annotations

import logging
import threading
from collections import Counter
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import torch

from ...errors import InkstoneError
from ...files.hashes import model_hash
from ...pipeline.train_choices import TrainSettings
from ...pipeline.train_file import as_json
from ...version import __version__
from ..dataset.arrange import Arranged
from .adapter import Adapter
from .events import Events
from .plot import Curve, write_plot
from .progress import StepReport, read_log
from .samples import Samples, Stopped
from .save import DTYPES, Origin, save_lora, trained_tensors
from .state import RunFolder

log = logging.getLogger(__name__)

PLOT = "loss.png"
EVENTS = "tensorboard"


class Result(AbstractContextManager["Result"]):
    """Writes what a run gives; for one process."""

    def __init__(
        self, settings: TrainSettings, arranged: Arranged, adapter: Adapter, folder: RunFolder
    ) -> None:
        self._settings, self._arranged, self._adapter = settings, arranged, adapter
        self._folder = folder
        self._events: Events | None = None

    def __exit__(self, *_: object) -> None:
        if self._events is not None:
            self._events.close()

    def write(self, path: Path, step: int) -> None:
        """The LoRA file of the weights as they are, after some steps."""
        save_lora(
            path,
            trained_tensors(self._adapter),
            self._origin(path, step),
            DTYPES[self._settings.save_dtype],
        )

    def step(self, report: StepReport) -> None:
        """Events of a step."""
        line = report.line
        if self._settings.tensorboard:
            values = {"loss": line.loss, "lr": line.lr, "grad_norm": line.grad}
            self._open_events(line.step - 1).scalars(line.step, values)

    def sampler(
        self, samples: Samples, ready: Callable[[], object], stop: threading.Event
    ) -> Callable[[int], None]:
        """Draws samples at a step with the weights as they are, where they are not there yet.
        Those before the first step must succeed; later ones that fail cost a warning, not a
        training of hours. ready: places the model's weights for training again; stop: once it is
        set, no more is drawn.
        """

        def draw(step: int) -> None:
            pictures = samples.kept(step)
            try:
                if pictures is None:
                    pictures = samples.draw(step, self._adapter, stop)
                    ready()
            except Stopped:
                log.info(
                    "stopped before the samples of step %d were drawn: the same command draws them",
                    step,
                )
                return
            except (InkstoneError, torch.OutOfMemoryError) as error:
                if not step:
                    raise
                log.warning("step %d has no samples, the training goes on: %s", step, error)
                ready()
            if pictures and self._settings.tensorboard:
                self._open_events(step).pictures(step, pictures)

        return draw

    def _open_events(self, step: int) -> Events:
        """The events of this run, which goes on after a step."""
        if self._events is None:
            self._events = Events(self._folder.path / EVENTS, step)
        return self._events

    def saved(self, step: int) -> None:
        """The plot, after a checkpoint."""
        lines = read_log(self._folder.log.path)
        curve = Curve(
            [line.step for line in lines],
            [line.loss for line in lines],
            [line.lr for line in lines],
        )
        write_plot(self._folder.path / PLOT, curve, self._settings.output.stem)

    def _origin(self, path: Path, step: int) -> Origin:
        settings, arranged = self._settings, self._arranged
        model, works = arranged.model, arranged.works
        values = as_json(settings) | {"steps": step, "resolution": arranged.settings.resolution}
        return Origin(
            name=path.stem,
            kind=settings.kind,
            spec=model.variant.spec if model.variant is not None else model.family.title,
            base=model.path.name,
            base_hash=model_hash(model.path),
            version=__version__,
            date=self._folder.started,
            resolution=arranged.settings.resolution,
            pictures=len(works),
            buckets=Counter(work.fit.bucket for work in works),
            settings=values,
            of_steps=settings.steps or step,
            trigger=settings.trigger,
            captions=[w.item.caption or "" for w in works] if settings.list_captions else (),
        )
