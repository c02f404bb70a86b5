"""Tiny files in the single-file layouts that the official templates name, with random weights.

The text encoder has the full vocabulary, because ComfyUI's own tokenizer is used; heads are as
published (128), everything else is small.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import torch

from inkstone.kernels.mmdit import MMDiTConfig
from inkstone.kernels.text_encoder import TextConfig
from inkstone.kernels.vae import VAEConfig
from inkstone.loaders import layout
from inkstone.loaders.safetensors_file import save_safetensors

WIDTH = 256
MMDIT = MMDiTConfig(layers=2, heads=2, head_dim=128, joint=WIDTH, ff=512)
TEXT = TextConfig(layers=1, width=WIDTH, heads=2, kv_heads=1, head_dim=128, ff=256, vocab=152064)
VISION = layout.VisionNumbers(depth=1, width=160, ff=64, out=WIDTH)
LORA = ("attn.to_q", "attn.to_k", "img_mlp.net.2")


def _random(shapes: layout.Layout, seed: int) -> dict[str, torch.Tensor]:
    g = torch.Generator().manual_seed(seed)
    made = {}
    for name, shape in shapes.items():
        x = torch.randn(shape, generator=g) * (shape[-1] ** -0.5 if len(shape) > 1 else 0.02)
        flat = "norm" in name or name.endswith("gamma")
        made[name] = (x + 1 if flat and "bias" not in name else x).bfloat16()
    return made


def wanted(graph: dict) -> Iterator[tuple[str, str]]:
    """(folder, file name) of every model that the loaders of an API graph name."""
    places = {"model": "diffusion_models", "text_encoder": "text_encoders", "vae": "vae",
              "lora_name": "loras", "unet_name": "diffusion_models", "clip_name": "text_encoders",
              "vae_name": "vae"}  # fmt: skip
    for node in graph.values():
        for key, value in node["inputs"].items():
            if key in places and isinstance(value, str) and "Load" in node["class_type"]:
                yield places[key], value


def write(path: Path, folder: str) -> None:
    """A tiny file of a kind."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if folder == "diffusion_models":
        tensors = _random(layout.mmdit_layout(MMDIT), 1)
    elif folder == "text_encoders":
        tensors = {f"model.{n}": x for n, x in _random(layout.text_layout(TEXT), 2).items()}
        vision = _random(layout.vision_layout(VISION), 3)
        tensors |= {n: x for n, x in vision.items()}
    elif folder == "vae":
        tensors = _random(layout.vae_layout(VAEConfig(base=8)), 4)
    else:
        shapes = layout.mmdit_layout(MMDIT)
        tensors = {}
        for n in range(MMDIT.layers):
            for part in LORA:
                name = f"transformer_blocks.{n}.{part}"
                out, into = shapes[f"{name}.weight"]
                tensors[f"{name}.lora_A.weight"] = torch.randn(4, into).mul(into**-0.5).bfloat16()
                tensors[f"{name}.lora_B.weight"] = torch.randn(out, 4).mul(0.1).bfloat16()
    save_safetensors(path, tensors, {"format": "pt"})


def smaller(graph: dict) -> dict:
    """Small canvases and two steps: the template's own sizes take minutes on a CPU."""
    graph = json.loads(json.dumps(graph))
    for node in graph.values():
        values, kind = node["inputs"], node["class_type"]
        if kind == "KSampler":
            values["steps"] = 2 if not isinstance(values["steps"], list) else values["steps"]
        for key in ("width", "height"):
            if isinstance(values.get(key), int) and values[key] > 128:
                values[key] = 64
        if kind == "PrimitiveInt" and isinstance(values.get("value"), int):
            values["value"] = min(values["value"], 2 if values["value"] <= 60 else 64)
        if kind == "ImageScaleToTotalPixels":
            values["megapixels"] = 0.01
        if kind == "LoadImage":
            values["image"] = "example.png"
    return graph
