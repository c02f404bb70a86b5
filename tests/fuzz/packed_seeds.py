"""Seeds: one layer in every packed format, of the least size that the format takes."""

from __future__ import annotations

import json
from collections.abc import Mapping

import torch
from torch import Tensor

from ..quant.test_formats_bnb import four_bit, int8
from ..support.dfloat11_encoder import encode
from ..support.svdquant_encoder import pack_codes, pack_low, pack_scale, pack_vector

LAYER = "transformer_blocks.0.attn.to_q"
E4M3 = torch.float8_e4m3fn


def _codes(*shape: int) -> Tensor:
    return (torch.arange(torch.Size(shape).numel()) * 37 % 251).to(torch.uint8).view(shape)


def _marked(form: str, tensors: Mapping[str, Tensor], **settings: object) -> dict[str, Tensor]:
    text = json.dumps({"format": form, **settings}).encode()
    named = {LAYER + suffix: tensor for suffix, tensor in tensors.items()}
    return {**named, LAYER + ".comfy_quant": torch.tensor(list(text), dtype=torch.uint8)}


def _svdquant() -> dict[str, Tensor]:
    name = "transformer_blocks.0.img_mlp.net.0.proj"
    codes = torch.arange(128 * 128).view(128, 128) % 16
    low = torch.ones(128, 16).bfloat16()
    parts = {
        "qweight": pack_codes(codes.int()),
        "wscales": pack_scale(torch.ones(128, 2).bfloat16()),
        "smooth_factor": pack_vector(torch.ones(128).bfloat16()),
        "proj_up": pack_low(low, False),
        "proj_down": pack_low(torch.eye(16, 128).bfloat16(), True),
        "bias": pack_vector(torch.zeros(128).bfloat16()),
    }
    return {f"{name}.{key}": value.contiguous() for key, value in parts.items()}


def _of_comfy() -> list[dict[str, Tensor]]:
    wide = _codes(32, 64)
    one, rows, uneven = torch.tensor(0.5), torch.full((32,), 0.5), torch.full((32, 1), 0.5)
    scales = torch.ones(128, 4).to(E4M3)
    e8m0 = torch.full((128, 4), 127, dtype=torch.uint8)
    groups = torch.ones(2, 32)
    return [
        _marked("float8_e4m3fn", {".weight": (wide % 120).view(E4M3), ".weight_scale": one}),
        _marked(
            "nvfp4", {".weight": _codes(32, 32), ".weight_scale": scales, ".weight_scale_2": one}
        ),
        _marked("mxfp8", {".weight": (wide % 120).view(E4M3), ".weight_scale": e8m0}),
        _marked("int8_tensorwise", {".weight": wide.view(torch.int8), ".weight_scale": uneven}),
        _marked(
            "int8_tensorwise",
            {".weight": _codes(4, 256).view(torch.int8), ".weight_scale": rows[:4]},
            convrot=True,
            convrot_groupsize=256,
        ),
        _marked(
            "convrot_w4a4",
            {".weight": _codes(4, 128), ".weight_scale": rows[:4]},
            convrot_groupsize=256,
        ),
        _marked(
            "asym_w4a8_int8",
            {
                ".weight": _codes(4, 128),
                ".weight_s_rel": torch.ones(4, 16),
                ".weight_s_channel": rows[:4],
                ".weight_codebook": torch.linspace(-1, 1, 16),
            },
            group_size=16,
            convrot_groupsize=256,
        ),
        _marked(
            "awq_w4a16", {".weight": wide, ".weight_scale": groups, ".weight_zeros": groups * 8}
        ),
    ]


def packed_layers() -> list[dict[str, Tensor]]:
    """Tensors of a file each."""
    weight = torch.linspace(-1, 1, 32 * 16).view(32, 16).bfloat16()
    fp8 = torch.linspace(-4, 4, 16 * 16).view(16, 16).to(E4M3)
    four, double = four_bit(4, 64)[0], four_bit(4, 64, "fp4", nested=True)[0]
    stream = {"embed_tokens" + suffix: part for suffix, part in encode([weight]).items()}
    stream["norm.weight"] = torch.ones(16)
    modelopt = {
        ".weight": _codes(32, 32),
        ".weight_scale": torch.ones(32, 4).to(E4M3),
        ".weight_scale_2": torch.tensor(0.5),
    }
    return [
        {LAYER + ".weight": fp8},
        {
            "scaled_fp8": torch.zeros(2, dtype=E4M3),
            LAYER + ".weight": fp8,
            LAYER + ".scale_weight": torch.tensor(0.5),
            LAYER + ".scale_input": torch.ones(()),
        },
        {LAYER + suffix: part for suffix, part in modelopt.items()},
        four,
        double,
        int8()[0],
        stream,
        _svdquant(),
        *_of_comfy(),
    ]
