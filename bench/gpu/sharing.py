"""Parts `streaming` and `cfg`: what steps cost when weights do not fit, and when both halves of CFG
are computed.
"""

from __future__ import annotations

import torch

from bench.gpu.report import Part
from bench.gpu.run import Run
from bench.gpu.steps import OVER_PLAN, Drawn, case_of, draw, options, texts
from bench.synthetic import config_20b, file_of, model_of
from inkstone.loaders.memory.placement import place
from inkstone.loaders.models.diffusion_model import DiffusionModel
from inkstone.sampling.run_memory import passes_apart, working_bytes

KEPT = 2  # blocks that stay while the others are streamed


class Room:
    """A card of which only this much is free for a model, see loaders/memory/residency.py."""

    def __init__(self) -> None:
        self.model: DiffusionModel | None = None
        self.room = 0

    def __call__(self, need: int, device: torch.device, ask: bool = True) -> int:
        held = self.model.weights.in_memory if self.model is not None else 0
        return max(0, self.room - held)


def streaming(run: Run, part: Part) -> None:
    """All layers resident against two of them, the rest read in every step."""
    layers = 4 if run.tiny else 6 if run.quick else 12
    for kind in run.each(("Q4_K_M",) if run.quick or run.tiny else ("Q4_K_M", "bf16")):
        with run.guarded(kind):
            _streamed(run, part, kind, layers)
            run.card.forget()
    part.notes.append(
        f"{layers} layers of the 60; floor: the streamed bytes at {run.card.upload / 1e9:.1f} GB/s "
        f"from pinned memory ({run.card.upload_pageable / 1e9:.1f} from ordinary memory)"
    )
    part.notes.append("hidden: the part of reading that the computation covers; 100 % at best")


def _streamed(run: Run, part: Part, kind: str, layers: int) -> None:
    case = case_of(run)
    path, room = file_of(run.folder, kind, config_20b(run.tiny)), Room()
    model = model_of(path, layers, options(run))
    resident = draw(run, model, case.request(model))
    model.weights.park()
    model = model_of(path, layers, options(run, free=room))
    request = case.request(model)
    working = working_bytes(model, request, texts(model, 1.0))
    rest, groups = model.weights.sizes
    need = rest + sum(groups[:KEPT]) + 2 * max(groups[KEPT:])
    room.model, room.room = model, int((need + working) / 0.95) + 64
    before = run.card.begin_peak()
    drawn = draw(run, model, request)
    part.holds(
        f"{kind}: {model.weights.placement}, expected {KEPT} resident blocks",
        model.weights.placement == place(rest, groups, need),
    )
    part.holds(
        f"{kind}: streamed weights give other latents", drawn.latents.equal(resident.latents)
    )
    _row(run, part, kind, model, (resident, drawn), before + need + working)
    model.weights.park()


def _row(
    run: Run, part: Part, kind: str, model: DiffusionModel, drawn: tuple[Drawn, Drawn], need: int
) -> None:
    resident, streamed = drawn
    groups = model.weights.groups[KEPT:]
    size = sum(slot.nbytes for group in groups for slot in group)

    def read() -> None:
        for group in groups:
            values = [slot.read().to(model.device) for slot in group]
            del values

    alone, floor = run.card.seconds(read, 2), size / run.card.upload
    hidden = 1 - (streamed.later - resident.later) / alone
    if run.card.cuda:
        part.check(f"{kind}: peak to plan", streamed.peak / need, OVER_PLAN)
    part.row(
        storage=kind,
        streamed_GB=f"{size / 1e9:.2f}",
        resident_s=f"{resident.later:.3f}",
        streamed_s=f"{streamed.later:.3f}",
        reading_alone_s=f"{alone:.3f}",
        floor_s=f"{max(floor, resident.later):.3f}",
        to_floor=f"{streamed.later / max(floor, resident.later):.2f}",
        hidden=f"{min(1.0, max(0.0, hidden)):.0%}",
        peak_to_plan=f"{streamed.peak / need:.3f}",
    )


def cfg(run: Run, part: Part) -> None:
    """Steps at CFG 4 against CFG 1: in one pass over the weights, and in two."""
    case, layers = case_of(run), 3 if run.tiny else 6
    model = model_of(file_of(run.folder, "Q4_K_M", config_20b(run.tiny)), layers, options(run))
    one = draw(run, model, case.request(model))
    _pass(part, "CFG 1", one, one)
    shared = draw(run, model, case.request(model, 4.0))
    _pass(part, "CFG 4, one pass over the weights", shared, one)
    with passes_apart():
        apart = draw(run, model, case.request(model, 4.0))
    _pass(part, "CFG 4, two passes", apart, one)
    same = shared.latents.equal(apart.latents)
    part.holds("one pass over the weights gives other latents than two", same)
    model.weights.park()
    part.notes.append(f"Q4_K_M, {layers} layers of the 60")


def _pass(part: Part, name: str, drawn: Drawn, one: Drawn) -> None:
    part.holds(f"{name}: its latents are not finite", bool(drawn.latents.isfinite().all()))
    part.row(
        step=name,
        s_per_step=f"{drawn.later:.3f}",
        to_CFG_1=f"{drawn.later / one.later:.2f}",
        peak_GB=f"{drawn.peak / 1e9:.2f}",
    )
