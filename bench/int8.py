"""What dtype int8 saves on this CPU: a step with it against one in the default type.

A few layers of the real width with random weights stand for all of them (bench/synthetic.py); the
first step of each draw, which reads the file, is not counted. Both ways take turns; the table has
the medians, scaled to all layers. What it costs is in bench/formats.py (TYPE+int8).

python bench/int8.py --folder /tmp/inkstone-cfg
python bench/int8.py --folder /tmp/inkstone-cfg --family 2.1 --size 1024x1024 --kind int8_convrot
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import scripts.package  # noqa: F401  makes this tree importable as `inkstone`
from bench import common
from bench.synthetic import KINDS, config_20b, config_21, file_of, model_of
from inkstone.loaders.models.diffusion_model import DiffusionModel
from inkstone.loaders.models.weight_file import LoadOptions
from inkstone.sampling.request import Hooks, Request
from inkstone.sampling.sampler import denoise
from inkstone.sampling.schedule import sigmas

LAYERS = {"20b": 60, "2.1": 32}  # of the published models
STEPS = 3  # of a draw; the first is not counted


def step(model: DiffusionModel, size: tuple[int, int], text: int) -> float:
    """Seconds of a later step, the faster one of a draw."""
    states = torch.randn(1, text, model.network.config.joint)
    marks: list[float] = []
    hooks = Hooks(on_step=lambda step: marks.append(time.perf_counter()))
    table = sigmas(model.schedule, STEPS, size[0] * size[1] // 256)
    denoise(model, states, None, Request(*size, table, cfg=1.0), hooks)
    return min(b - a for a, b in zip(marks, marks[1:]))


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    p.add_argument("--folder", type=Path, required=True, help="where the weights are written, once")
    p.add_argument("--family", choices=LAYERS, default="20b", help="default: %(default)s")
    p.add_argument("--kind", choices=KINDS, default="Q4_K_M", help="default: %(default)s")
    p.add_argument("--size", default="512x512", help="default: %(default)s")
    p.add_argument("--text", type=int, default=40, help="tokens; default: %(default)s")
    p.add_argument("--layers", type=int, default=6, help="to measure, 3 or more; %(default)s")
    p.add_argument("--runs", type=int, default=3, help="of each way; default: %(default)s")
    p.add_argument("--threads", type=int, default=torch.get_num_threads())
    p.add_argument("--tiny", action="store_true", help="a narrow network: tries the script only")
    args = p.parse_args()
    torch.set_num_threads(args.threads)
    width, height = (int(n) for n in args.size.split("x"))
    path = file_of(
        args.folder, args.kind, (config_21 if args.family == "2.1" else config_20b)(args.tiny)
    )
    ways = {"default": False, "int8": True}
    models = {
        way: model_of(path, args.layers, LoadOptions(wait=True, int8=int8))
        for way, int8 in ways.items()
    }
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(args.runs):
        for way, model in models.items():
            seconds[way].append(step(model, (width, height), args.text))
    scale, default = LAYERS[args.family] / args.layers, statistics.median(seconds["default"])
    cells: common.Cells = [("dtype", "s / step", "to default")]
    for way, took in seconds.items():
        own = statistics.median(took)
        name = way if way != "default" else str(models[way].dtype).removeprefix("torch.")
        cells.append((name, f"{own * scale:.2f}", common.ratio(own, default)))
    title = f"{args.family} {args.kind}, {args.size}, a text of {args.text} tokens"
    print(common.report(title, cells, common.facts(args)))


if __name__ == "__main__":
    main()
