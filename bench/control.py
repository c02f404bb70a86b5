"""The cost of an InstantX control in a step with CFG on: ours, diffusers, the products alone.

Full width, random weights, two of the five blocks of Union (--layers 5 runs all). The work of a
step is the branch once, with the positive prompt (both sides do that), and its samples on the
stream behind every one of the 60 blocks, in both halves of CFG. Modulation is a table in ours: for
the 20 steps of a run it costs once what its row says; diffusers computes it in every step.

python bench/control.py --threads 2
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import scripts.package  # noqa: F401  makes this tree importable as `inkstone`
from bench import common, harness
from inkstone.kernels.configs import MMDiTConfig

if TYPE_CHECKING:
    import torch

BLOCKS, HALVES, STEPS, CONDITION = 60, 2, 20, 64


def _config(args: argparse.Namespace) -> MMDiTConfig:
    return MMDiTConfig(layers=args.layers)


def _grid(args: argparse.Namespace) -> tuple[int, int, int]:
    return 1, args.side // 16, args.side // 16


def _inputs(args: argparse.Namespace, device: str) -> list[torch.Tensor]:
    """Noisy latents, the control's picture, text states."""
    import torch

    tokens, config = _grid(args)[1] * _grid(args)[2], _config(args)
    dtype = getattr(torch, args.dtype)
    shapes = (1, tokens, config.channels), (1, tokens, CONDITION), (1, args.text, config.joint)
    return [torch.randn(shape, device=device).to(dtype) for shape in shapes]


def _ours(args: argparse.Namespace, device: str = "cpu") -> harness.Work:
    import torch

    from inkstone.kernels.control_instantx import ControlBranch, ControlInputs, Spread
    from inkstone.kernels.modulation import Modulation

    config, dtype = _config(args), getattr(torch, args.dtype)
    with torch.device("meta"):
        branch = ControlBranch(config, CONDITION)
    if device == "cpu":
        branch = common.random_weights(branch, dtype)
    rows = [torch.randn(1, 6, config.width, device=device).mul(0.1).to(dtype) for _ in range(8)]
    last = config.layers - 1
    txt = [*rows[:last], rows[last][:, :2]]
    table = Modulation(rows[: config.layers], txt, rows[0][:, :0])
    img, condition, text = _inputs(args, device)
    stream = torch.zeros(1, img.shape[1], config.width, device=device)

    def step() -> None:
        with torch.inference_mode():
            inputs = ControlInputs(img, condition, text, table, _grid(args))
            add = Spread(branch(inputs), 0.9)
            for index in range(BLOCKS * HALVES):
                add(index % BLOCKS, BLOCKS, stream)

    return step


def _table(args: argparse.Namespace) -> harness.Work:
    """Our table for a run of STEPS."""
    import torch

    from inkstone.kernels.modulation import modulation, modulation_keys
    from inkstone.loaders.arch.expected_tensors import controlnet_layout

    config, dtype = _config(args), getattr(torch, args.dtype)
    shapes = controlnet_layout(config, CONDITION)
    keys = modulation_keys(config.layers, final=False)
    weights = {k: torch.randn(shapes[k]).mul_(0.02).to(dtype) for k in keys}
    sigmas = torch.linspace(1, 0.05, STEPS)

    def table() -> None:
        with torch.inference_mode():
            modulation(weights.__getitem__, sigmas, config.layers, dtype, final=False)

    return table


def _diffusers(args: argparse.Namespace) -> harness.Work:
    import torch
    from diffusers import QwenImageControlNetModel

    config, dtype = _config(args), getattr(torch, args.dtype)
    with torch.device("meta"):
        net = QwenImageControlNetModel(
            num_layers=config.layers,
            attention_head_dim=config.head_dim,
            num_attention_heads=config.heads,
            joint_attention_dim=config.joint,
            axes_dims_rope=config.axes,
        )
    rope = type(net.pos_embed)(theta=10000, axes_dim=list(config.axes), scale_rope=True)
    net = common.random_weights(net, dtype)
    net.pos_embed = rope
    img, condition, text = _inputs(args, "cpu")
    stream = torch.zeros(1, img.shape[1], config.width).to(dtype)
    per = -(-BLOCKS // config.layers)

    def step() -> None:
        x = stream
        with torch.inference_mode():
            samples = net(
                img,
                condition,
                0.9,
                text,
                None,
                torch.tensor([0.7]).to(dtype),
                [[_grid(args)]],
                return_dict=False,
            )
            for index in range(BLOCKS * HALVES):
                x = x + samples[index % BLOCKS // per]

    return step


def main() -> None:
    p = harness.parser(__doc__)
    p.add_argument("--side", type=int, default=512, help="of the canvas in pixels")
    p.add_argument("--layers", type=int, default=2, help="blocks of the branch")
    p.add_argument("--text", type=int, default=32, help="text tokens")
    args = p.parse_args()
    floor = lambda a: harness.products(_ours(a, "meta"))  # noqa: E731
    sides = {
        "ours": _ours,
        f"ours-table-of-{STEPS}": _table,
        "diffusers": _diffusers,
        "floor": floor,
    }
    title = f"InstantX control, {args.layers} blocks, {args.side}x{args.side}, {args.dtype}"
    harness.main(harness.Bench(title, sides, "diffusers", "floor"), args)


if __name__ == "__main__":
    main()
