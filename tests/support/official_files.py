"""Tiny files in the single-file layouts that the official templates name, with random weights.

The text encoder has the full vocabulary, because ComfyUI's own tokenizer is used; heads are as
published (128), everything else is small. Core's own ControlNets have one width, that of the
published model: with them everything is that wide, and one block deep.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from inkstone.kernels.configs import MMDiTConfig, TextConfig, VAEConfig, VisionConfig
from inkstone.loaders.arch import expected_tensors
from inkstone.loaders.arch.expected_tensors_vae import vae_layout
from inkstone.loaders.formats.safetensors import save_safetensors

PLACES = {
    "model": "diffusion_models",
    "unet_name": "diffusion_models",
    "text_encoder": "text_encoders",
    "clip_name": "text_encoders",
    "vae": "vae",
    "vae_name": "vae",
    "lora_name": "loras",
    "control_net_name": "controlnet",
    "name": "model_patches",
}
_BEHIND = re.compile(r"controlnet_blocks\.(?!0\.)\d+\.(x_rms|y_rms|input_proj|output_proj)")
LORA = ("attn.to_q", "attn.to_k", "img_mlp.net.2")


@dataclass(frozen=True)
class Sizes:
    """The files of all networks that work together."""

    mmdit: MMDiTConfig
    text: TextConfig
    vision: VisionConfig


TINY = Sizes(
    MMDiTConfig(layers=2, heads=2, head_dim=128, joint=256, ff=1024),
    TextConfig(layers=1, width=256, heads=2, kv_heads=1, head_dim=128, ff=256, vocab=152064),
    VisionConfig(depth=1, width=160, ff=64, out=256),
)
WIDE = Sizes(
    MMDiTConfig(layers=1),
    TextConfig(layers=1, width=3584, heads=2, kv_heads=1, head_dim=128, ff=256, vocab=152064),
    VisionConfig(depth=1, width=160, ff=64, out=3584),
)


def _random(shapes: expected_tensors.Layout, seed: int) -> dict[str, torch.Tensor]:
    g = torch.Generator().manual_seed(seed)
    tensors = {}
    for name, shape in shapes.items():
        x = torch.randn(shape, generator=g) * (shape[-1] ** -0.5 if len(shape) > 1 else 0.02)
        flat = "norm" in name or name.endswith("gamma") or "_rms" in name
        tensors[name] = (x + 1 if flat and "bias" not in name else x).bfloat16()
    return tensors


def model_files(graph: dict) -> Iterator[tuple[str, str]]:
    """(folder, file name) of every model that the loaders of an API graph name."""
    for node in graph.values():
        for key, value in node["inputs"].items():
            if key in PLACES and isinstance(value, str) and "Load" in node["class_type"]:
                yield PLACES[key], value


def write(path: Path, folder: str, sizes: Sizes = TINY) -> None:
    """A small file of a kind; layered ones, inpainting controls and 2.1 by their names."""
    from . import official_21  # here: bridge_parity.py imports this file without its package

    if official_21.NAMED.search(path.name):
        return official_21.write(path, folder)
    path.parent.mkdir(parents=True, exist_ok=True)
    layered = "layered" in path.name
    if folder == "diffusion_models":
        tensors = _random(expected_tensors.mmdit_layout(sizes.mmdit, layered), 1)
    elif folder == "text_encoders":
        text = expected_tensors.text_layout(sizes.text)
        tensors = {f"model.{n}": x for n, x in _random(text, 2).items()}
        tensors |= _random(expected_tensors.vision_layout(sizes.vision), 3)
    elif folder == "vae":
        tensors = _random(vae_layout(VAEConfig(base=8, channels=4 if layered else 3)), 4)
    elif folder == "loras":
        tensors = _lora(sizes.mmdit)
    else:
        shapes = _control(path.name, sizes.mmdit)
        tensors = {n: torch.zeros(s, dtype=torch.bfloat16) for n, s in shapes.items()}
        used = {n: s for n, s in shapes.items() if not _BEHIND.match(n)}  # behind the last block
        tensors |= _random(used, 5)
    save_safetensors(path, tensors, {"format": "pt"})


def _lora(config: MMDiTConfig) -> dict[str, torch.Tensor]:
    shapes, tensors = expected_tensors.mmdit_layout(config), {}
    for n in range(config.layers):
        for part in LORA:
            name = f"transformer_blocks.{n}.{part}"
            out, into = shapes[f"{name}.weight"]
            tensors[f"{name}.lora_A.weight"] = torch.randn(4, into).mul(into**-0.5).bfloat16()
            tensors[f"{name}.lora_B.weight"] = torch.randn(out, 4).mul(0.1).bfloat16()
    return tensors


def _control(name: str, config: MMDiTConfig) -> expected_tensors.Layout:
    """Blockwise, Fun (by its published names) or InstantX."""
    if "diffsynth" in name:
        return expected_tensors.blockwise_layout(config.width, 60)  # core's has that many
    if "Fun" not in name:
        return expected_tensors.controlnet_layout(config, 68 if "Inpaint" in name else 64)
    shapes = expected_tensors.fun_layout(replace(config, layers=5))
    return {fun_name(key): shape for key, shape in shapes.items()}


def fun_name(ours: str) -> str:
    """VideoX-Fun's name of a tensor of its control."""
    for pattern, theirs in (
        (r"controlnet_x_embedder\.", "control_img_in."),
        (r"before_proj\.", "control_blocks.0.before_proj."),
        (r"controlnet_blocks\.(\d+)\.", r"control_blocks.\1.after_proj."),
        (r"transformer_blocks\.", "control_blocks."),
    ):
        ours = re.sub(f"^{pattern}", theirs, ours)
    return ours


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
        if kind == "TextEncodeQwenImage21" and values["resolution"]:
            values["resolution"] = 64
        if kind == "ResolutionSelector":
            values |= {"megapixels": 0.1, "multiple": 64}
        if kind == "ImageScaleToTotalPixels":
            values["megapixels"] = 0.01
        if kind == "ImageScaleToMaxDimension":
            values["largest_size"] = 64
        if kind == "FluxKontextImageScale":  # to a megapixel, whatever comes in
            node["class_type"] = "ImageScale"
            values |= {"upscale_method": "area", "width": 96, "height": 64, "crop": "disabled"}
        if kind == "LoadImage":
            values["image"] = "example.png"
    return graph
