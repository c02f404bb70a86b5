"""`inkstone train-lora` from its settings to the file: pictures, models, cache, loop.

`prepared` reads pictures and headers of models, no weights: a report and a plan need no more.
"""

from __future__ import annotations

import logging
import math
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import torch

from ...kernels.interrupt import stoppable, terminable
from ...loaders.models.diffusion_model import DiffusionModel
from ...pipeline.train_choices import TrainSettings
from ..checkpoint import Argument
from ..dataset.arrange import Arranged, CacheSettings, arrange
from ..dataset.cache import Cache, Encoders, prepare
from ..dataset.captions import ask_captions, planned
from ..dataset.example import Example
from ..dataset.outline import outline
from ..dataset.pictures import NO_PROGRESS, OnItem
from ..dataset.read import read
from ..dataset.report import Report, report
from .adapter import Adapter, AdapterSettings, TrainedKron
from .distributed import Group, group_in_environment, joined, own_device
from .events import require_tensorboard
from .loop import AHEAD, Loop, Task
from .models import device_of, model_files, resolution_of
from .objective import Draws, Objective, draw
from .optimizer import MOMENTS, check_optimizer, optimizer_of
from .order import Order
from .plan import TrainPlan, Working, largest, train_plan
from .progress import StepReport
from .result import Result
from .samples import SAMPLES, Samples, encode_samples
from .state import RunFolder, check_result, identity, opened, stamp_of
from .step import Trainer
from .targets import blocks_beyond

log = logging.getLogger(__name__)

CACHE = ".inkstone-cache"


