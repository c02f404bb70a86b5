"""Encoders of storage formats for tests and benchmarks: what other tools write, as plain torch.

Each turns the matrices of `layers` into packed tensors, in place, in the tensors of a model by our
names. Nearest codes without a search: good enough to see that a format was read right. GGUF and
scaled fp8 files are written by `inkstone quantize`. Needs torch alone.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from inkstone.quant.chunked_storage import hadamard
from inkstone.quant.microscaling import tiled

from .dfloat11_encoder import encode
from .svdquant_encoder import E2M1, pack_codes, pack_low, pack_scale, pack_scale_fp4, pack_vector

Tensors = dict[str, Tensor]
E4M3 = torch.float8_e4m3fn
LEVELS = torch.linspace(-1, 1, 16)  # of our 4-bit tables
QKV = ("attn.to_q", "attn.to_k", "attn.to_v")
ADDED = ("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj")
# of one block, in the order in which DFloat11 joins them
FOUR = (
    "img_mod.1",
    *QKV,
    "attn.add_k_proj",
    "attn.add_v_proj",
    "attn.add_q_proj",
    "attn.to_out.0",
    "attn.to_add_out",
    "img_mlp.net.0.proj",
    "img_mlp.net.2",
    "txt_mod.1",
    "txt_mlp.net.0.proj",
    "txt_mlp.net.2",
)


def text(value: object) -> Tensor:
    """JSON as bytes."""
    return torch.tensor(list(json.dumps(value).encode()), dtype=torch.uint8)


def matrix_layers(t: Tensors) -> list[str]:
    """The layers of all blocks whose weight is a matrix."""
    names = (
        n.removesuffix(".weight") for n, w in t.items() if n.endswith(".weight") and w.dim() == 2
    )
    return [n for n in names if n.startswith("transformer_blocks.")]


def _blocks(layers: Sequence[str]) -> list[str]:
    """ "transformer_blocks.0." and so on."""
    return list(dict.fromkeys(".".join(name.split(".")[:2]) + "." for name in layers))


def _scale(largest: Tensor, most: float) -> Tensor:
    """The scale that makes the largest magnitude `most`; 1 where all are zero."""
    return torch.where(largest > 0, largest / most, torch.ones_like(largest))


def _nibbles(codes: Tensor, high_first: bool = False) -> Tensor:
    """Codes [N,K] of 4 bits -> bytes [N,K/2]."""
    codes = codes.to(torch.int32) & 15
    a, b = codes[:, 0::2], codes[:, 1::2]
    return (a << 4 | b if high_first else a | b << 4).to(torch.uint8)


def _nearest(values: Tensor, levels: Tensor) -> Tensor:
    """The number of the nearest level of each value."""
    order = levels.argsort()
    ordered = levels[order]
    middle = (ordered[1:] + ordered[:-1]) / 2
    return order[torch.bucketize(values, middle)]


# --- 8-bit floats


def fp8_plain(t: Tensors, layers: Sequence[str], kind: torch.dtype = E4M3) -> None:
    for name in layers:
        t[name + ".weight"] = t[name + ".weight"].to(kind)


def fp8_e5m2(t: Tensors, layers: Sequence[str]) -> None:
    fp8_plain(t, layers, torch.float8_e5m2)


def fp8_scaled(t: Tensors, layers: Sequence[str]) -> None:
    t["scaled_fp8"] = torch.zeros(2, dtype=E4M3)
    for name in layers:
        w = t[name + ".weight"].float()
        t[name + ".scale_weight"] = w.abs().max() / 448
        t[name + ".scale_input"] = torch.ones(())
        t[name + ".weight"] = (w / t[name + ".scale_weight"]).to(E4M3)


def fp8_rows(t: Tensors, layers: Sequence[str]) -> None:
    t["scaled_fp8"] = torch.zeros(0, dtype=E4M3)
    for name in layers:
        w = t[name + ".weight"].float()
        scale = _scale(w.abs().amax(1, keepdim=True), 448)
        t |= {name + ".scale_weight": scale, name + ".weight": (w / scale).to(E4M3)}


# --- ComfyUI's own


def comfy_int8(t: Tensors, layers: Sequence[str]) -> None:
    mark = text({"format": "int8_tensorwise"})
    for name in layers:
        w = t[name + ".weight"].float()
        scale = w.abs().amax(1, keepdim=True) / 127
        t |= {
            name + ".weight": (w / scale).round().to(torch.int8),
            name + ".weight_scale": scale,
            name + ".comfy_quant": mark,
        }
    t["transformer_blocks.0.comfy_attention.config"] = mark


ROTATED = 64  # inputs that ConvRot turns together


def _rotated(w: Tensor) -> Tensor:
    turned = w.view(-1, ROTATED) @ hadamard(ROTATED, w.device) / math.sqrt(ROTATED)
    return turned.view(w.shape)


def comfy_int8_convrot(t: Tensors, layers: Sequence[str]) -> None:
    conf = {"format": "int8_tensorwise", "convrot": True, "convrot_groupsize": ROTATED}
    for name in layers:
        w = _rotated(t[name + ".weight"].float())
        scale = _scale(w.abs().amax(1, keepdim=True), 127)
        t |= {
            name + ".weight": (w / scale).round().to(torch.int8),
            name + ".weight_scale": scale,
            name + ".comfy_quant": text(conf),
        }


def comfy_w4a4(t: Tensors, layers: Sequence[str]) -> None:
    conf = {"format": "convrot_w4a4", "convrot_groupsize": ROTATED}
    for name in layers:
        w = _rotated(t[name + ".weight"].float())
        scale = _scale(w.abs().amax(1, keepdim=True), 7)
        t |= {
            name + ".weight": _nibbles((w / scale).round().clamp(-8, 7)).view(torch.int8),
            name + ".weight_scale": scale.view(-1),
            name + ".comfy_quant": text(conf),
        }


def comfy_w4a8(t: Tensors, layers: Sequence[str]) -> None:
    group = 16
    conf = {"format": "asym_w4a8_int8", "group_size": group, "convrot_groupsize": ROTATED}
    for name in layers:
        w = _rotated(t[name + ".weight"].float())
        rows = _scale(w.abs().amax(1, keepdim=True), 127)
        codes = (w / rows).view(len(w), -1, group)
        small = _scale(codes.abs().amax(2, keepdim=True), 7).clamp_min(1e-3)
        levels = (codes / small).round().clamp(-8, 7).view(w.shape) + 8
        t |= {
            name + ".weight": _nibbles(levels),
            name + ".weight_s_rel": small.squeeze(2),
            name + ".weight_s_channel": rows,
            name + ".comfy_quant": text(conf),
        }


def comfy_awq(t: Tensors, layers: Sequence[str]) -> None:
    group = 64
    for name in layers:
        w = t[name + ".weight"].float().view(len(t[name + ".weight"]), -1, group)
        low, high = w.amin(2), w.amax(2)
        scale = _scale(high - low, 15)
        codes = ((w - low.unsqueeze(2)) / scale.unsqueeze(2)).round().clamp(0, 15)
        t |= {
            name + ".weight": _nibbles(codes.view(len(w), -1)).view(torch.int8),
            name + ".weight_scale": scale.t().contiguous(),
            name + ".weight_zeros": (low + 8 * scale).t().contiguous(),
            name + ".comfy_quant": text({"format": "awq_w4a16", "group_size": group}),
        }


def comfy_mxfp8(t: Tensors, layers: Sequence[str]) -> None:
    for name in layers:
        w = t[name + ".weight"].float()
        blocks = w.view(len(w), -1, 32)
        power = (_scale(blocks.abs().amax(2), 448)).log2().ceil().clamp(-126, 126)
        codes = (blocks / power.exp2().unsqueeze(2)).to(E4M3).view(w.shape)
        t |= {
            name + ".weight": codes,
            name + ".weight_scale": tiled((power + 127).to(torch.uint8)),
            name + ".comfy_quant": text({"format": "mxfp8"}),
        }


def _nvfp4(w: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Codes [N,K] of e2m1, scales [N,K/16] in e4m3, one float32 for all."""
    blocks = w.view(len(w), -1, 16)
    whole = w.abs().max() / (448 * 6)
    scale = (blocks.abs().amax(2) / 6 / whole).to(E4M3)
    used = (scale.float() * whole).unsqueeze(2)
    values = torch.where(used > 0, blocks / used, torch.zeros_like(blocks))
    return _nearest(values, E2M1).view(w.shape), scale, whole


