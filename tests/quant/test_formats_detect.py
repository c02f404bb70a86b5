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
from ..support.packers import FOUR, PACKERS
from ..support.slow import slow_where

CONFIG = MMDiTConfig(layers=2, heads=1, head_dim=128, channels=64, joint=64, ff=256)
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


# format -> its matrices in this model, worst relative error of a weight
CASES = {
    "fp8 e4m3 plain": (28, 0.1),
    "fp8 e5m2 plain": (28, 0.1),
    "fp8 e4m3 scaled": (28, 0.1),
    "fp8 e4m3 scaled by rows": (28, 0.1),
    "int8_tensorwise": (28, 0.03),
    "int8_tensorwise convrot": (28, 0.03),
    "convrot_w4a4": (28, 0.2),
    "asym_w4a8_int8": (28, 0.12),
    "awq_w4a16": (28, 0.12),
    "mxfp8": (28, 0.04),
    "nvfp4": (28, 0.12),
    "nvfp4 of ModelOpt": (28, 0.12),
    "DFloat11": (28, 1e-6),
    "bitsandbytes nf4": (31, 0.5),
    "bitsandbytes fp4": (28, 0.5),
    "bitsandbytes int8": (28, 0.03),
    "SVDQuant int4": (24, 0.3),
    "SVDQuant fp4": (24, 0.12),
}
NF4 = (*LAYERS, "img_in", "txt_in", "proj_out")  # bitsandbytes takes what is outside of blocks too


def packed(t: dict, case: str) -> None:
    """The layers of a model in this format, in place."""
    PACKERS[case](t, NF4 if case == "bitsandbytes nf4" else LAYERS)


def test_every_encoder_has_a_case():
    assert set(CASES) == set(PACKERS)


@pytest.mark.parametrize("prefix", ["", "model.diffusion_model."])
@pytest.mark.parametrize("case", slow_where(lambda case: case == "DFloat11", CASES))
def test_models_are_recognized_and_loaded(case, prefix, tmp_path):
    count, most = CASES[case]
    counts = {case.removesuffix(" of ModelOpt"): count}
    plain = model()
    tensors = dict(plain)
    packed(tensors, case)
    save_safetensors(tmp_path / "plain.safetensors", plain)
    save_safetensors(tmp_path / "packed.safetensors", {prefix + k: v for k, v in tensors.items()})
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
    "a scale": ("fp8 e4m3 scaled", LAYERS[3] + ".scale_weight", "scale_weight is missing"),
    "settings": ("int8_tensorwise", LAYERS[3] + ".weight_scale", "weight_scale is missing"),
    "a stream": ("DFloat11", "transformer_blocks.1.gaps", "gaps is missing"),
    "a state": ("bitsandbytes nf4", LAYERS[3] + ".weight.quant_map", "quant_map is missing"),
    "a branch": ("SVDQuant int4", "transformer_blocks.0.attn.to_qkv.proj_up", "proj_up is missing"),
    "a plain tensor": ("int8_tensorwise", "txt_norm.weight", "no known kind"),
    "a whole layer": (
        "fp8 e4m3 plain",
        LAYERS[3] + ".weight",
        "1 tensors are missing (" + LAYERS[3],
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("case", DAMAGE)
def test_damage_is_refused_before_loading(case, tmp_path):
    form, name, words = DAMAGE[case]
    tensors = model()
    packed(tensors, form)
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
    packed(tensors, "fp8 e4m3 plain")
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
