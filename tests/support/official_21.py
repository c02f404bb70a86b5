"""Tiny files of Qwen-Image-2.1 in the single-file layouts that its official templates name."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import torch

from inkstone.kernels.configs import DeepVisionConfig, ResidualVAEConfig, TextConfig
from inkstone.loaders.arch.expected_tensors import Layout, text_layout
from inkstone.loaders.arch.expected_tensors_vae import vae_layout
from inkstone.loaders.arch.key_maps_vae import residual_vae_table
from inkstone.loaders.formats.safetensors import save_safetensors

from .single_stream_files import CONFIG, fused, weights

NAMED = re.compile(r"qwen_image_2\.1|qwen3vl_8b")
TEXT = TextConfig(
    layers=3,
    width=CONFIG.joint,
    heads=2,
    kv_heads=1,
    head_dim=128,
    ff=256,
    vocab=151936,
    theta=5e6,
    bias=False,
    qk_norm=True,
)
VISION = DeepVisionConfig(27, 144, 2, 64, out=CONFIG.joint, places=64)
VAE = ResidualVAEConfig(base=8, decoder_base=12, z=64)
_WHOLE = ("resample.1", "to_qkv", "proj")  # kernels without a temporal tap in Wan's names


def write(path: Path, folder: str, vocab: int = TEXT.vocab) -> None:
    """A small file of a kind."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if folder == "diffusion_models":
        tensors = fused(weights())
    elif folder == "text_encoders":
        ours = _random(text_layout(replace(TEXT, vocab=vocab), VISION), 2)
        tensors = {n if n.startswith("visual.") else f"model.{n}": x for n, x in ours.items()}
    else:
        assert folder == "vae", folder
        names = {ours: wan for wan, ours in residual_vae_table().items()}
        tensors = {names[n]: _tapped(names[n], x) for n, x in _random(vae_layout(VAE), 4).items()}
    save_safetensors(path, {n: x.bfloat16().contiguous() for n, x in tensors.items()}, None)


def _random(shapes: Layout, seed: int) -> dict[str, torch.Tensor]:
    g, tensors = torch.Generator().manual_seed(seed), {}
    for name, shape in shapes.items():
        x = torch.randn(shape, generator=g)
        flat = sum(side > 1 for side in shape) < 2
        scale = name.endswith(("norm.weight", "gamma")) or (flat and "norm" in name)
        bias = name.endswith("bias")
        near = 1.0 if scale and not bias else 0.0
        tensors[name] = x * (0.1 if flat else x[0].numel() ** -0.5) + near
    return tensors


def _tapped(name: str, x: torch.Tensor) -> torch.Tensor:
    """A kernel [o,i,h,w] with one temporal tap, as the published file has most of them."""
    return x[:, :, None] if x.dim() == 4 and not any(part in name for part in _WHOLE) else x


def toy_tokenizer(folder: Path) -> int:
    """A tokenizer of bytes beside text encoders, for runs without a ComfyUI; its entries."""
    from . import tiny

    words = tiny.tokenizer()
    words.save_pretrained(folder / "tokenizer")
    assert json.loads((folder / "tokenizer" / "tokenizer_config.json").read_text())
    return len(words)