@dataclass(frozen=True)
class Prepared:
    """A training of which pictures and headers are read."""

    settings: TrainSettings
    group: Group
    device: torch.device
    encoders: Encoders
    model: DiffusionModel
    arranged: Arranged

    @cached_property
    def largest(self) -> tuple[int, int]:
        """Tokens of the largest picture, and the most that its caption and references have."""
        text_encoder = self.encoders.text_encoder()
        shapes = [outline(work, text_encoder) for work in self.arranged.works]
        return largest([(len(one.latents), _prefix(one)) for one in shapes])

    @property
    def steps(self) -> int:
        """Optimizer steps."""
        settings = self.settings
        counts = Counter[object]()
        for work in self.arranged.works:
            counts[work.grids] += work.item.repeats
        batches = sum(-(-count // settings.batch) for count in counts.values())  # as Order has them
        return settings.steps_for(batches, settings.accumulate * self.group.size)

    @property
    def cache(self) -> Path:
        """The folder of encoded pictures."""
        root = self.arranged.dataset.root
        folder = root if root.is_dir() else root.parent
        return self.settings.cache_dir or folder / CACHE

    def identity(self) -> dict[str, Argument]:
        """What decides the result, to be the same in a run that resumes."""
        works = self.arranged.works
        pictures = [
            [
                work.item.caption,
                [p.digest for p in (work.item.picture, *work.item.references, *work.item.layers)],
                work.item.mask.digest if work.item.mask is not None else None,
                *([work.item.repeats] if work.item.repeats > 1 else []),
            ]
            for work in works
        ]
        facts: dict[str, Argument] = {
            "pictures": len(works),
            "pictures-digest": stamp_of(pictures),
            "steps": self.steps,
            "resolution": self.arranged.settings.resolution,
            "dtype": str(self.model.dtype).removeprefix("torch."),
        }
        return identity(self.settings, facts, self.group)


def is_first() -> bool:
    """True for the process that writes and says what is done."""
    return group_in_environment().first


def prepared(settings: TrainSettings, on_item: OnItem = NO_PROGRESS) -> Prepared:
    """Reads pictures and headers. Raises CallError where the call is wrong, InkstoneError where
    files cannot be used.
    """
    group = group_in_environment()
    device = own_device(group, device_of(settings))
    check_result(settings)
    check_optimizer(settings)
    if settings.tensorboard:
        require_tensorboard()
    files = model_files(settings, device)
    own = (settings.folder, *([settings.cache_dir] if settings.cache_dir else []))
    pictures = read(settings.data, settings.control_dir, settings.mask_dir, on_item, own)
    model = files.diffusion_model()
    cached = CacheSettings(
        resolution=resolution_of(settings, model),
        reference_resolution=settings.reference_resolution,
        dropped=settings.caption_dropout > 0,
    )
    arranged = arrange(pictures, model, cached)
    return Prepared(settings, group, device, files.encoders(), model, arranged)


def report_of(settings: TrainSettings) -> Report:
    """What the pictures are and lack."""
    return _report(prepared(settings))


def _report(run: Prepared) -> Report:
    arranged = run.arranged
    if run.settings.captions == "ask":
        arranged = planned(arranged)
    return report(arranged, run.encoders.text_encoder())


def plan_of(settings: TrainSettings) -> TrainPlan:
    """The memory of a step with the largest pictures. Raises InkstoneError where it is too little
    even when weights are streamed.
    """
    return _plan(prepared(settings))


def _plan(run: Prepared) -> TrainPlan:
    settings, (target, prefix) = run.settings, run.largest
    with torch.device("meta"):
        adapter = _new_adapter(settings, run.model)
    working = Working(
        target=target,
        prefix=prefix,
        batch=settings.batch,
        sigmas=max(AHEAD, settings.batch * settings.accumulate * run.group.size),
        moments=MOMENTS[settings.optimizer],
        average=settings.ema > 0,
    )
    return train_plan(run.model, adapter, working)


def _prefix(example: Example) -> int:
    """Tokens of the longer caption and of the references."""
    references = 0 if example.references is None else len(example.references)
    return max(len(example.text), len(example.dropped)) + references


def train(
    settings: TrainSettings,
    on_step: Callable[[StepReport], None] | None = None,
    on_item: OnItem | None = None,
) -> Path:
    """Trains a LoRA, or resumes it, and returns its file. on_step: after each step; on_item: while
    pictures are read and encoded. KeyboardInterrupt after Ctrl-C or SIGTERM: the state is saved,
    the same call continues. Raises CallError and InkstoneError.
    """
    on_item = on_item or NO_PROGRESS
    with terminable(), torch.inference_mode(False):
        _train_all(prepared(settings, on_item), on_step, on_item)
    return settings.output


def _train_all(
    run: Prepared, on_step: Callable[[StepReport], None] | None, on_item: OnItem
) -> None:
    """What `train` does, after the pictures are read."""
    settings = run.settings
    for line in (*_report(run).lines, _plan(run).sentence()):
        log.info("%s", line)
    for line in (*settings.without_effect(run.steps), *_without_effect(run)):
        log.warning("%s", line)
    with joined(run.group, run.device):
        with run.group.in_turn():
            run = _with_captions(run, on_item)
        with opened(settings, run.identity(), run.group) as folder:
            with run.group.in_turn():
                cache = prepare(run.arranged, run.encoders, run.cache, on_item)
            with stoppable(impatient=run.group.size == 1) as stop:
                _train(run, cache, folder, stop, on_step)


def _without_effect(run: Prepared) -> Iterator[str]:
    """A sentence for each setting that these pictures or this model leave without effect."""
    own = run.settings.reference_resolution
    if own is not None and not any(work.item.references for work in run.arranged.works):
        yield f"--reference-resolution {own} has no effect: no picture has references"
    for pattern, rank in run.settings.ranks:
        blocks = blocks_beyond(run.model.network, pattern)
        if blocks is not None:
            yield f"--ranks {pattern}={rank}: the model has only the blocks 0 to {blocks}"
    if run.settings.kind != "lokr" or run.settings.alpha is None:
        return
    with torch.device("meta"):
        changes = _new_adapter(run.settings, run.model).by_name().values()
    whole = sum(isinstance(one, TrainedKron) and one.full for one in changes)
    if whole:
        yield (
            f"--alpha {run.settings.alpha:g} has no effect in {whole} of {len(changes)} layers: "
            f"with --rank {run.settings.rank} the second matrix of their LoKr has no factors"
        )


def _with_captions(run: Prepared, on_item: OnItem) -> Prepared:
    """The run with the captions that are asked for."""
    if run.settings.captions != "ask":
        return run
    trained = {work.item for work in run.arranged.works}
    ask = run.encoders.text_encoder
    pictures = ask_captions(run.arranged.dataset, ask, on_item=on_item, trained=trained)
    return replace(run, arranged=arrange(pictures, run.model, run.arranged.settings))


def _samples(run: Prepared, folder: RunFolder) -> Samples | None:
    """The pictures that are drawn while it trains, encoded; by the first process only."""
    prompts, encoders = run.settings.sample_prompts, run.encoders
    if not prompts or not run.group.first:
        return None
    encoded = encode_samples(prompts, run.arranged, encoders, run.cache)
    place, stamp = folder.path / SAMPLES, stamp_of(sorted(run.identity().items()))
    return Samples(run.model, encoded, encoders.vae, place, run.settings.seed, stamp)


def adapter_of(settings: TrainSettings, model: DiffusionModel) -> Adapter:
    """The weights that are trained, as they start, on the model's device."""
    adapter = _new_adapter(settings, model)
    adapter.start(model.read)
    return adapter.to(model.device)


def _new_adapter(settings: TrainSettings, model: DiffusionModel) -> Adapter:
    return Adapter.create(
        model.network,
        AdapterSettings(
            kind=settings.kind,
            rank=settings.rank,
            alpha=settings.alpha,
            targets=settings.targets,
            ranks=dict(settings.ranks),
            factor=settings.factor,
            seed=settings.seed,
        ),
    )


def objective_of(settings: TrainSettings) -> Objective:
    """How a step is drawn and weighed."""
    return Objective(
        timesteps=settings.timesteps,
        mean=settings.timestep_mean,
        spread=settings.timestep_spread,
        shift=settings.shift,
        weighting=settings.weighting,
        caption_dropout=settings.caption_dropout,
        caption_noise=settings.caption_noise,
        module_dropout=settings.module_dropout,
    )


def _train(
    run: Prepared,
    cache: Cache,
    folder: RunFolder,
    stop: threading.Event,
    on_step: Callable[[StepReport], None] | None,
) -> None:
    """The loop, with its parts."""
    settings, model, steps = run.settings, run.model, run.steps
    samples = _samples(run, folder)
    run.encoders.forget()
    plan = _plan(run)  # again: the encoders have left

    def place() -> None:
        model.ready(plan.working)

    place()
    adapter, objective = adapter_of(settings, model), objective_of(settings)
    trainer = Trainer(model, adapter, objective, plan.kept)
    buckets = cache.buckets()
    tokens = {i: math.prod(grids[0]) for grids, indices in buckets.items() for i in indices}

    def draws(step: int, indices: Sequence[int]) -> list[Draws]:
        sizes = [tokens[index] for index in indices]
        return draw(objective, model.schedule, settings.seed, step, sizes)

    with Result(replace(settings, steps=steps), run.arranged, adapter, folder) as result:

        def watch(report: StepReport) -> None:
            result.step(report)
            if on_step is not None:
                on_step(report)

        task = Task(
            settings=settings,
            steps=steps,
            examples=cache,
            order=Order(buckets.values(), settings.batch, settings.seed),
            draws=draws,
            trainer=trainer,
            adapter=adapter,
            optimizer=optimizer_of(settings, adapter.parameters()),
            folder=folder,
            write=result.write,
            group=run.group,
            on_step=watch,
            on_save=result.saved,
            sample=result.sampler(samples, place, stop) if samples else None,
        )
        log.info(
            "training %d modules of rank %s: %d steps, pictures a step: at most %d",
            len(adapter.names),
            " to ".join(map(str, dict.fromkeys((min(adapter.ranks), max(adapter.ranks))))),
            steps,
            settings.batch * settings.accumulate * run.group.size,
        )
        Loop(task).run(stop)
