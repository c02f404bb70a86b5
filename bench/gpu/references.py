"""Part `references`: Qwen-Image-2.1 with pictures, the reference cache on and off."""

from __future__ import annotations

import torch
from torch import Tensor

from bench import common
from bench.gpu.report import Part
from bench.gpu.run import Run
from bench.gpu.steps import options
from bench.references import LAYERS, REFERENCE, TEXT, request, steps_of, work
from bench.synthetic import config_21, file_of, model_of
from inkstone.kernels.compute_type import best_dtype
from inkstone.sampling.prefix_choices import Keep

KEPT: tuple[Keep, ...] = ("off", "device")
FEW = (3, 6)  # layers that are measured
SAME = {torch.float32: 1e-4, torch.bfloat16: 2e-2}  # relative error with the cache to without


def references(run: Run, part: Part) -> None:
    """Seconds of a step with one and three references, with the cache and without."""
    size = picture = (64, 64) if run.tiny else REFERENCE
    for count in run.each(("1",) if run.quick or run.tiny else ("1", "3")):
        off, without = 0.0, None
        for keep in KEPT:
            what = f"{count} references, cache {keep}"
            if run.time_for(what):
                with run.guarded(what):
                    first, later, latents = _scaled(run, int(count), keep, picture)
                    off, without = off or later, latents if without is None else without
                    error = run.card.relative(latents, without)
                    floor = work(size, int(count)) / run.card.products(_dtype(run))
                    part.row(
                        references=count,
                        cache=keep,
                        first_step_s=f"{first:.3f}",
                        later_step_s=f"{later:.3f}",
                        to_off=f"{later / off:.2f}",
                        to_floor=f"{later / floor:.2f}",
                        latents_to_off=part.check(what, error, SAME[_dtype(run)]),
                    )
    part.notes.append(
        f"{size[0]}x{size[1]}, {TEXT} text rows, references of the same size, Q4_K_M; scaled from "
        f"{FEW} layers to {LAYERS}"
    )


def _dtype(run: Run) -> torch.dtype:
    return torch.float32 if run.tiny else best_dtype("cuda")[0]


def _scaled(
    run: Run, count: int, keep: Keep, picture: tuple[int, int]
) -> tuple[float, float, Tensor]:
    """Seconds of the whole model's first and later steps; latents of the larger part of it."""
    pairs = []
    path = file_of(run.folder, "Q4_K_M", config_21(run.tiny))
    for layers in FEW:
        model = model_of(path, layers, options(run)).with_prefix_kept(keep)
        drawing = request(model, picture, count, 2, picture)
        *seconds, latents = steps_of(model, drawing, run.card.clock)
        pairs.append(seconds)
        model.weights.park()
    first, later = (common.of_all_layers(s, FEW, LAYERS) for s in zip(*pairs))
    return first, later, latents
