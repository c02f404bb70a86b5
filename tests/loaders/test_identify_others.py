"""Formats, other models and misplaced files are identified by name, with the right place."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from inkstone.errors import InkstoneError
from inkstone.kernels.configs import VAEConfig
from inkstone.loaders.arch.expected_tensors import (
    Layout,
    blockwise_layout,
    controlnet_layout,
    mmdit_layout,
    text_layout,
)
from inkstone.loaders.arch.expected_tensors_vae import vae_layout
from inkstone.loaders.arch.header_view import SUPPORTED
from inkstone.loaders.arch.identify import require

from ..support.headers import (
    TEXT,
    TINY,
    TO_WAN,
    VAE,
    C,
    D,
    L,
    T,
    V,
    facts,
    named,
    renamed,
    text_encoder,
)
from .lora.test_lora_keys import NAMES as LORA_NAMES


def f8(*names: str) -> Layout:
    return mmdit_layout(TINY) | dict.fromkeys(names, (1,))


FORMATS = [
    (f8("a.qweight", "a.wscales", "a.proj_down"), "SVDQuant (nunchaku)"),
    (f8("a.encoded_exponent", "a.luts"), "DFloat11"),
    (f8("a.weight.quant_state.bitsandbytes__nf4", "a.weight.absmax"), "bitsandbytes nf4"),
    (f8("a.SCB"), "bitsandbytes int8"),
    (f8("transformer_blocks.0.attn.to_q.comfy_quant"), "comfy_quant"),
    (f8("scaled_fp8", "transformer_blocks.0.attn.to_q.scale_weight"), "fp8 scaled"),
    (f8("transformer_blocks.0.attn.to_q.weight_scale"), "fp8 scaled by rows"),
    (f8("a.weight_scale", "a.weight_scale_2", "a.input_scale"), "nvfp4"),
    (f8("a.weight._data", "a.weight._scale"), "quanto"),
]


@pytest.mark.parametrize(("shapes", "name"), FORMATS)
def test_quantized_formats_are_named(shapes: Layout, name: str):
    """By the header alone; what the layers really have is in tests/quant/test_formats_detect.py."""
    info = facts(shapes, torch.float8_e4m3fn)
    assert name in info.formats and not info.missing
    if name in SUPPORTED:
        require(info, "diffusion_model")
        return
    with pytest.raises(InkstoneError) as caught:
        require(info, "diffusion_model")
    assert f"{name}: not supported yet by this version" in str(caught.value)


def test_formats_from_metadata_config_and_dtype():
    base = mmdit_layout(TINY)
    assert "comfy_quant" in facts(base, metadata={"_quantization_metadata": "{}"}).formats
    config = {
        "_class_name": "QwenImageTransformer2DModel",
        "quantization_config": {"quant_method": "sdnq"},
    }
    assert "sdnq: not supported yet" in facts(base, config=config).problem
    plain = facts(base, torch.float8_e4m3fn)
    assert plain.formats == ("fp8 plain",) and not plain.problem
    assert facts(base, torch.float16).formats == ("fp16",)
    text = renamed(text_layout(TEXT), "model.") | {"scaled_fp8": (0,)}
    scaled = facts(text, torch.float8_e4m3fn)
    assert scaled.formats == ("fp8 scaled",) and not scaled.problem


def wan22() -> Layout:
    shapes = renamed(vae_layout(replace(VAE, z=48)), "", TO_WAN)
    return shapes | {"decoder.upsamples.0.upsamples.0.residual.0.gamma": (1,)}


def sd_vae(z: int, diffusers: bool = False) -> Layout:
    mark = (
        "decoder.mid_block.resnets.0.norm1.weight"
        if diffusers
        else "decoder.mid.block_1.norm1.weight"
    )
    return {mark: (512,), "decoder.conv_in.weight": (512, z, 3, 3)}


QWEN_ATTENTION = "transformer_blocks.0.attn.to_q"


OTHERS = [
    (named("double_blocks.0.img_attn.qkv.weight"), D, "FLUX"),
    (named("model.diffusion_model.double_blocks.0.img_attn.qkv.weight"), D, "FLUX"),
    (named("transformer.single_transformer_blocks.0.attn.to_q.weight"), D, "FLUX"),
    (
        named("model.diffusion_model.joint_blocks.0.x_block.attn.qkv.weight"),
        D,
        "Stable Diffusion 3",
    ),
    (
        named(
            "model.diffusion_model.input_blocks.0.0.weight",
            "model.diffusion_model.label_emb.0.0.weight",
        ),
        D,
        "SDXL",
    ),
    (named("model.diffusion_model.input_blocks.0.0.weight"), D, "Stable Diffusion 1 or 2"),
    (named("blocks.0.self_attn.q.weight", "patch_embedding.weight"), D, "Wan video"),
    (named("controlnet_cond_embedding.conv_in.weight"), C, "Stable Diffusion ControlNet"),
    (named("controlnet_x_embedder.weight"), C, "FLUX ControlNet"),
    (wan22(), V, "Wan 2.2"),
    (vae_layout(replace(VAE, z=64)), V, "Qwen-Image-2.1 VAE"),
    (sd_vae(4), V, "SDXL (4 latent channels)"),
    (sd_vae(16), V, "FLUX or SD 3 (16 latent channels)"),
    (sd_vae(4, diffusers=True), V, "SDXL (4 latent channels)"),
    (text_encoder(width=2048, heads=16, kv_heads=2, ff=11008), T, "Qwen2.5-VL-3B"),
    (named("model.embed_tokens.weight", "model.layers.0.self_attn.q_proj.weight"), T, "Qwen3"),
    (named("text_model.encoder.layers.0.self_attn.q_proj.weight"), T, "CLIP"),
    (named("encoder.block.0.layer.0.SelfAttention.q.weight"), T, "T5"),
    (named("lora_unet_down_blocks_0_attentions_0_proj_in.lora_down.weight"), L, "another model"),
    (
        named(
            "lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn1_to_q.lora_up.weight"
        ),
        L,
        "another model",
    ),
    (
        named(
            f"transformer.{QWEN_ATTENTION}.lora_A.weight",
            "transformer.single_transformer_blocks.0.attn.to_q.lora_A.weight",
        ),
        L,
        "another model",
    ),
]


@pytest.mark.parametrize(("shapes", "role", "words"), OTHERS)
def test_other_models_are_named_and_refused(shapes: Layout, role: str, words: str):
    info = facts(shapes)
    assert info.role == role and words in info.sentence
    with pytest.raises(InkstoneError, match="expected a "):
        require(info, role)


CONTROL = replace(TINY, layers=2)


PLACES = [
    (controlnet_layout(CONTROL), C, "union", "models/controlnet"),
    (controlnet_layout(CONTROL, 68), C, "inpainting", "models/controlnet"),
    (blockwise_layout(3072, 60), C, "blockwise", "models/controlnet"),
    (
        named(
            f"{QWEN_ATTENTION}.lora_A.weight", "transformer_blocks.0.img_mlp.net.2.lora_B.weight"
        ),
        L,
        "",
        "models/loras",
    ),
    (named("lora_unet_transformer_blocks_59_attn_to_q.lora_down.weight"), L, "", "models/loras"),
    (named(f"lycoris_{QWEN_ATTENTION.replace('.', '_')}.lokr_w1"), L, "", "models/loras"),
    (named(f"base_model.model.{QWEN_ATTENTION}.lora_A.default.weight"), L, "", "models/loras"),
    (vae_layout(VAE), V, "qwen-image or wan 2.1 (identical tensors)", "models/vae"),
    (
        renamed(text_layout(TEXT), "model."),
        T,
        "7B, without vision (no edits)",
        "models/text_encoders",
    ),
]


@pytest.mark.parametrize(("shapes", "role", "variant", "folder"), PLACES)
def test_wrong_place_names_the_right_one(shapes: Layout, role: str, variant: str, folder: str):
    info = facts(shapes)
    assert (info.role, info.variant, info.problem) == (role, variant, "")
    require(info, role)
    with pytest.raises(InkstoneError) as caught:
        require(info, D)
    assert f"It belongs in {folder}" in str(caught.value) and "loader" in str(caught.value)


@pytest.mark.parametrize("name", [n for n, (role, _, _) in LORA_NAMES.items() if role == "text"])
def test_lora_for_the_text_encoder_in_every_spelling(name: str):
    if name.endswith(".alpha"):
        name = name.removesuffix("alpha") + "lora_up.weight"
    info = facts({name: (3584, 16)})
    assert (info.role, info.problem) == (L, ""), info.sentence
    assert "text encoder" in info.sentence
    require(info, L)


def test_lora_for_both():
    both = named(
        "lora_unet_transformer_blocks_3_attn_to_q.lora_up.weight",
        "lora_te_layers_3_self_attn_q_proj.lora_up.weight",
    )
    info = facts(both)
    assert (info.role, info.variant, info.problem) == (L, "", "") and "qwen-image" in info.sentence


def test_lora_in_the_old_spelling_of_diffusers():
    info = facts(named("transformer_blocks.45.attn.to_q.lora.down.weight"))
    assert (info.role, info.family, info.problem) == (L, "qwen-image", "")


def test_unknown_file():
    info = facts(named("alpha", "beta"))
    assert info.role == "unknown" and "alpha, beta" in info.sentence
    with pytest.raises(InkstoneError, match="no known kind"):
        require(info, "vae")


@pytest.mark.parametrize("channels", [3, 4])
def test_a_vae_that_enlarges_is_named(channels):
    shapes = vae_layout(VAEConfig(base=8, channels=channels))
    for end in ("weight", "bias"):
        name = f"decoder.conv_out.{end}"
        shapes[name] = (4 * channels, *shapes[name][1:])
    with pytest.raises(InkstoneError) as caught:
        require(facts(shapes), "vae")
    said = str(caught.value)
    assert "twice the size" in said and "qwen_image_vae" in said and "not supported" in said
    assert "ownload" not in said
