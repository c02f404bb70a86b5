"""Part `steps`: a 20B model of random weights at 1328x1328, and what other parts draw with.

Few layers are measured and scaled to 60 (bench/common.py), then the whole model where memory and
time allow. `floor` is the step's linear layers and attention at the speed of the card's largest
product; the peer is torch's own unpacking, layer by layer, then the library's product.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor

from bench import common
from bench.gpu.kernels import eager
from bench.gpu.report import Part
from bench.gpu.run import Run
from bench.synthetic import KINDS, config_20b, file_of, model_of
from inkstone.kernels.configs import MMDiTConfig
from inkstone.kernels.linear import force_packed, packed_backend
from inkstone.kernels.mmdit import MMDiT
from inkstone.loaders.models.bundle import Bundle
from inkstone.loaders.models.diffusion_model import DiffusionModel
from inkstone.loaders.models.weight_file import LoadOptions
from inkstone.pipeline.memory_plan import PlanRequest, plan
from inkstone.quant.fp8 import Fp8Storage
from inkstone.quant.gguf_dequantizer import UNPACK
from inkstone.quant.gguf_storage import GGUFStorage
from inkstone.quant.storage import Storage
from inkstone.sampling.request import Hooks, Request
from inkstone.sampling.sampler import denoise
from inkstone.sampling.schedule import sigmas

LAYERS, TEXT, NEGATIVE = 60, 60, 20  # of the published model; rows of usual prompts
OVER_PLAN = 1.05  # the most of a measured peak to the planned one


@dataclass(frozen=True)
class Case:
    """What is drawn."""

    size: tuple[int, int]
    few: tuple[int, int]  # two numbers of layers to measure
    steps: int = 3

    @property
    def tokens(self) -> int:
        return self.size[0] * self.size[1] // 256

    def request(self, model: DiffusionModel, cfg: float = 1.0) -> Request:
        return Request(*self.size, sigmas(model.schedule, self.steps, self.tokens), cfg=cfg)


def case_of(run: Run) -> Case:
    """The size of the check."""
    if run.tiny:
        return Case((64, 64), (3, 4), 2)
    return Case((1328, 1328), (3, 6), 2 if run.quick else 3)


@dataclass(frozen=True)
class Drawn:
    """One run: seconds until the first block (the modulation table is read and computed), of the
    first step (weights are read in it) and of a later one; peak bytes of tensors, the most that the
    whole device had in use in addition, the latents."""

    table: float
    first: float
    later: float
    peak: int
    device: int
    latents: Tensor


def texts(model: DiffusionModel, cfg: float) -> Mapping[str, Tensor]:
    """Random states of a prompt, and with CFG of a negative one."""
    source, joint = torch.Generator().manual_seed(2), model.network.config.joint
    rows = {"positive": TEXT, "negative": NEGATIVE} if cfg > 1 else {"positive": TEXT}
    return {half: torch.randn(1, count, joint, generator=source) for half, count in rows.items()}


def draw(run: Run, model: DiffusionModel, request: Request) -> Drawn:
    """Draws; the model's weights are loaded as the first step needs them."""
    states, card = texts(model, request.cfg), run.card
    marks: list[float] = [card.clock()]

    def on_block(step: int, block: int) -> None:
        if len(marks) == 1:
            marks.append(card.clock())

    hooks = Hooks(on_block=on_block, on_step=lambda step: marks.append(card.clock()))
    whole = card.free()
    card.begin_peak()
    with card.least_free() as least:
        latents = denoise(model, states["positive"], states.get("negative"), request, hooks)
    steps = [b - a for a, b in zip(marks, marks[1:])]
    later = statistics.median(steps[2:])
    return Drawn(steps[0], steps[1], later, card.peak(), whole - least[0], latents)


def options(run: Run, **more: object) -> LoadOptions:
    """Nothing is read before the run; on a CPU float32, which has no other kernels to check."""
    dtype = torch.float32 if run.tiny else None
    return LoadOptions(dtype, run.card.device, wait=True, **more)  # type: ignore[arg-type]


def planned(model: DiffusionModel, case: Case, cfg: float = 1.0) -> int:
    """The peak that `inkstone plan` says."""
    request = PlanRequest(size=case.size, steps=case.steps, cfg=cfg)
    return plan(Bundle(model, None, None), request).peak


@contextmanager
def peer() -> Iterator[None]:
    """torch's own unpacking in a few passes over the whole matrix, then the library's product."""
    usual = Storage.dequantize

    def whole(storage: Storage, dtype: torch.dtype = torch.float32) -> Tensor:
        if isinstance(storage, GGUFStorage) and storage.format in UNPACK:
            return eager(storage, dtype)
        if isinstance(storage, Fp8Storage) and storage.scale is not None:
            return storage.codes.view(storage.kind).to(dtype) * storage.scale.to(dtype)
        return usual(storage, dtype)

    Storage.dequantize = whole  # type: ignore[method-assign]
    try:
        with force_packed("whole"):
            yield
    finally:
        Storage.dequantize = usual  # type: ignore[method-assign]