def comfy_nvfp4(t: Tensors, layers: Sequence[str]) -> None:
    for name in layers:
        codes, scale, whole = _nvfp4(t[name + ".weight"].float())
        t |= {
            name + ".weight": _nibbles(codes, high_first=True),
            name + ".weight_scale": tiled(scale.view(torch.uint8)).view(E4M3),
            name + ".weight_scale_2": whole,
            name + ".comfy_quant": text({"format": "nvfp4"}),
        }


def modelopt_nvfp4(t: Tensors, layers: Sequence[str]) -> None:
    for name in layers:
        codes, scale, whole = _nvfp4(t[name + ".weight"].float())
        t |= {
            name + ".weight": _nibbles(codes),
            name + ".weight_scale": scale,
            name + ".weight_scale_2": whole,
        }


# --- bitsandbytes


def four_bits(t: Tensors, layers: Sequence[str], kind: str = "nf4") -> None:
    for name in layers:
        w = t[name + ".weight"].float()
        blocks = w.view(-1, 64)
        largest = blocks.abs().amax(1)
        codes = ((blocks / _scale(largest, 1)[:, None] + 1) * 7.5).round().to(torch.uint8).flatten()
        state = {"quant_type": kind, "blocksize": 64, "shape": list(w.shape)}
        t |= {
            name + ".weight": (codes[0::2] << 4 | codes[1::2]).view(-1, 1),
            name + ".weight.absmax": largest,
            name + ".weight.quant_map": LEVELS,
            f"{name}.weight.quant_state.bitsandbytes__{kind}": text(state),
        }


