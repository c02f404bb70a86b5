"""Tiny Qwen-Image-2.1 files with heads as published, in both spellings and every storage format."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from inkstone.kernels.configs import SingleStreamConfig
from inkstone.loaders.arch.expected_tensors import single_stream_layout
from inkstone.loaders.formats.safetensors import save_safetensors
from inkstone.quant.gguf_quantizer import quantize_rows
from inkstone.quant.gguf_types import BY_NAME

from .dfloat11_encoder import encode

CONFIG = SingleStreamConfig(layers=2, heads=2, head_dim=128, channels=64, joint=256, ff=512)
LINEAR = ("attn.to_q", "attn.to_k", "attn.to_v", "attn.to_out.0", "img_mlp.out")
Weights = dict[str, Tensor]


def weights(seed: int = 0, config: SingleStreamConfig = CONFIG) -> Weights:
    """Every tensor of the split spelling, bf16 numbers in float32."""
    g = torch.Generator().manual_seed(seed)
    state = {}
    for name, shape in single_stream_layout(config).items():
        flat = len(shape) == 1
        near_one = 1.0 if flat and "text_norm" not in name else 0.0
        value = torch.randn(shape, generator=g) * (0.1 if flat else shape[1] ** -0.5) + near_one
        state[name] = value.bfloat16().float()
    return state


def fused(state: Weights) -> Weights:
    """The spelling of ComfyUI's and GGUF files: gate first."""
    out = dict(state)
    for name in state:
        if name.endswith(".img_mlp.proj.weight"):
            at = name.removesuffix("proj.weight")
            parts = out.pop(at + "gate_layer.weight"), out.pop(name)
            out[at + "gate_up.weight"] = torch.cat(parts)
    return out


def packed_layers(state: Weights) -> list[str]:
    """The matrices of the blocks, which files quantize."""
    return [n.removesuffix(".weight") for n, t in state.items() if "_blocks." in n and t.dim() == 2]


def as_bytes(conf: object) -> Tensor:
    return torch.tensor(list(json.dumps(conf).encode()), dtype=torch.uint8)


def bf16(state: Weights) -> Weights:
    return {name: t.bfloat16() for name, t in state.items()}


def fp8_plain(state: Weights) -> Weights:
    out = bf16(state)
    for name in packed_layers(state):
        out[name + ".weight"] = state[name + ".weight"].to(torch.float8_e4m3fn)
    return out


def fp8_scaled(state: Weights) -> Weights:
    out = bf16(state) | {"scaled_fp8": torch.zeros(2, dtype=torch.float8_e4m3fn)}
    for name in packed_layers(state):
        scale = state[name + ".weight"].abs().max() / 448
        out[name + ".weight"] = (state[name + ".weight"] / scale).to(torch.float8_e4m3fn)
        out[name + ".scale_weight"] = scale
    return out


def nf4(state: Weights) -> Weights:
    out, levels = bf16(state), torch.linspace(-1, 1, 16)
    for name in packed_layers(state):
        w = state[name + ".weight"]
        blocks = w.view(-1, 64)
        largest = blocks.abs().amax(1)
        codes = ((blocks / largest[:, None] + 1) * 7.5).round().to(torch.uint8).flatten()
        conf = {"quant_type": "nf4", "blocksize": 64, "shape": list(w.shape)}
        out |= {
            name + ".weight": (codes[0::2] << 4 | codes[1::2]).view(-1, 1),
            name + ".weight.absmax": largest,
            name + ".weight.quant_map": levels,
            name + ".weight.quant_state.bitsandbytes__nf4": as_bytes(conf),
        }
    return out


def dfloat11(state: Weights) -> tuple[Weights, dict[str, object]]:
    """(a file with a stream for each block, the config.json that says what is in it)."""
    out, blocks = bf16(state), {}
    for name in packed_layers(state):
        block, layer = re.fullmatch(r"(transformer_blocks\.\d+)\.(.*)", name).groups()
        blocks.setdefault(block, []).append(layer)
    for block, layers in blocks.items():
        matrices = [out.pop(f"{block}.{layer}.weight") for layer in layers]
        ends = torch.tensor([m.numel() for m in matrices]).cumsum(0)[:-1]
        out |= {block + end: t for end, t in encode(matrices).items()}
        out[block + ".split_positions"] = ends
    settings = {"pattern_dict": {r"transformer_blocks\.\d+": next(iter(blocks.values()))}}
    return out, {"_class_name": "QwenImage21Transformer2DModel", "dfloat11_config": settings}


def comfy(case: str) -> Callable[[Weights], Weights]:
    """By comfy-kitchen's own quantizer, as ComfyUI saves it."""

    def change(state: Weights) -> Weights:
        from ..quant.test_formats_comfy import CASES

        layout, arguments, settings = CASES[case]
        out = bf16(state)
        for name in packed_layers(state):
            codes, params = layout.quantize(out.pop(name + ".weight").float(), **arguments)
            parts = layout.state_dict_tensors(codes, params)
            out |= {f"{name}.weight{end}": t for end, t in parts.items()}
            out[name + ".comfy_quant"] = as_bytes({"format": case.split()[0], **settings})
        return out

    return change


SAFETENSORS = {  # name -> (change, worst relative error of a weight)
    "float32": (dict, 0.0),
    "bf16": (bf16, 0.0),
    "fp8 plain": (fp8_plain, 0.1),
    "fp8 scaled": (fp8_scaled, 0.1),
    "fp8 e4m3 by comfy_quant": (comfy("float8_e4m3fn"), 0.1),
    "mxfp8": (comfy("mxfp8"), 0.1),
    "nvfp4": (comfy("nvfp4"), 0.3),
    "int8 convrot": (comfy("int8_tensorwise convrot"), 0.03),
    "convrot w4a4": (comfy("convrot_w4a4"), 0.3),
    "w4a8": (comfy("asym_w4a8_int8"), 0.3),
    "nf4": (nf4, 0.3),
}
GGUF = {  # type of the matrices -> worst relative error of a weight
    "BF16": 0.0,
    "F16": 1e-3,
    "Q8_0": 0.02,
    "Q6_K": 0.05,
    "Q5_K": 0.08,
    "Q4_K": 0.15,
    "Q3_K": 0.25,
    "Q2_K": 0.5,
    "Q4_0": 0.2,
    "Q5_1": 0.1,
}


def write_gguf(path: Path, state: Weights, kind: str, arch: str = "qwen_image21") -> Path:
    """Matrices of the blocks in `kind`, the norm of the text in BF16 as the field's files have it,
    all else in F32."""
    import gguf

    writer = gguf.GGUFWriter(path, arch)
    layers = {name + ".weight" for name in packed_layers(state)}
    for name, t in state.items():
        own = BY_NAME[kind if name in layers else "BF16" if "text_norm" in name else "F32"]
        raw = quantize_rows(t.reshape(-1, t.shape[-1]), own).numpy()
        raw = raw[0] if t.dim() == 1 else raw
        writer.add_tensor(name, raw, raw_dtype=gguf.GGMLQuantizationType(own.id))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def write(path: Path, state: Weights, prefix: str = "", **metadata: str) -> Path:
    """A .safetensors file."""
    tensors = {prefix + name: t.contiguous() for name, t in state.items()}
    save_safetensors(path, tensors, metadata or None)
    return path