def steps(run: Run, part: Part) -> None:
    """Seconds of a step and peak against plan, for each storage."""
    case = case_of(run)
    size = "x".join(map(str, case.size))
    part.notes.append(
        f"{size}, {TEXT} text rows, CFG 1; times scaled from {case.few} layers to {LAYERS}, memory "
        f"of {case.few[1]} layers; 'whole' is all {LAYERS}, as it is"
    )
    for kind in run.each(KINDS):
        with run.guarded(kind):
            _kind(run, part, case, kind)
            run.card.forget()


def _kind(run: Run, part: Part, case: Case, kind: str) -> None:
    path = file_of(run.folder, kind, config_20b(run.tiny))
    warm = model_of(path, case.few[0], options(run))  # compiles kernels, reads the file once
    draw(run, warm, case.request(warm))
    warm.weights.park()
    scaled = _scaled(run, part, case, kind)
    if kind != "bf16" and run.time_for(f"{kind} by the peer"):
        _scaled(run, part, case, kind, ours=scaled)
    model = model_of(path, LAYERS, options(run))
    need, read = planned(model, case), 2e-9 * model.weights.nbytes  # half a GB per second
    if run.quick or run.tiny:
        part.notes.append(f"{kind}: the whole model is left out by --quick and --tiny")
    elif need > 0.95 * run.card.free():
        part.notes.append(f"{kind}: the whole model needs {need / 1e9:.1f} GB, more than is free")
    elif run.time_for(f"the whole {kind}", read / 4 + 3 * scaled):
        drawn = draw(run, model, case.request(model))
        _row(run, part, f"{kind}, whole", (drawn.table, drawn.first, drawn.later), drawn, need)
        model.weights.park()


def _scaled(run: Run, part: Part, case: Case, kind: str, ours: float = 0.0) -> float:
    """A row from two numbers of layers; seconds of a later step of the whole. ours: those of our
    way, where this is the peer."""
    path = file_of(run.folder, kind, config_20b(run.tiny))
    pairs, model, drawn, need = [], None, None, 0
    for layers in case.few:
        model = model_of(path, layers, options(run))
        need = planned(model, case)
        with peer() if ours else nullcontext():
            drawn = draw(run, model, case.request(model))
        pairs.append((drawn.table, drawn.first, drawn.later))
        if not ours:
            _note_backend(part, kind, model)
        model.weights.park()
        run.card.forget()
    seconds = tuple(common.of_all_layers(s, case.few, LAYERS) for s in zip(*pairs))
    assert drawn is not None
    name = f"{kind}, torch's unpacking" if ours else kind
    _row(run, part, name, seconds, drawn, need, seconds[2] / ours if ours else 1.0)
    return seconds[2]


def _note_backend(part: Part, kind: str, model: DiffusionModel) -> None:
    """One line: who multiplies a packed layer, and why."""
    assert isinstance(model.network, MMDiT)
    layer = model.network.transformer_blocks[1].attn.to_q
    if layer.storage is None:
        return
    name, reason = packed_backend(layer.storage, model.device, model.dtype)
    note = f"{kind} is multiplied by '{name}': {reason}"
    if note not in part.notes:
        part.notes.append(note)


def _row(
    run: Run,
    part: Part,
    name: str,
    seconds: tuple[float, ...],
    drawn: Drawn,
    need: int,
    ratio: float = 0.0,
) -> None:
    dtype = torch.float32 if run.tiny else torch.bfloat16
    work = common.step_flop(MMDiTConfig(layers=LAYERS), case_of(run).tokens, TEXT)
    floor = work / run.card.products(dtype)
    over = drawn.peak / need
    if run.card.cuda:
        part.check(f"{name}: peak to plan", over, OVER_PLAN)
    part.holds(f"{name}: its latents are not finite", bool(drawn.latents.isfinite().all()))
    part.row(
        storage=name,
        table_s=f"{seconds[0]:.2f}",
        first_step_s=f"{seconds[1]:.3f}",
        s_per_step=f"{seconds[2]:.3f}",
        to_floor=f"{seconds[2] / floor:.2f}",
        to_ours=f"{ratio:.2f}" if ratio else "",
        peak_GB=f"{drawn.peak / 1e9:.2f}",
        planned_GB=f"{need / 1e9:.2f}",
        peak_to_plan=f"{over:.3f}",
        device_GB=f"{drawn.device / 1e9:.2f}",
    )