def bnb_fp4(t: Tensors, layers: Sequence[str]) -> None:
    four_bits(t, layers, "fp4")


def bnb_int8(t: Tensors, layers: Sequence[str]) -> None:
    for name in layers:
        w = t[name + ".weight"].float()
        largest = w.abs().amax(1)
        codes = (w / _scale(largest, 127)[:, None]).round().to(torch.int8)
        t |= {name + ".weight": codes, name + ".SCB": largest}


# --- formats that join layers


def dfloat11(t: Tensors, layers: Sequence[str]) -> None:
    """A stream for each block, of the matrices that it has."""
    for block in _blocks(layers):
        members = [name for name in FOUR if f"{block}{name}.weight" in t]
        weights = [t.pop(f"{block}{name}.weight").bfloat16() for name in members]
        t |= {block[:-1] + suffix: part for suffix, part in encode(weights).items()}


def svdquant(t: Tensors, layers: Sequence[str], four: bool = False) -> None:
    """Modulation stays plain."""
    fused = {"attn.to_qkv": QKV, "attn.add_qkv_proj": ADDED}
    single = [n for n in FOUR if "_mod" not in n and not any(n in f for f in fused.values())]
    for block in _blocks(layers):
        for name, ours in (fused | {n: (n,) for n in single}).items():
            ours = tuple(o for o in ours if f"{block}{o}.weight" in t)
            if not ours:
                continue  # the last block has fewer
            if name in fused and len(ours) < 3:
                continue
            w = torch.cat([t.pop(f"{block}{o}.weight") for o in ours]).float()
            b = torch.cat([t.pop(f"{block}{o}.bias") for o in ours]).float()
            parts = svdquant_parts(w, b, shifted=name.endswith("_mlp.net.2"), four=four)
            t |= {f"{block}{name}.{k}": v for k, v in parts.items()}


def svdquant_fp4(t: Tensors, layers: Sequence[str]) -> None:
    svdquant(t, layers, four=True)


def svdquant_parts(
    w: Tensor, b: Tensor | None = None, shifted: bool = False, four: bool = False
) -> Tensors:
    """A matrix [N,K] and its bias in int4 (`four`: fp4) with a branch for its first 16 columns."""
    rows, columns = w.shape
    groups = w.view(rows, -1, 16 if four else 64)
    scale = _scale(groups.abs().amax(2), 6 if four else 7).to(E4M3 if four else torch.bfloat16)
    wide = scale.float().repeat_interleave(groups.shape[2], 1)
    if four:
        codes = _nearest(torch.where(wide > 0, w / wide, torch.zeros_like(w)), E2M1)
        plain = E2M1[codes] * wide
    else:
        q = (w / wide).round().clamp(-8, 7)
        codes, plain = q.int() & 15, q * wide
    if b is not None and shifted and not four:
        b = b - 0.171875 * plain.sum(1)
    rest = w - plain
    return {
        "qweight": pack_codes(codes),
        "wscales": (pack_scale_fp4 if four else pack_scale)(scale),
        "smooth_factor": pack_vector(torch.ones(columns).bfloat16()),
        "proj_up": pack_low(rest[:, :16].bfloat16(), False),
        "proj_down": pack_low(torch.eye(16, columns).bfloat16(), True),
        **({} if b is None else {"bias": pack_vector(b.bfloat16())}),
    }


Packer = Callable[[Tensors, Sequence[str]], None]
# the format's name as the finders say it -> its encoder
PACKERS: dict[str, Packer] = {
    "fp8 e4m3 plain": fp8_plain,
    "fp8 e5m2 plain": fp8_e5m2,
    "fp8 e4m3 scaled": fp8_scaled,
    "fp8 e4m3 scaled by rows": fp8_rows,
    "int8_tensorwise": comfy_int8,
    "int8_tensorwise convrot": comfy_int8_convrot,
    "convrot_w4a4": comfy_w4a4,
    "asym_w4a8_int8": comfy_w4a8,
    "awq_w4a16": comfy_awq,
    "mxfp8": comfy_mxfp8,
    "nvfp4": comfy_nvfp4,
    "nvfp4 of ModelOpt": modelopt_nvfp4,
    "bitsandbytes nf4": four_bits,
    "bitsandbytes fp4": bnb_fp4,
    "bitsandbytes int8": bnb_int8,
    "DFloat11": dfloat11,
    "SVDQuant int4": svdquant,
    "SVDQuant fp4": svdquant_fp4,
}
