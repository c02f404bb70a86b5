"""Headers of weight files without the files: sizes of published models, facts of a header."""

from __future__ import annotations

from dataclasses import replace

import torch

from inkstone.kernels.configs import MMDiTConfig, TextConfig, VAEConfig, VisionConfig
from inkstone.loaders.arch.expected_tensors import Layout, text_layout
from inkstone.loaders.arch.file_facts import FileFacts
from inkstone.loaders.arch.header_view import HeaderView
from inkstone.loaders.arch.identify import describe
from inkstone.loaders.arch.key_maps_vae import wan_vae_table
from inkstone.loaders.formats.hf_folder import known_config
from inkstone.loaders.formats.safetensors_header import TensorEntry

# sizes of the published models, not of our defaults
MMDIT_SIZES = dict(layers=60, heads=24, head_dim=128, channels=64, joint=3584, ff=12288)
TEXT_SIZES = dict(layers=28, width=3584, heads=28, kv_heads=4, head_dim=128, ff=18944, vocab=152064)
MMDIT, TEXT = MMDiTConfig(**MMDIT_SIZES), TextConfig(**TEXT_SIZES)
VAE = VAEConfig(base=96, mult=(1, 2, 4, 4), res_blocks=2, z=16, channels=3)
TINY = MMDiTConfig(layers=2, heads=2, head_dim=128, channels=64, joint=32, ff=64)
SMALL_VAE = VAEConfig(base=8, mult=(1, 2), res_blocks=1, z=16, channels=3)
VISION = VisionConfig()


def header(shapes: Layout, dtype: torch.dtype = torch.bfloat16) -> dict[str, TensorEntry]:
    return {name: TensorEntry(dtype, shape, 0, 0) for name, shape in shapes.items()}


def renamed(shapes: Layout, start: str = "", table: dict | None = None) -> Layout:
    return {start + (table or {}).get(name, name): shape for name, shape in shapes.items()}


def facts(
    shapes: Layout,
    dtype: torch.dtype = torch.bfloat16,
    metadata: dict | None = None,
    config: dict | None = None,
    want: str | None = None,
) -> FileFacts:
    view = HeaderView(header(shapes, dtype), metadata or {}, known_config(config or {}))
    return describe(view, want)


TO_WAN = {ours: wan for wan, ours in wan_vae_table().items()}


def named(*names: str, shape: tuple[int, ...] = (8, 8)) -> Layout:
    return dict.fromkeys(names, shape)


def text_encoder(**numbers: int) -> Layout:
    return text_layout(replace(TEXT, **numbers))


D, C, T, V, L = "diffusion_model", "controlnet", "text_encoder", "vae", "lora"
