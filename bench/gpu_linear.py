"""One linear layer with a GGUF weight on a CUDA card: our two ways, an eager one, plain 16 bits.

Sides: `fused` (weight unpacked inside the product), `unpack` (one pass to 16 bits, then the
library's product), `eager` (torch expressions over the whole matrix, several passes, then the
product: ComfyUI-GGUF's manner), `plain` (the library's product with a weight that is 16 bits
already). Times are medians of CUDA events over calls that each begin with a cold second-level
cache, as the layers of a network do. `chosen` is what kernels/triton/tiles.py takes; where another
way is faster on a card, its numbers are wrong for that card. Every side's result is first compared
with `plain`.

python bench/gpu_linear.py --types Q4_K,Q8_0 --tokens 1,16,100,512,4096
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import scripts.package  # noqa: F401  makes this tree importable as `inkstone`
from bench import common, harness
from inkstone.kernels.triton import backend, tiles
from inkstone.quant.gguf_dequantizer import UNPACK
from inkstone.quant.gguf_storage import GGUFStorage

# [out, in] of the network's layers: attention, MLP up, MLP down, modulation
SHAPES = ("3072x3072", "12288x3072", "3072x12288", "18432x3072")
PEER = "eager"
FLUSH = 256 << 20  # bytes written between calls: more than any card's second-level cache
Call = Callable[[], Tensor]


def eager(storage: GGUFStorage, dtype: torch.dtype) -> Tensor:
    """The plain weight by expressions over the whole matrix."""
    blocks = UNPACK[storage.format](storage.raw.view(-1, storage.kind.bytes))
    groups = blocks.codes.float().view(len(blocks.codes), blocks.scale.shape[1], -1)
    weight = groups * blocks.scale.unsqueeze(2)
    if blocks.minimum is not None:
        weight = weight + blocks.minimum.unsqueeze(2)
    return weight.to(dtype).view(storage.shape)


def sides(x: Tensor, storage: GGUFStorage) -> dict[str, Call]:
    """The work of each side on x [M,K]."""
    gemm, plain = backend.kernels(), eager(storage, x.dtype)
    return {
        "fused": lambda: gemm.fused_product(x, storage),
        "unpack": lambda: F.linear(x, gemm.unpack_weight(storage, x.dtype)),
        "eager": lambda: F.linear(x, eager(storage, x.dtype)),
        "plain": lambda: F.linear(x, plain),
    }


def milliseconds(call: Call, repeats: int) -> float:
    """Median time on the card; compilation and first calls apart."""
    flush = torch.empty(FLUSH, dtype=torch.uint8, device="cuda")
    for _ in range(3):
        call()
    pairs = []
    for _ in range(repeats):
        flush.zero_()
        start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        call()
        stop.record()
        pairs.append((start, stop))
    torch.cuda.synchronize()
    return statistics.median(start.elapsed_time(stop) for start, stop in pairs)


def one(name: str, shape: tuple[int, int], tokens: int, args: argparse.Namespace) -> dict:
    """Milliseconds of all sides for one layer and so many tokens."""
    dtype = getattr(torch, args.dtype)
    storage = backend.random_weight(name, *shape).to("cuda")
    x = torch.randn(tokens, shape[1], device="cuda").to(dtype)
    work = sides(x, storage)
    want = work["plain"]().float()
    for side, call in work.items():
        error = ((call().float() - want).norm() / want.norm()).item()
        if not error < backend.TOLERANCE[dtype]:
            raise SystemExit(f"Side '{side}' is wrong for {name}: relative error {error:.2g}.")
    times = {side: milliseconds(call, args.repeats) for side, call in work.items()}
    chosen = tiles.choose(name, dtype, tokens, x.device)[0]
    return {"type": name, "shape": shape, "tokens": tokens, "chosen": chosen, "ms": times}


def cells(results: list[dict]) -> common.Cells:
    """Milliseconds, then ratios: our ways to the eager one, and to the plain product."""
    out = [
        (
            "",
            "tokens",
            "fused ms",
            "unpack ms",
            "eager ms",
            "plain ms",
            "chosen",
            "fused / eager",
            "unpack / eager",
            "fused / plain",
            "unpack / plain",
        )
    ]
    for r in results:
        ms = r["ms"]
        ratios = (common.ratio(ms[a], ms[b]) for b in (PEER, "plain") for a in tiles.HOWS)
        times = (f"{ms[side]:.3f}" for side in ("fused", "unpack", "eager", "plain"))
        layer = f"{r['type']} {r['shape'][0]}x{r['shape'][1]}"
        out.append((layer, str(r["tokens"]), *times, r["chosen"], *ratios))
    return out


def options() -> argparse.Namespace:
    p = argparse.ArgumentParser(
        description=__doc__.splitlines()[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    p.add_argument("--types", default="Q8_0,Q4_K,Q6_K", help=f"some of {','.join(backend.TYPES)}")
    p.add_argument("--shapes", default=",".join(SHAPES), help="OUTxIN, comma-separated")
    p.add_argument("--tokens", default="1,16,100,512,4096", help="comma-separated")
    p.add_argument("--dtype", default="bfloat16", choices=("bfloat16", "float16"))
    p.add_argument("--repeats", type=int, default=30)
    p.add_argument("--json", action="store_true", help="print facts as JSON instead of a table")
    return p.parse_args()


def refuse(args: argparse.Namespace) -> None:
    """Ends with a sentence where there is nothing to measure."""
    unknown = [name for name in args.types.split(",") if name not in backend.TYPES]
    if unknown:
        raise SystemExit(
            f"No kernel for {', '.join(unknown)}: expected some of {','.join(backend.TYPES)}."
        )
    if not torch.cuda.is_available():
        raise SystemExit(
            f"This benchmark times GPU kernels and torch {torch.__version__} sees no CUDA device "
            "here: run it on a machine with an NVIDIA card and a CUDA build of torch."
        )
    dtype, device = getattr(torch, args.dtype), torch.device("cuda", torch.cuda.current_device())
    for name in args.types.split(","):
        why = backend.refusal(backend.random_weight(name, 1, 256), device, dtype)
        if why:
            raise SystemExit(f"{name} is not multiplied by Triton here: {why}.")


def main() -> None:
    args = options()
    refuse(args)
    shapes = [tuple(map(int, s.split("x"))) for s in args.shapes.split(",")]
    with torch.inference_mode():
        results = [
            one(name, shape, int(tokens), args)
            for name in args.types.split(",")
            for shape in shapes
            for tokens in args.tokens.split(",")
        ]
    import triton

    card = torch.cuda.get_device_name()
    facts = {
        "command": harness.command(),
        "card": card,
        "torch": torch.__version__,
        "triton": triton.__version__,
        "dtype": args.dtype,
    }
    if args.json:
        print(json.dumps({**facts, "results": results}, indent=1))
        return
    print("\n".join(common.aligned(cells(results))))
    print(f"{card}, torch {facts['torch']}, triton {facts['triton']}, {args.dtype}")
    print(f"$ {facts['command']}")


if __name__ == "__main__":
    main()
