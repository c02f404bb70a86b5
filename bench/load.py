"""Loading a full-width diffusion model: seconds and peak memory, ours and diffusers, in one run.

Writes once, into --folder, a transformer folder of a few full-width blocks (bf16, repeated random
data, modulation included as published), then loads it in fresh processes that take turns. Peak is
the high-water mark over what the process had before the load, imports done, until every page of
the weights was read once (diffusers maps a bf16 file, so its first seconds say little). `weights`
is what the loaded network holds: ours leaves the modulation weights in the file.

python bench/load.py --folder /tmp/inkstone-load
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import scripts.package  # noqa: F401  makes this tree importable as `inkstone`
from bench import common, harness
from inkstone.loaders.formats.safetensors import save_safetensors
from inkstone.loaders.models.load import load_diffusion_model
from inkstone.loaders.models.weight_file import LoadOptions

CONFIG = {
    "_class_name": "QwenImageTransformer2DModel",
    "attention_head_dim": 128,
    "axes_dims_rope": [16, 56, 56],
    "in_channels": 64,
    "joint_attention_dim": 3584,
    "num_attention_heads": 24,
    "out_channels": 16,
    "patch_size": 2,
}
WEIGHTS = "diffusion_pytorch_model.safetensors"


@dataclass
class Load:
    """One load: seconds until the call returns and until all weights were read once, peak and final
    bytes over the baseline, bytes of the network's weights."""

    side: str
    seconds: float
    touched: float
    peak: int
    held: int
    weights: int


def prepare(folder: Path, layers: int) -> Path:
    """The transformer folder, written if it is not there yet."""
    part = folder / f"transformer-{layers}-layers"
    if (part / WEIGHTS).exists():
        return part
    from diffusers import QwenImageTransformer2DModel

    with torch.device("meta"):
        state = QwenImageTransformer2DModel(num_layers=layers).state_dict()
    data = torch.randn(max(t.numel() for t in state.values())).mul_(0.02).bfloat16()
    part.mkdir(parents=True, exist_ok=True)
    (part / "config.json").write_text(json.dumps({**CONFIG, "num_layers": layers}))
    tensors = {name: data[: t.numel()].view(t.shape) for name, t in state.items()}
    save_safetensors(part / WEIGHTS, tensors, {"format": "pt"})
    return part


def ours(part: Path, dtype: torch.dtype) -> torch.nn.Module:
    """loaders.bundle.load_diffusion_model."""
    return load_diffusion_model(part, LoadOptions(dtype)).network


def diffusers(part: Path, dtype: torch.dtype) -> torch.nn.Module:
    """QwenImageTransformer2DModel.from_pretrained."""
    from diffusers import QwenImageTransformer2DModel

    return QwenImageTransformer2DModel.from_pretrained(part, torch_dtype=dtype)


SIDES: dict[str, Callable[[Path, torch.dtype], torch.nn.Module]] = {
    "ours": ours,
    "diffusers": diffusers,
}


def one(side: str, part: Path, args: argparse.Namespace) -> Load:
    """Loads in this process."""
    if side == "diffusers":
        import diffusers  # noqa: F401
        from diffusers import QwenImageTransformer2DModel  # noqa: F401  (imports are no load)
    torch.set_num_threads(args.threads)
    before, start = harness.resident(), time.perf_counter()
    network = SIDES[side](part, getattr(torch, args.dtype))
    seconds = time.perf_counter() - start
    for p in network.parameters():  # a mapped file is only read now
        p.view(-1)[:: 4096 // p.element_size()].sum().item()
    touched, peak = time.perf_counter() - start, harness.peak() - before
    weights = sum(p.numel() * p.element_size() for p in network.parameters())
    return Load(side, seconds, touched, peak, harness.resident() - before, weights)


def _child(side: str, part: Path, cold: bool) -> Load:
    if cold:
        with open(part / WEIGHTS, "rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    call = [sys.executable, str(Path(__file__).resolve()), *sys.argv[1:], "--one-side", side]
    done = subprocess.run(call, stdout=subprocess.PIPE, text=True, check=False)
    line = next((x for x in done.stdout.splitlines() if x.startswith(harness.RESULT)), None)
    if line is None:
        raise SystemExit(f"Side '{side}' ended with status {done.returncode}, see above.")
    return Load(**json.loads(line[len(harness.RESULT) :]))


def lines(loads: list[Load]) -> common.Cells:
    """Table cells: best seconds, worst peak."""
    out: common.Cells = [
        ("", "seconds", "and read", "peak MB", "held MB", "weights MB", "/ weights", "/ diffusers")
    ]
    peer = max((x.peak for x in loads if x.side == "diffusers"), default=None)
    for side in dict.fromkeys(x.side for x in loads):
        mine = [x for x in loads if x.side == side]
        seconds, peak, last = [x.seconds for x in mine], max(x.peak for x in mine), mine[-1]
        out.append(
            (
                side,
                f"{min(seconds):.2f}",
                f"{min(x.touched for x in mine):.2f}",
                f"{peak / 1e6:.0f}",
                f"{last.held / 1e6:.0f}",
                f"{last.weights / 1e6:.0f}",
                f"{peak / last.weights:.3f}",
                common.ratio(peak, peer),
            )
        )
    return out


def main() -> None:
    p = harness.parser(__doc__)
    p.set_defaults(dtype="bfloat16")
    p.add_argument("--folder", type=Path, required=True, help="where the model file is kept")
    p.add_argument("--layers", type=int, default=8)
    p.add_argument("--rounds", type=int, default=3, help="loads of every side, in turns")
    p.add_argument("--cold", action="store_true", help="drop the file from the page cache first")
    args = p.parse_args()
    part = prepare(args.folder, args.layers)
    if args.one_side:
        print(harness.RESULT + json.dumps(asdict(one(args.one_side, part, args))))
        return
    names = args.sides.split(",") if args.sides else list(SIDES)
    if any(name not in SIDES for name in names):
        raise SystemExit(f"--sides {args.sides}: expected some of {', '.join(SIDES)}.")
    loads = [_child(name, part, args.cold) for _ in range(args.rounds) for name in names]
    facts = common.facts(args)
    size, kind = (part / WEIGHTS).stat().st_size, "cold" if args.cold else "cached"
    file = f"bf16 file of {size / 1e6:.0f} MB, {kind}"
    title = f"load {args.layers} full-width blocks ({file}) to {args.dtype}"
    if args.json:
        print(json.dumps({"title": title, **facts, "loads": [asdict(x) for x in loads]}, indent=1))
    else:
        print(common.report(title, lines(loads), facts))


if __name__ == "__main__":
    main()
