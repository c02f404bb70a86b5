"""Whole models in packed formats: recognized layer by layer, loaded, and as near to the plain model
as the format allows; what is missing or damaged is refused before anything is loaded.
"""

from __future__ import annotations

import json

import pytest
import torch

from inkstone.errors import InkstoneError
from inkstone.kernels.configs import MMDiTConfig, TextConfig
from inkstone.loaders.arch import expected_tensors
from inkstone.loaders.arch.identify import identify, require
from inkstone.loaders.formats.safetensors import save_safetensors
from inkstone.loaders.models.load import load_diffusion_model
from inkstone.loaders.models.weight_file import LoadOptions

from ..support.dfloat11_encoder import encode
from ..support.oracle import measured, relative
from ..support.slow import slow_where
from .test_formats_svdquant import pack_codes, pack_low, pack_scale, pack_vector

CONFIG = MMDiTConfig(layers=2, heads=1, head_dim=128, channels=64, joint=64, ff=256)
FOUR = (
    "img_mod.1",
    "attn.to_q",
    "attn.to_k",
    "attn.to_v",
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
LAYERS = [f"transformer_blocks.{b}.{name}" for b in range(2) for name in FOUR]


def model() -> dict[str, torch.Tensor]:
    """A Qwen-Image of two blocks whose weights are bf16 numbers."""
    g = torch.Generator().manual_seed(0)
    return {
        name: (
            torch.randn(shape, generator=g) / (shape[-1] ** 0.5 if len(shape) > 1 else 10)
        ).bfloat16()
        for name, shape in expected_tensors.mmdit_layout(CONFIG).items()
    }


def fp8_plain(t: dict) -> None:
    for name in LAYERS:
        t[name + ".weight"] = t[name + ".weight"].to(torch.float8_e4m3fn)


def fp8_scaled(t: dict) -> None:
    t["scaled_fp8"] = torch.zeros(2, dtype=torch.float8_e4m3fn)
    for name in LAYERS:
        w = t[name + ".weight"].float()
        t[name + ".scale_weight"] = w.abs().max() / 448
        t[name + ".scale_input"] = torch.ones(())
        t[name + ".weight"] = (w / t[name + ".scale_weight"]).to(torch.float8_e4m3fn)


def comfy_int8(t: dict) -> None:
    text = torch.tensor(list(b'{"format": "int8_tensorwise"}'), dtype=torch.uint8)
    for name in LAYERS:
        w = t[name + ".weight"].float()
        scale = w.abs().amax(1, keepdim=True) / 127
        t |= {
            name + ".weight": (w / scale).round().to(torch.int8),
            name + ".weight_scale": scale,
            name + ".comfy_quant": text,
        }
    t["transformer_blocks.0.comfy_attention.config"] = text


def dfloat11(t: dict) -> None:
    for block in ("transformer_blocks.0", "transformer_blocks.1"):
        weights = [t.pop(f"{block}.{name}.weight") for name in FOUR]
        t |= {block + k: v for k, v in encode(weights).items()}


def nf4(t: dict, names=(*LAYERS, "img_in", "txt_in", "proj_out")) -> None:
    levels = torch.linspace(-1, 1, 16)
    for name in names:
        w = t[name + ".weight"].float()
        blocks = w.view(-1, 64)
        largest = blocks.abs().amax(1)
        codes = ((blocks / largest[:, None] + 1) * 7.5).round().to(torch.uint8).flatten()
        state = {"quant_type": "nf4", "blocksize": 64, "shape": list(w.shape)}
        t |= {
            name + ".weight": (codes[0::2] << 4 | codes[1::2]).view(-1, 1),
            name + ".weight.absmax": largest,
            name + ".weight.quant_map": levels,
            name + ".weight.quant_state.bitsandbytes__nf4": torch.tensor(
                list(json.dumps(state).encode()), dtype=torch.uint8
            ),
        }


def svdquant(t: dict) -> None:
    added = ("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj")
    fused = {"attn.to_qkv": FOUR[1:4], "attn.add_qkv_proj": added}
    single = [n for n in FOUR if "_mod" not in n and not any(n in f for f in fused.values())]
    for block in ("transformer_blocks.0.", "transformer_blocks.1."):
        for name, ours in (fused | {n: (n,) for n in single}).items():
            w = torch.cat([t.pop(f"{block}{o}.weight") for o in ours]).float()
            b = torch.cat([t.pop(f"{block}{o}.bias") for o in ours]).float()
            made = svdquant_parts(w, b, shifted=name.endswith("_mlp.net.2"))
            t |= {f"{block}{name}.{k}": v for k, v in made.items()}


def svdquant_parts(
    w: torch.Tensor, b: torch.Tensor | None = None, shifted: bool = False
) -> dict[str, torch.Tensor]:
    """A matrix [N,K] and its bias in int4 with a branch for its first 16 columns."""
    rows, columns = w.shape
    scale = w.view(rows, -1, 64).abs().amax(2).div(7).bfloat16()
    wide = scale.float().repeat_interleave(64, 1)
    q = (w / wide).round().clamp(-8, 7)
    if b is not None and shifted:
        b = b - 0.171875 * (q * wide).sum(1)
    rest = w - q * wide
    return {
        "qweight": pack_codes(q.int() & 15),
        "wscales": pack_scale(scale),
        "smooth_factor": pack_vector(torch.ones(columns).bfloat16()),
        "proj_up": pack_low(rest[:, :16].bfloat16(), False),
        "proj_down": pack_low(torch.eye(16, columns).bfloat16(), True),
        **({} if b is None else {"bias": pack_vector(b.bfloat16())}),
    }


CASES = {  # name -> (change, format and count, worst relative error of the output)
    "fp8 plain": (fp8_plain, {"fp8 e4m3 plain": 28}, 0.1),
    "fp8 scaled": (fp8_scaled, {"fp8 e4m3 scaled": 28}, 0.1),
    "int8": (comfy_int8, {"int8_tensorwise": 28}, 0.03),
    "DFloat11": (dfloat11, {"DFloat11": 28}, 1e-6),
    "nf4": (nf4, {"bitsandbytes nf4": 31}, 0.5),
    "SVDQuant": (svdquant, {"SVDQuant int4": 24}, 0.3),
}


@pytest.mark.parametrize("prefix", ["", "model.diffusion_model."])
@pytest.mark.parametrize("case", slow_where(lambda case: case == "DFloat11", CASES))
def test_models_are_recognized_and_loaded(case, prefix, tmp_path):
    change, counts, most = CASES[case]
    plain = model()
    packed = dict(plain)
    change(packed)
    save_safetensors(tmp_path / "plain.safetensors", plain)
    save_safetensors(tmp_path / "packed.safetensors", {prefix + k: v for k, v in packed.items()})
    facts = identify(tmp_path / "packed.safetensors")
    assert not facts.problem and facts.packed == counts, facts.sentence
    assert facts.parameters == sum(t.numel() for t in plain.values())
    ((form, count),) = counts.items()
    assert f"{count} x {form}" in facts.sentence
    want, got = (
        load_diffusion_model(tmp_path / f"{name}.safetensors", LoadOptions(torch.float32))
        for name in ("plain", "packed")
    )
    for name, parameter in want.network.named_parameters():
        owner, _, leaf = name.rpartition(".")
        module = got.network.get_submodule(owner)
        storage = getattr(module, "storage", None) if leaf == "weight" else None
        value = storage.dequantize() if storage is not None else getattr(module, leaf)
        error = measured(value, parameter)
        assert error < most, f"{case}: {name} is off by {error:.1e}"
    tables = [m.modulation(torch.tensor([0.7, 0.2])) for m in (want, got)]
    for a, b in zip(*((*t.img, *t.txt, t.out) for t in tables)):
        assert relative(b, a) < most, f"{case}: modulation is off by {relative(b, a):.1e}"


DAMAGE = {
    "a scale": (fp8_scaled, LAYERS[3] + ".scale_weight", "scale_weight is missing"),
    "settings": (comfy_int8, LAYERS[3] + ".weight_scale", "weight_scale is missing"),
    "a stream": (dfloat11, "transformer_blocks.1.gaps", "gaps is missing"),
    "a state": (nf4, LAYERS[3] + ".weight.quant_map", "quant_map is missing"),
    "a branch": (svdquant, "transformer_blocks.0.attn.to_qkv.proj_up", "proj_up is missing"),
    "a plain tensor": (comfy_int8, "txt_norm.weight", "no known kind"),
    "a whole layer": (fp8_plain, LAYERS[3] + ".weight", "1 tensors are missing (" + LAYERS[3]),
}


@pytest.mark.slow
@pytest.mark.parametrize("case", DAMAGE)
def test_damage_is_refused_before_loading(case, tmp_path):
    change, name, words = DAMAGE[case]
    tensors = model()
    change(tensors)
    del tensors[name]
    path = tmp_path / "model.safetensors"
    save_safetensors(path, tensors)
    facts = identify(path)
    assert words in facts.sentence, facts.sentence
    with pytest.raises(InkstoneError) as caught:
        require(facts, "diffusion_model")
    assert words in str(caught.value) and str(path) in str(caught.value)


def test_a_marker_of_another_part_means_nothing_here(tmp_path):
    """In a bundle the text encoder may be scaled and the diffusion model plain fp8."""
    tensors = model()
    fp8_plain(tensors)
    tensors = {"model.diffusion_model." + k: v for k, v in tensors.items()}
    tensors["text_encoders.qwen25_7b.transformer.scaled_fp8"] = torch.zeros(2)
    save_safetensors(tmp_path / "m.safetensors", tensors)
    facts = identify(tmp_path / "m.safetensors")
    assert facts.packed == {"fp8 e4m3 plain": 28} and not facts.problem


def text_encoder() -> dict[str, torch.Tensor]:
    numbers = TextConfig(layers=2, width=128, heads=1, kv_heads=1, head_dim=128, ff=256, vocab=80)
    return {
        n: torch.randn(s).bfloat16() * 0.1 for n, s in expected_tensors.text_layout(numbers).items()
    }


def test_text_encoders(tmp_path):
    plain = text_encoder()
    scaled = {"scaled_fp8": torch.zeros(0, dtype=torch.float8_e4m3fn)}
    for name, tensor in plain.items():
        scaled["model." + name] = tensor
        if tensor.dim() == 2 and "embed" not in name:
            scaled["model." + name] = tensor.to(torch.float8_e4m3fn)
            scaled["model." + name.removesuffix("weight") + "scale_weight"] = torch.tensor(0.5)
    save_safetensors(tmp_path / "scaled.safetensors", scaled)
    facts = identify(tmp_path / "scaled.safetensors")
    assert facts.packed == {"fp8 e4m3 scaled": 14} and not facts.problem, facts.sentence

    names = [
        "self_attn.q_proj",
        "self_attn.k_proj",
        "self_attn.v_proj",
        "self_attn.o_proj",
        "mlp.gate_proj",
        "mlp.up_proj",
        "mlp.down_proj",
    ]
    streams = dict(plain)
    for layer in ("layers.0", "layers.1"):
        weights = [streams.pop(f"{layer}.{n}.weight") for n in names]
        streams |= {layer + k: v for k, v in encode(weights).items()}
    streams |= {
        "embed_tokens" + k: v for k, v in encode([streams.pop("embed_tokens.weight")]).items()
    }
    folder = tmp_path / "df11"
    folder.mkdir()
    save_safetensors(folder / "model.safetensors", {"model." + k: v for k, v in streams.items()})
    order = {r"model\.layers\.\d+": names, r"model\.embed_tokens": []}
    config = {"model_type": "qwen2_5_vl", "dfloat11_config": {"pattern_dict": order}}
    (folder / "config.json").write_text(json.dumps(config))
    facts = identify(folder)
    assert facts.role == "text_encoder" and facts.packed == {"DFloat11": 15}, facts.sentence
    assert not facts.problem and facts.parameters == sum(t.numel() for t in plain.values())


@pytest.mark.parametrize(
    "parts, tool",
    [
        (("qweight", "qzeros", "scales"), "AWQ"),
        (("qweight", "qzeros", "scales", "g_idx"), "GPTQ"),
        (("weight", "weight_scale_inv"), "fp8 with a scale per block"),
        (("weight_packed", "weight_scale", "weight_shape"), "compressed-tensors"),
        (("q_weight", "q_scale"), "EXL2"),
        (("W_q", "meta"), "HQQ"),
    ],
)
def test_a_sound_file_of_an_unsupported_format_is_not_called_damaged(parts, tool, tmp_path):
    tensors = model()
    for layer in LAYERS:
        del tensors[layer + ".weight"]
        for part in parts:
            kind = torch.float8_e4m3fn if part == "weight" else torch.int32
            tensors[f"{layer}.{part}"] = torch.zeros(16, 16).to(kind)
    save_safetensors(tmp_path / "x.safetensors", tensors)
    with pytest.raises(InkstoneError) as caught:
        load_diffusion_model(tmp_path / "x.safetensors")
    said = str(caught.value)
    assert f"its format, {tool}" in said and "not supported" in said and "GGUF" in said
    assert "damaged" not in said and "ownload" not in said
