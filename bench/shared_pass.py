"""What several requests gain that share a pass: two and four drawings of one size with prompts of
their own, one after the other and together (sampling/together.py).

Of the 20B model a few layers of the real width with random weights stand for all of them
(bench/synthetic.py). --stream keeps two blocks in memory: every pass reads all others from the
file. The ways take turns, so that a busy machine slows all of them. The table has medians: seconds
of a step of one drawing, scaled to all layers. Each way gives the same latents, or the run stops.
--batch adds one request of as many pictures of one prompt: what a pass could gain at most if all
prompts had one length.

python bench/shared_pass.py --kind embedded --size 128x128 --batch
python bench/shared_pass.py --kind Q4_K_M --size 256x256 --folder /tmp/inkstone-shared --stream
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import scripts.package  # noqa: F401  makes this tree importable as `inkstone`
from bench import common
from bench.synthetic import KINDS, config_20b, file_of, model_of
from inkstone.loaders.models.diffusion_model import DiffusionModel
from inkstone.loaders.models.load import load_all
from inkstone.loaders.models.weight_file import LoadOptions
from inkstone.sampling.request import Request
from inkstone.sampling.sampler import denoise
from inkstone.sampling.schedule import sigmas
from inkstone.sampling.together import Part, denoise_together

EMBEDDED = "embedded"
LAYERS = 60  # of the published model
ROWS = (24, 60, 37, 90)  # tokens of prompts
NEGATIVE = 20
Way = Callable[[], list[Tensor]]


def parts_of(model: DiffusionModel, args: argparse.Namespace, count: int) -> list[Part]:
    """Drawings with prompts and seeds of their own."""
    width, height = args.pixels
    dice = torch.Generator().manual_seed(2)
    joint = model.network.config.joint
    table = sigmas(model.schedule, args.steps, width * height // 256)
    negative = torch.randn(1, NEGATIVE, joint, generator=dice) if args.cfg > 1 else None
    return [
        Part(
            torch.randn(1, rows, joint, generator=dice),
            negative,
            Request(width, height, table, seed=seed, cfg=args.cfg),
        )
        for seed, rows in enumerate(ROWS[:count])
    ]


def ways_of(model: DiffusionModel, args: argparse.Namespace, count: int) -> dict[str, Way]:
    """The ways to draw them."""
    parts = parts_of(model, args, count)
    first = parts[0]

    def one_by_one() -> list[Tensor]:
        return [denoise(model, p.positive, p.negative, p.request) for p in parts]

    def together() -> list[Tensor]:
        results = denoise_together(model, parts)
        for result in results:
            if isinstance(result, BaseException):
                raise result
        return [result for result in results if isinstance(result, Tensor)]

    def batch() -> list[Tensor]:
        width, height, table = first.request.width, first.request.height, first.request.sigmas
        request = Request(width, height, table, seed=0, cfg=args.cfg, batch=count)
        return list(denoise(model, first.positive, first.negative, request))

    ways: dict[str, Way] = {"one by one": one_by_one, "together": together}
    return ways | ({"batch": batch} if args.batch else {})


def opened(args: argparse.Namespace) -> tuple[DiffusionModel, float]:
    """The model, and how often its layers stand in the whole one."""
    if args.kind == EMBEDDED:
        return load_all(None, LoadOptions(wait=True)).model, 1.0
    path = file_of(args.folder, args.kind, config_20b(args.tiny))
    model = model_of(path, args.layers, LoadOptions(wait=not args.stream))
    if args.stream:
        _stream(model)
    return model, LAYERS / args.layers


def _stream(model: DiffusionModel) -> None:
    """Makes the model settle with two blocks, whatever is free."""
    residency = model.weights
    rest, groups = residency.sizes
    room = rest + 2 * max(groups)
    residency._room = lambda budget, working, makes=True: room + working  # type: ignore[method-assign]


def measured(args: argparse.Namespace) -> dict[tuple[str, int], float]:
    """Median seconds of a step of one drawing, by way and number of drawings."""
    model, scale = opened(args)
    seconds: dict[tuple[str, int], float] = {}
    for count in args.counts:
        ways = ways_of(model, args, count)
        took: dict[str, list[float]] = {way: [] for way in ways}
        for turn in range(args.runs + 1):  # the first is not counted
            drawn: dict[str, list[Tensor]] = {}
            for way, draw in ways.items():
                start = time.perf_counter()
                drawn[way] = draw()
                if turn:
                    took[way].append((time.perf_counter() - start) / args.steps / count)
            pairs = zip(drawn["one by one"], drawn["together"], strict=True)
            if not all(torch.equal(a, b) for a, b in pairs):
                raise SystemExit("together they are other pictures than one by one")
        seconds |= {(way, count): statistics.median(own) * scale for way, own in took.items()}
    return seconds


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    p.add_argument("--folder", type=Path, help="where weights are written, once")
    p.add_argument("--kind", choices=[EMBEDDED, *KINDS], default=EMBEDDED)
    p.add_argument("--size", default="256x256", help="default: %(default)s")
    p.add_argument("--cfg", type=float, default=4.0, help="default: %(default)s")
    p.add_argument("--steps", type=int, default=3, help="default: %(default)s")
    p.add_argument("--counts", type=int, nargs="+", default=[2, 4], help="drawings; 2 and 4")
    p.add_argument("--layers", type=int, default=6, help="to measure, 3 or more; %(default)s")
    p.add_argument("--stream", action="store_true", help="only two blocks stay in memory")
    p.add_argument("--batch", action="store_true", help="measure batches of one prompt too")
    p.add_argument("--runs", type=int, default=3, help="of each way; default: %(default)s")
    p.add_argument("--threads", type=int, default=torch.get_num_threads())
    p.add_argument("--tiny", action="store_true", help="a narrow network: tries the script only")
    args = p.parse_args()
    if args.kind != EMBEDDED and args.folder is None:
        p.error(f"--folder is needed for {args.kind}")
    torch.set_num_threads(args.threads)
    args.pixels = tuple(int(n) for n in args.size.split("x"))
    seconds = measured(args)
    cells: common.Cells = [("way", "drawings", "seconds", "to one by one")]
    for (way, count), own in seconds.items():
        other = seconds["one by one", count]
        cells.append((way, str(count), f"{own:.4f}", common.ratio(own, other)))
    where = "two blocks in memory" if args.stream else "resident"
    title = f"{args.kind}, {args.size}, CFG {args.cfg:g}, {where}"
    print(common.report(title, cells, common.facts(args)))


if __name__ == "__main__":
    main()
