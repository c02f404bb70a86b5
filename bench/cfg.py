"""What CFG costs: a step at CFG 4 against one at CFG 1, with both halves in one pass over packed
weights and in two passes.

A few layers of the real width with random weights stand for all of them (bench/synthetic.py): what
is outside of the blocks is less than a hundredth of a step. The first step of each draw, which
reads the file, is not counted. The three ways take turns, so that a busy machine slows all of them;
the table has the medians, scaled to all layers, and their ratios. Both ways of CFG give the same
latents, or the run stops.

python bench/cfg.py --folder /tmp/inkstone-cfg
python bench/cfg.py --folder /tmp/inkstone-cfg --family 2.1 --size 1024x1024
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import scripts.package  # noqa: F401  makes this tree importable as `inkstone`
from bench import common
from bench.synthetic import KINDS, config_20b, config_21, file_of, model_of
from inkstone.loaders.models.diffusion_model import DiffusionModel
from inkstone.loaders.models.weight_file import LoadOptions
from inkstone.sampling.request import Hooks, Request
from inkstone.sampling.run_memory import passes_apart
from inkstone.sampling.sampler import denoise
from inkstone.sampling.schedule import sigmas

LAYERS = {"20b": 60, "2.1": 32}  # of the published models
TEXTS = 60, 20  # rows of usual prompts
STEPS = 3  # of a draw; the first is not counted
Way = tuple[float, Callable[[], AbstractContextManager[None]]]
WAYS: dict[str, Way] = {
    "CFG 1": (1.0, nullcontext),
    "CFG 4, one pass": (4.0, nullcontext),
    "CFG 4, two passes": (4.0, passes_apart),
}


def step(model: DiffusionModel, args: argparse.Namespace, way: str) -> tuple[float, Tensor]:
    """Seconds of a later step, the faster one of a draw, and the latents."""
    width, height = args.pixels
    cfg, context = WAYS[way]
    dice = torch.Generator().manual_seed(2)
    joint = model.network.config.joint
    positive, negative = (torch.randn(1, rows, joint, generator=dice) for rows in TEXTS)
    marks: list[float] = []
    hooks = Hooks(on_step=lambda step: marks.append(time.perf_counter()))
    table = sigmas(model.schedule, STEPS, width * height // 256)
    with context():
        latents = denoise(model, positive, negative, Request(width, height, table, cfg=cfg), hooks)
    return min(b - a for a, b in zip(marks, marks[1:])), latents


def measured(args: argparse.Namespace) -> dict[str, float]:
    """Median seconds of a step of the whole model in each way."""
    config = (config_21 if args.family == "2.1" else config_20b)(args.tiny)
    path = file_of(args.folder, args.kind, config)
    model = model_of(path, args.layers, LoadOptions(wait=True))
    seconds: dict[str, list[float]] = {way: [] for way in WAYS}
    for _ in range(args.runs):
        drawn: dict[str, Tensor] = {}
        for way in WAYS:
            took, drawn[way] = step(model, args, way)
            seconds[way].append(took)
        one, two = list(drawn.values())[1:]
        if not torch.equal(one, two):
            raise SystemExit(f"one pass differs from two by {(one - two).abs().max():.1e}")
    scale = LAYERS[args.family] / args.layers
    return {way: statistics.median(took) * scale for way, took in seconds.items()}


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    p.add_argument("--folder", type=Path, required=True, help="where the weights are written, once")
    p.add_argument("--family", choices=LAYERS, default="20b", help="default: %(default)s")
    p.add_argument("--kind", choices=KINDS, default="Q4_K_M", help="default: %(default)s")
    p.add_argument("--size", default="512x512", help="default: %(default)s")
    p.add_argument("--layers", type=int, default=6, help="to measure, 3 or more; %(default)s")
    p.add_argument("--runs", type=int, default=3, help="of each way; default: %(default)s")
    p.add_argument("--threads", type=int, default=torch.get_num_threads())
    p.add_argument("--tiny", action="store_true", help="a narrow network: tries the script only")
    args = p.parse_args()
    torch.set_num_threads(args.threads)
    args.pixels = tuple(int(n) for n in args.size.split("x"))
    seconds = measured(args)
    cells: common.Cells = [("step", "seconds", "to CFG 1", "to two passes")]
    for way, own in seconds.items():
        ratios = (common.ratio(own, seconds[other]) for other in ("CFG 1", "CFG 4, two passes"))
        cells.append((way, f"{own:.2f}", *ratios))
    title = f"{args.family} {args.kind}, {args.size}, texts of {TEXTS[0]} and {TEXTS[1]} tokens"
    print(common.report(title, cells, common.facts(args)))


if __name__ == "__main__":
    main()
