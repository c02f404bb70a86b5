"""One inner block of the full-width MMDiT: ours, diffusers and the products alone, in one run.

A block's time is (4 layers - 2 layers) / 2, so that both ends of the network cancel. All sides
stay loaded in processes of their own and take turns, so a drift of the machine meets all of them.
The floor is the block's linear layers and the two products of attention, each by the faster of
torch's and oneDNN's library, nothing between them. Modulation is a table in ours, computed once
per schedule: its cost per step and block has a row of its own; diffusers computes it in the block.

With --references the block is one of an edit: as many pictures of the target's size behind it, with
a time of their own (zero_cond_t, Edit-2511), on both sides.

python bench/mmdit.py --threads 2
python bench/mmdit.py --threads 2 --tokens 1024 --references 3
"""

from __future__ import annotations

import argparse
import functools
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import scripts.package  # noqa: F401  makes this tree importable as `inkstone`
from bench import common, harness
from inkstone.kernels.compute_type import best_dtype
from inkstone.kernels.configs import MMDiTConfig
from inkstone.kernels.forward import Inputs
from inkstone.kernels.linear import cpu_backend, onednn_linear
from inkstone.kernels.mmdit import MMDiT
from inkstone.kernels.modulation import Modulation, modulation
from inkstone.kernels.references import NO_REFERENCES, ReferenceContext, References

CONFIG = MMDiTConfig(layers=4)
STEPS = 8  # sigmas of the modulation row
QUERIES = 512  # queries of one attention product of the floor
Runner = Callable[[int], tuple[float, ...]]  # tokens -> seconds, of 2 and 4 layers or of one block


@dataclass
class Row:
    """One side at one size: seconds of a block (best, every round), peak bytes of a forward."""

    side: str
    tokens: int
    seconds: float
    rounds: list[float]
    peak: int | None = None


def _seconds(work: Callable[..., object], *args: object) -> float:
    start = time.perf_counter()
    work(*args)
    return time.perf_counter() - start


