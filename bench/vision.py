"""The vision tower of Qwen2.5-VL on a picture of one megapixel: ours, transformers, products alone.

Full width, random weights. Eight of its 32 blocks (seven windowed, one that sees the whole picture:
the published ratio), so that a turn takes seconds and not a minute; --depth 32 runs all.

python bench/vision.py --threads 2
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import scripts.package  # noqa: F401  makes this tree importable as `inkstone`
from bench import common, harness
from inkstone.kernels.configs import VisionConfig


def _config(args: argparse.Namespace) -> VisionConfig:
    full = tuple(range(7, args.depth, 8))
    return VisionConfig(depth=args.depth, full=full)


def _grid(args: argparse.Namespace) -> tuple[int, int]:
    """Patches (rows, columns) of a square picture."""
    side = round(args.side / 28) * 2
    return side, side


def _ours(args: argparse.Namespace, device: str = "cpu") -> harness.Work:
    import torch

    from inkstone.kernels.vision import VisionTower

    config, (rows, columns) = _config(args), _grid(args)
    with torch.device("meta"):
        tower = VisionTower(config)
    dtype = getattr(torch, args.dtype)
    if device == "cpu":
        tower = common.random_weights(tower, dtype)
    width = config.channels * config.patch**2
    patches = torch.randn(rows * columns, width, device=device).to(dtype)
    return lambda: tower(patches, (rows, columns))


def _transformers(args: argparse.Namespace) -> harness.Work:
    import torch
    from transformers.models.qwen2_5_vl import modeling_qwen2_5_vl as modeling
    from transformers.models.qwen2_5_vl.configuration_qwen2_5_vl import Qwen2_5_VLVisionConfig

    ours, (rows, columns) = _config(args), _grid(args)
    config = Qwen2_5_VLVisionConfig(
        depth=ours.depth,
        hidden_size=ours.width,
        num_heads=ours.heads,
        intermediate_size=ours.ff,
        out_hidden_size=ours.out,
        fullatt_block_indexes=list(ours.full),
    )
    config._attn_implementation = "sdpa"
    tower = modeling.Qwen2_5_VisionTransformerPretrainedModel(config)
    tower = tower.to(getattr(torch, args.dtype)).requires_grad_(False).eval()
    patches = torch.randn(rows * columns, ours.frames * ours.channels * ours.patch**2)
    patches, grid = patches.to(getattr(torch, args.dtype)), torch.tensor([[1, rows, columns]])
    return lambda: tower(patches, grid_thw=grid)


def _floor(args: argparse.Namespace) -> harness.Work:
    return harness.products(_ours(args, "meta"))


def main() -> None:
    p = harness.parser(__doc__)
    p.add_argument("--side", type=int, default=1024, help="of the picture in pixels")
    p.add_argument("--depth", type=int, default=8, help="blocks")
    args = p.parse_args()
    sides = {"ours": _ours, "transformers": _transformers, "floor": _floor}
    title = f"vision tower, {args.depth} blocks of 32, {args.side}x{args.side}, {args.dtype}"
    harness.main(harness.Bench(title, sides, "transformers", "floor"), args)


if __name__ == "__main__":
    main()
