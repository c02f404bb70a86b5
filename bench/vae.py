"""The VAE at full size on random weights: ours whole, ours in strips, diffusers, in one run.

python bench/vae.py --size 1024 --dtype float32
python bench/vae.py --size 1024 --family 2.1
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import scripts.package  # noqa: F401  makes this tree importable as `inkstone`
from bench import harness
from inkstone.kernels.configs import ResidualVAEConfig, VAEConfig
from inkstone.kernels.vae import VAE
from inkstone.kernels.vae_memory import plan_rows
from inkstone.kernels.vae_strips import decode_rows, moments_rows
from inkstone.loaders.models.vae import build_vae


def _size(text: str) -> tuple[int, int]:
    """ "1024" or "1664x928" -> (width, height)."""
    width, _, height = text.partition("x")
    return int(width), int(height or width)


def _input(args: argparse.Namespace, config: VAEConfig) -> torch.Tensor:
    width, height = args.size
    dtype = getattr(torch, args.dtype)
    if args.encode:
        return torch.rand(1, config.channels, height, width).mul(2).sub(1).to(dtype)
    return torch.randn(1, config.z, height // config.scale, width // config.scale).to(dtype)


def _config(args: argparse.Namespace) -> VAEConfig:
    if args.family == "2.1":
        return ResidualVAEConfig(base=args.base, decoder_base=args.base * 3 // 2)
    return VAEConfig(base=args.base)


def _ours(args: argparse.Namespace, device: str = "cpu") -> VAE:
    with torch.device(device):
        vae = build_vae(_config(args)).to(getattr(torch, args.dtype)).eval()
    return vae.to(memory_format=torch.channels_last)


def whole(args: argparse.Namespace) -> harness.Work:
    """Ours, whole."""
    vae = _ours(args)
    x = _input(args, vae.config)
    return (lambda: vae.moments(x)) if args.encode else (lambda: vae.decode(x))


def rows(args: argparse.Namespace, device: str = "cpu") -> harness.Work:
    """Ours, in strips of the planned or the given number of rows."""
    vae = _ours(args, device)
    x, (width, height) = _input(args, vae.config).to(device), args.size
    planned, _, _ = plan_rows(vae.config, height, width, x.dtype, None, encode=args.encode)
    n = args.rows or planned or height
    return (lambda: moments_rows(vae, x, n)) if args.encode else (lambda: decode_rows(vae, x, n))


def floor(args: argparse.Namespace) -> harness.Work:
    """The convolutions and attention of the strips, nothing else."""
    return harness.products(rows(args, "meta"))


def diffusers(args: argparse.Namespace) -> harness.Work:
    """AutoencoderKLQwenImage or its successor as their pipelines use them, one frame."""
    from diffusers import AutoencoderKLQwenImage, AutoencoderKLQwenImage21

    config = _config(args)
    if isinstance(config, ResidualVAEConfig):
        vae = AutoencoderKLQwenImage21(config.base, config.decoder_base)
    else:
        vae = AutoencoderKLQwenImage(base_dim=config.base)
    vae = vae.to(getattr(torch, args.dtype)).eval()
    x = _input(args, config)[:, :, None]
    return (lambda: vae.encode(x)) if args.encode else (lambda: vae.decode(x))


def main() -> None:
    p = harness.parser(__doc__)
    p.add_argument("--size", type=_size, default=(1024, 1024), help="pixels: SIDE or WIDTHxHEIGHT")
    p.add_argument("--encode", action="store_true", help="pixels to latents instead of back")
    p.add_argument("--rows", type=int, help="rows of a strip; default: as planned")
    p.add_argument("--family", choices=("1", "2.1"), default="1", help="Qwen-Image or 2.1")
    p.add_argument("--base", type=int, default=96, help="width of the network")
    args = p.parse_args()
    what = (
        f"VAE {'of 2.1 ' * (args.family == '2.1')}{'encode' if args.encode else 'decode'} "
        f"{args.size[0]}x{args.size[1]}, {args.dtype}"
    )
    sides = {"ours, strips": rows, "ours, whole": whole, "diffusers": diffusers, "floor": floor}
    sides = {name.replace(", ", "-"): side for name, side in sides.items()}
    harness.main(harness.Bench(what, sides, "diffusers", "floor"), args)


if __name__ == "__main__":
    main()