def _inputs(tokens: int, text: int, dtype: torch.dtype) -> tuple[Tensor, Tensor, tuple]:
    """Packed latents, text states, the grid (square where it can be)."""
    rows = max(r for r in range(1, int(tokens**0.5) + 1) if tokens % r == 0)
    img, txt = torch.randn(1, tokens, CONFIG.channels), torch.randn(1, text, CONFIG.joint)
    return img.to(dtype), txt.to(dtype), (1, rows, tokens // rows)


def _two_depths(module: nn.Module) -> dict[int, nn.ModuleList]:
    """The blocks of the 2-layer and the 4-layer network, on the same weights."""
    blocks = list(module.transformer_blocks)
    return {2: nn.ModuleList([blocks[0], blocks[-1]]), 4: nn.ModuleList(blocks)}


def _references(img: Tensor, count: int) -> ReferenceContext:
    """`count` clean images of the target's size."""
    if not count:
        return NO_REFERENCES
    return ReferenceContext(References(img.repeat(1, count, 1), fixed=True))


def ours(args: argparse.Namespace, dtype: torch.dtype) -> Runner:
    """Our forward with ready modulation rows."""
    with torch.device("meta"):
        network = MMDiT(CONFIG)
    depths, d = _two_depths(common.random_weights(network, dtype)), CONFIG.width
    rows = [(torch.randn(1, 6, d) * 0.1).to(dtype) for _ in range(4)]
    table = Modulation(rows, [*rows[:3], rows[3][:, :2]], rows[0][:, :2], rows)

    def run(tokens: int) -> tuple[float, ...]:
        img, txt, grid = _inputs(tokens, args.text, dtype)
        seconds = []
        for layers, blocks in depths.items():
            network.transformer_blocks = blocks
            mod = Modulation(table.img[-layers:], table.txt[-layers:], table.out, table.ref)
            grids = [grid] * (1 + args.references)
            references = _references(img, args.references)
            inputs = Inputs(img, txt, mod, grids, references=references)
            work = functools.partial(network, inputs)
            if args.references:
                work()  # what a run computes once is not the time of a step
            seconds.append(_seconds(work))
        return tuple(seconds)

    return run


def diffusers(args: argparse.Namespace, dtype: torch.dtype) -> Runner:
    """QwenImageTransformer2DModel as its pipeline calls it."""
    from diffusers import QwenImageTransformer2DModel

    with torch.device("meta"):
        options = {"zero_cond_t": True} if args.references else {}
        network = QwenImageTransformer2DModel(num_layers=CONFIG.layers, **options)
    rope = QwenImageTransformer2DModel(num_layers=0).pos_embed  # its tables are no parameters
    network = common.random_weights(network, dtype)
    network.pos_embed = rope
    depths, sigma = _two_depths(network), torch.tensor([0.5]).to(dtype)

    def run(tokens: int) -> tuple[float, ...]:
        img, txt, grid = _inputs(tokens, args.text, dtype)
        pictures = 1 + args.references
        img = img.repeat(1, pictures, 1)
        call = dict(encoder_hidden_states=txt, timestep=sigma, img_shapes=[[grid] * pictures])
        seconds = []
        for blocks in depths.values():
            network.transformer_blocks = blocks
            seconds.append(_seconds(lambda: network(img, return_dict=False, **call)))
        return tuple(seconds)

    return run


def floor(args: argparse.Namespace, dtype: torch.dtype) -> Runner:
    """The products of one block alone."""
    d, ff = CONFIG.width, CONFIG.ff
    shapes = [(d, d)] * 4 + [(ff, d), (d, ff)]
    weights = [torch.randn(shape).to(dtype) for shape in shapes]

    def best(x: Tensor, w: Tensor, bias: Tensor | None = None) -> float:
        ways = [lambda: F.linear(x, w, bias)]
        if cpu_backend(x.dtype)[0] == "onednn":
            ways.append(lambda: onednn_linear(x, w, bias))
        return min(_seconds(way) for way in ways)

    def run(tokens: int) -> tuple[float, ...]:
        total = 0.0
        tokens *= 1 + args.references
        for rows in (tokens, args.text):
            for w in weights:
                x, bias = (torch.randn(n).to(dtype) for n in ((rows, w.shape[1]), w.shape[0]))
                total += best(x, w, bias)
        return (total + CONFIG.heads * attention(tokens + args.text),)

    def attention(length: int) -> float:
        """Seconds of q k^T and p v of one head, the mean of two heads."""
        total = 0.0
        for _ in range(2):
            q, k = (torch.randn(length, CONFIG.head_dim).to(dtype) for _ in "qk")
            p, v = torch.randn(QUERIES, length).to(dtype), k.t().contiguous()  # v transposed
            for piece in q.split(QUERIES):
                total += best(piece, k) + best(p[: len(piece)], v)
        return total / 2

    return run


def table(args: argparse.Namespace, dtype: torch.dtype) -> Runner:
    """The modulation table: seconds per step and block, weights in memory."""
    d = CONFIG.width
    big, small = torch.randn(6 * d, d).to(dtype), torch.randn(6 * d).to(dtype)
    time_weights = {"1": torch.randn(d, 256).to(dtype), "2": torch.randn(d, d).to(dtype)}
    sigma = torch.linspace(1, 0.1, STEPS)

    def weights(name: str) -> Tensor:
        if "norm_out" in name:
            return (small if "bias" in name else big)[: 2 * d]
        if "time_text" in name:
            return small[:d] if "bias" in name else time_weights[name.split("linear_")[1][0]]
        return small if "bias" in name else big

    def run(tokens: int) -> tuple[float, ...]:
        seconds = [
            min(_seconds(modulation, weights, sigma, n, dtype) for _ in range(3)) for n in (2, 4)
        ]
        return ((seconds[1] - seconds[0]) / 2 / STEPS,)

    return run


SIDES: dict[str, Callable[[argparse.Namespace, torch.dtype], Runner]] = {
    "ours": ours,
    "ours-table": table,
    "diffusers": diffusers,
    "floor": floor,
}


def _names(dtype: str) -> list[str]:
    """All sides: in float32 and, with the type's name behind, in the type of the best path."""
    return [*SIDES, *(f"{side}-{dtype}" for side in SIDES)] if dtype != "float32" else [*SIDES]


def serve(name: str, args: argparse.Namespace) -> None:
    """A child: one line of standard input is a number of tokens, one line back has the seconds."""
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    kind = args.dtype if name.endswith("-" + args.dtype) else "float32"
    with torch.inference_mode():
        run = SIDES[name.removesuffix("-" + args.dtype)](args, getattr(torch, kind))
        run(64)
        print(harness.RESULT, flush=True)
        for line in sys.stdin:
            before = harness.resident()
            seconds = run(int(line))
            print(harness.RESULT + json.dumps([seconds, harness.peak() - before]), flush=True)


class Child:
    """One side in a process of its own, loaded until closed."""

    def __init__(self, name: str, dtype: str) -> None:
        call = [sys.executable, str(Path(__file__).resolve()), *sys.argv[1:]]
        call += ["--dtype", dtype, "--one-side", name]
        pipe = subprocess.PIPE
        self.name, self._process = name, subprocess.Popen(call, stdin=pipe, stdout=pipe, text=True)
        assert (
            self._process.stdin is not None and self._process.stdout is not None
        )  # both are pipes
        self._questions, self._answers = self._process.stdin, self._process.stdout
        self._answer()

    def ask(self, tokens: int) -> tuple[tuple[float, ...], int]:
        """Seconds and peak bytes of one round."""
        self._questions.write(f"{tokens}\n")
        self._questions.flush()
        seconds, peak = json.loads(self._answer())
        return tuple(seconds), peak

    def close(self) -> None:
        self._questions.close()
        self._process.wait()

    def _answer(self) -> str:
        for line in self._answers:
            if line.startswith(harness.RESULT):
                return line[len(harness.RESULT) :]
        raise SystemExit(f"Side '{self.name}' ended with status {self._process.wait()}, see above.")


def _block(times: list[tuple[float, ...]]) -> tuple[float, list[float]]:
    """Rounds of (2 layers, 4 layers) or (one block,) -> best seconds of a block, all rounds."""
    if len(times[0]) == 1:
        return min(t[0] for t in times), [t[0] for t in times]
    two, four = (min(t[i] for t in times) for i in (0, 1))
    return (four - two) / 2, [(t[1] - t[0]) / 2 for t in times]


def measure(names: list[str], args: argparse.Namespace) -> list[Row]:
    """All sides loaded, then rounds in which each has its turn."""
    children = [Child(name, args.dtype) for name in names]
    rows = []
    for tokens in args.tokens:
        rounds = args.rounds * (2 if tokens <= 1024 else 1)
        answers = [[child.ask(tokens) for child in children] for _ in range(rounds)]
        for i, child in enumerate(children):
            best, all_rounds = _block([a[i][0] for a in answers])
            peak = max(a[i][1] for a in answers) if len(answers[0][i][0]) > 1 else None
            rows.append(Row(child.name, tokens, best, all_rounds, peak))
    for child in children:
        child.close()
    return rows


def lines(rows: list[Row], dtype: str) -> common.Cells:
    """Table cells: ratios to diffusers in float32 and to the floor of the same type."""
    by = {(r.side, r.tokens): r for r in rows}
    out: common.Cells = [
        ("", "tokens", "s/block", "median", "/ diffusers", "/ floor", "peak MB", "/ diffusers")
    ]
    for r in rows:
        tail = "-" + dtype if r.side.endswith("-" + dtype) and dtype != "float32" else ""
        peer, low = by.get(("diffusers", r.tokens)), by.get(("floor" + tail, r.tokens))
        out.append(
            (
                r.side,
                str(r.tokens),
                f"{r.seconds:.4f}",
                f"{statistics.median(r.rounds):.4f}",
                common.ratio(r.seconds, peer.seconds if peer else None),
                common.ratio(r.seconds, low.seconds if low else None),
                f"{r.peak / 1e6:.0f}" if r.peak else "-",
                common.ratio(r.peak, peer.peak if peer else None),
            )
        )
    return out


def main() -> None:
    p = harness.parser(__doc__)
    p.set_defaults(dtype=None)
    p.add_argument("--tokens", type=lambda s: [int(n) for n in s.split(",")], default=[1024, 4096])
    p.add_argument("--text", type=int, default=32, help="text tokens")
    p.add_argument(
        "--references", type=int, default=0, help="reference images of the target's size"
    )
    p.add_argument("--rounds", type=int, default=3, help="turns; twice as many up to 1024 tokens")
    args = p.parse_args()
    if args.one_side:
        return serve(args.one_side, args)
    best, reason = best_dtype("cpu")
    args.dtype = args.dtype or str(best).removeprefix("torch.")
    names = args.sides.split(",") if args.sides else _names(args.dtype)
    unknown = [n for n in names if n not in _names(args.dtype)]
    if unknown:
        raise SystemExit(f"No side {unknown[0]}: expected some of {', '.join(_names(args.dtype))}.")
    rows = measure(names, args)
    facts = common.facts(args)
    title = f"one inner MMDiT block, {CONFIG.heads} x {CONFIG.head_dim}, {args.text} text tokens"
    title += f", {args.references} references of the target's size" if args.references else ""
    if args.json:
        print(json.dumps({"title": title, **facts, "rows": [asdict(r) for r in rows]}, indent=1))
    else:
        print(common.report(title, lines(rows, args.dtype), facts))
        print(f"best path of this processor: {str(best).removeprefix('torch.')} ({reason})")


if __name__ == "__main__":
    main()
