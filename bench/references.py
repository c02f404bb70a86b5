"""Qwen-Image-2.1 at its real width: seconds per step with 0, 1 and 3 references of one megapixel,
with the reference cache against without, and the peak of a whole run against its plan.

Writes once, into --folder, a file of full width, three layers and valid random blocks, which
stands for any number of layers (bench/synthetic.py), and measures two numbers of them: the
difference is the time of a layer, and 32 of them with the rest that of the whole model, which is
what the table shows. The floor is the linear and attention work of the target alone at the speed
of this CPU's largest products. --whole draws with all 32 layers once and compares its peak with the
plan. On a card: bench/gpu_check.py.

python bench/references.py --folder /tmp/inkstone-21
python bench/references.py --folder /tmp/inkstone-21 --size 512x512 --references 0,1
python bench/references.py --folder /tmp/inkstone-21 --kind int8_convrot --references 0
python bench/references.py --folder /tmp/inkstone-21 --whole --size 512x512 --references 1
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import scripts.package  # noqa: F401  makes this tree importable as `inkstone`
from bench import common, harness
from bench.synthetic import KINDS, config_21, file_of, model_of
from inkstone.kernels.compute_type import best_dtype
from inkstone.loaders.models.diffusion_model import DiffusionModel
from inkstone.loaders.models.weight_file import LoadOptions
from inkstone.sampling.request import Hooks, Request
from inkstone.sampling.run_memory import working_bytes
from inkstone.sampling.sampler import denoise
from inkstone.sampling.schedule import sigmas

LAYERS, TEXT = 32, 60  # of the published model; rows of a usual prompt
REFERENCE = (1024, 1024)
Size = tuple[int, int]
Clock = Callable[[], float]


def request(
    model: DiffusionModel, size: Size, references: int, steps: int, picture: Size = REFERENCE
) -> Request:
    """A run with random latents in place of encoded pictures."""
    source = torch.Generator().manual_seed(1)
    shape = model.latents.shape(*picture)
    pictures = tuple(torch.randn(1, *shape, generator=source) for _ in range(references))
    tokens = size[0] * size[1] // 256
    slots = tuple(4 + 5 * n for n in range(references))
    table = sigmas(model.schedule, steps, tokens)
    return Request(*size, table, references=pictures, slots=slots)


def steps_of(
    model: DiffusionModel, run: Request, clock: Clock = time.perf_counter
) -> tuple[float, float, Tensor]:
    """Seconds of the first step and of the second one, and the latents. clock: seconds, when the
    device is done."""
    joint = model.network.config.joint
    text = torch.randn(1, TEXT, joint, generator=torch.Generator().manual_seed(2))
    marks: list[float] = []
    hooks = Hooks(
        on_block=lambda step, block: None if block or step else marks.append(clock()),
        on_step=lambda step: marks.append(clock()),
    )
    latents = denoise(model, text, None, run, hooks)
    begun, first, second = marks[:3]
    return first - begun, second - first, latents


def model_with(args: argparse.Namespace, layers: int, keep: str = "auto") -> DiffusionModel:
    """The model with this many layers; nothing is read yet."""
    path = file_of(args.folder, args.kind, config_21(tiny=False))
    return model_of(path, layers, LoadOptions(wait=True)).with_prefix_kept(keep)


def scaled(args: argparse.Namespace, references: int, keep: str) -> tuple[float, float]:
    """Seconds of the whole model's first and later steps."""
    few, more = (int(n) for n in args.layers.split(","))

    def one(model: DiffusionModel) -> tuple[float, float]:
        return steps_of(model, request(model, args.pixels, references, 2))[:2]

    short, long = (one(model_with(args, n, keep)) for n in (few, more))
    first, later = (common.of_all_layers(s, (few, more), LAYERS) for s in zip(short, long))
    return first, later


def work(size: tuple[int, int], references: int) -> float:
    """FLOP of a step's target tokens: linear layers and attention of all layers."""
    tokens = size[0] * size[1] // 256
    keys = tokens + TEXT + references * REFERENCE[0] * REFERENCE[1] // 256
    return LAYERS * (2 * tokens * 218_104_064 + 4 * tokens * keys * 4096)


def table(args: argparse.Namespace) -> None:
    """Prints the seconds."""
    dtype = best_dtype("cpu")[0]
    rate = common.product_rate(dtype)
    width, height = args.pixels
    print(f"Qwen-Image-2.1 {args.kind}, {width}x{height}, {TEXT} text rows, computed in {dtype}")
    print("references  cache  first step s  later step s  later / off  / floor")
    for references in (int(n) for n in args.references.split(",")):
        floor, off = work(args.pixels, references) / rate, 0.0
        for keep in ("off", "device"):
            first, later = scaled(args, references, keep)
            off = off or later
            print(
                f"{references:>10}  {keep:<6} {first:>12.1f}  {later:>12.1f}  {later / off:>11.2f}"
                f"  {later / floor:>7.2f}",
                flush=True,
            )


def whole(args: argparse.Namespace) -> None:
    """One run of the whole model: its peak against the plan."""
    model = model_with(args, LAYERS)
    before = harness.peak()
    text = torch.randn(1, TEXT, 4096)
    run = request(model, args.pixels, int(args.references.split(",")[0]), 1)
    planned = before + model.weights.nbytes + working_bytes(model, run, {"positive": text})
    start = time.perf_counter()
    denoise(model, text, None, run)
    seconds, peak = time.perf_counter() - start, harness.peak()
    print(
        f"whole model, {args.size}, references {args.references}: one step with reading "
        f"{seconds:.1f} s, peak {peak / 1e9:.2f} GB, planned {planned / 1e9:.2f} GB, "
        f"ratio {peak / planned:.3f}"
    )


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("--folder", type=Path, required=True)
    p.add_argument("--kind", choices=KINDS, default="Q4_K_M", help="default: %(default)s")
    p.add_argument("--size", default="1024x1024")
    p.add_argument("--references", default="0,1,3")
    p.add_argument("--layers", default="3,5", help="two numbers of layers to measure")
    p.add_argument("--threads", type=int, default=torch.get_num_threads())
    p.add_argument("--whole", action="store_true", help="peak of all layers against the plan")
    args = p.parse_args()
    torch.set_num_threads(args.threads)
    width, height = args.size.split("x")
    args.pixels = int(width), int(height)
    (whole if args.whole else table)(args)
    facts = harness.machine()
    flags = ", ".join(facts["flags"])
    print(f"{facts['cpu']} ({flags}), {args.threads} threads, torch {torch.__version__}")
    print(harness.command())


if __name__ == "__main__":
    main()
