"""Random LoRA files for the embedded model."""

import torch

from inkstone.loaders.arch.expected_tensors import mmdit_layout
from inkstone.loaders.arch.key_maps_lora import DISTILLED_MODULES

from .oracle import save_file


def write(path, layout, modules, rank=4, size=1.0, metadata=None):
    """A LoRA for these modules of a layout, bare names and an alpha each."""
    g = torch.Generator().manual_seed(11)
    tensors = {}
    for m in modules:
        n, k = layout[f"{m}.weight"]
        tensors[f"{m}.lora_down.weight"] = torch.randn(rank, k, generator=g) * k**-0.5
        tensors[f"{m}.lora_up.weight"] = torch.randn(n, rank, generator=g) * size * rank**-0.5
        tensors[f"{m}.alpha"] = torch.tensor(float(rank))
    save_file(tensors, path, metadata)
    return path


def embedded_lora(path, bundle, **more):
    layout = mmdit_layout(bundle.model.network.config)
    names = [n[:-7] for n in layout if n.endswith("attn.to_v.weight") or "img_mod" in n]
    return write(path, layout, [n for n in names if f"{n}.weight" in layout], size=1.0, **more)


def lightning_like(path, bundle, leave=(), rank=64):
    config = bundle.model.network.config
    names = [f"transformer_blocks.{i}.{m}" for i in range(config.layers) for m in DISTILLED_MODULES]
    names = sorted(set(names) - set(leave))
    return write(path, mmdit_layout(config), names, rank, size=0.05)
