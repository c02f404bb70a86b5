"""Layouts and key maps against the reference classes, on the meta device."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from inkstone.kernels.configs import QWEN_IMAGE_21
from inkstone.loaders.arch.expected_tensors import (
    Layout,
    controlnet_layout,
    joined_layout,
    mmdit_layout,
    single_stream_layout,
    text_layout,
    vision_layout,
)
from inkstone.loaders.arch.expected_tensors_vae import vae_layout
from inkstone.loaders.arch.key_maps import text_names
from inkstone.loaders.arch.key_maps_vae import VAE_PREFIXES, vae_names

from ..support.headers import MMDIT, TEXT, TEXT_SIZES, TO_WAN, VAE, VISION, facts, renamed


def total(shapes: Layout) -> int:
    return sum(math.prod(shape) for shape in shapes.values())


def fused_layout() -> Layout:
    """Qwen-Image-2.1 in the spelling of ComfyUI's and GGUF files."""
    layout = single_stream_layout(QWEN_IMAGE_21)
    parts = {
        f"transformer_blocks.{i}.img_mlp.gate_up.weight": tuple(
            f"transformer_blocks.{i}.img_mlp.{part}.weight" for part in ("gate_layer", "proj")
        )
        for i in range(QWEN_IMAGE_21.layers)
    }
    return joined_layout(layout, parts)


COUNTS = [
    (mmdit_layout(MMDIT), 1933, 20_430_401_088),
    (mmdit_layout(MMDIT, layered=True), 1934, 20_430_407_232),
    (single_stream_layout(QWEN_IMAGE_21), 297, 7_115_124_736),
    (fused_layout(), 265, 7_115_124_736),
    (vae_layout(VAE), 194, 126_892_531),
    (vae_layout(replace(VAE, channels=4)), 194, 126_897_716),
    (text_layout(TEXT), 338, 7_070_619_136),
    (vision_layout(VISION), 390, 676_550_144),
    (text_layout(TEXT, VISION, lm_head=True), 729, 8_292_166_656),
    (controlnet_layout(replace(MMDIT, layers=5)), 181, 1_768_003_584),
    (controlnet_layout(replace(MMDIT, layers=6), 68), 215, 2_117_287_424),
]


@pytest.mark.parametrize(("shapes", "tensors", "parameters"), COUNTS)
def test_published_counts(shapes: Layout, tensors: int, parameters: int):
    assert (len(shapes), total(shapes)) == (tensors, parameters)


def shapes_of(module: torch.nn.Module) -> Layout:
    return {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}


def test_mmdit_layout_is_the_reference():
    diffusers = pytest.importorskip("diffusers")
    with torch.device("meta"):
        base = diffusers.QwenImageTransformer2DModel()
        layered = diffusers.QwenImageTransformer2DModel(
            num_layers=3, use_additional_t_cond=True, use_layer3d_rope=True
        )
    assert mmdit_layout(MMDIT) == shapes_of(base)
    three = replace(MMDIT, layers=3)
    assert mmdit_layout(three, layered=True) == shapes_of(layered)


def test_single_stream_layout_is_the_reference():
    diffusers = pytest.importorskip("diffusers")
    with torch.device("meta"):
        reference = diffusers.QwenImage21Transformer2DModel()
    assert single_stream_layout(QWEN_IMAGE_21) == shapes_of(reference)


@pytest.mark.parametrize(
    "prefix", ["", "model.diffusion_model.", "diffusion_model.", "transformer."]
)
def test_single_stream_files_are_recognised(prefix: str):
    for layout in (single_stream_layout(QWEN_IMAGE_21), fused_layout()):
        info = facts({prefix + name: shape for name, shape in layout.items()})
        assert (info.role, info.family) == ("diffusion_model", "qwen-image-2.1")
        assert not (info.problem or info.missing or info.unexpected), info.sentence
        assert info.parameters == 7_115_124_736 and info.layers == 32
        numbers = {"layers", "channels", "joint", "heads", "head_dim", "ff"}
        assert info.config == {n: getattr(QWEN_IMAGE_21, n) for n in numbers}


@pytest.mark.parametrize("extra", [0, 4])
def test_controlnet_layout_is_the_reference(extra: int):
    diffusers = pytest.importorskip("diffusers")
    with torch.device("meta"):
        net = diffusers.QwenImageControlNetModel(num_layers=2, extra_condition_channels=extra)
    two = replace(MMDIT, layers=2)
    assert controlnet_layout(two, 64 + extra) == shapes_of(net)


@pytest.mark.parametrize(("base", "channels"), [(96, 3), (96, 4), (8, 3)])
def test_vae_layout_is_the_reference(base: int, channels: int):
    diffusers = pytest.importorskip("diffusers")
    with torch.device("meta"):
        vae = diffusers.AutoencoderKLQwenImage(base_dim=base, input_channels=channels)
    config = replace(VAE, base=base, channels=channels)
    assert vae_layout(config) == shapes_of(vae)


def test_text_layout_is_the_reference():
    transformers = pytest.importorskip("transformers")
    config = transformers.Qwen2_5_VLConfig(
        text_config={
            "hidden_size": 3584,
            "intermediate_size": 18944,
            "num_hidden_layers": 28,
            "num_attention_heads": 28,
            "num_key_value_heads": 4,
            "vocab_size": 152064,
        },
        vision_config={
            "depth": 32,
            "hidden_size": 1280,
            "intermediate_size": 3420,
            "num_heads": 16,
            "out_hidden_size": 3584,
        },
    )
    with torch.device("meta"):
        net = transformers.Qwen2_5_VLForConditionalGeneration(config)
    file = shapes_of(net)
    names = text_names(file)
    assert {ours: file[n] for ours, n in names.table.items()} == text_layout(TEXT, VISION)
    assert names.unused == ("lm_head.weight",) and not names.others
    info = facts(file)
    assert (info.role, info.variant, info.layout) == (
        "text_encoder",
        "7B, with vision",
        "transformers",
    )
    assert not (info.problem or info.missing or info.unexpected)
    assert info.config == TEXT_SIZES


@pytest.mark.parametrize("prefix", VAE_PREFIXES)
def test_wan_names_map_one_to_one(prefix: str):
    wanted = vae_layout(VAE)
    names = vae_names(renamed(wanted, prefix, TO_WAN))
    assert names.layout == "wan" and names.prefix == prefix and not names.others
    assert len(names.table) == 186 and len(names.unused) == 8
    assert all(".time_conv." in name for name in names.unused)
    assert {ours: prefix + TO_WAN[ours] for ours in names.table} == names.table
    assert set(names.table) == {name for name in wanted if ".time_conv." not in name}
    samples = {  # facts of the sheet, not of our table
        "encoder.conv1.weight": "encoder.conv_in.weight",
        "conv1.bias": "quant_conv.bias",
        "encoder.downsamples.3.shortcut.weight": "encoder.down_blocks.3.conv_shortcut.weight",
        "encoder.middle.2.residual.6.bias": "encoder.mid_block.resnets.1.conv2.bias",
        "decoder.upsamples.4.residual.2.weight": "decoder.up_blocks.1.resnets.0.conv1.weight",
        "decoder.upsamples.11.resample.1.bias": "decoder.up_blocks.2.upsamplers.0.resample.1.bias",
        "decoder.head.0.gamma": "decoder.norm_out.gamma",
        "conv2.weight": "post_quant_conv.weight",
        "decoder.middle.1.to_qkv.weight": "decoder.mid_block.attentions.0.to_qkv.weight",
    }
    for wan, ours in samples.items():
        assert names.table[ours] == prefix + wan


TEXT_STARTS = {
    "transformers": ("model.language_model.", "model.visual."),
    "old transformers": ("model.", "visual."),
    "language_model.model": ("language_model.model.", "visual."),
    "headless transformers": ("language_model.", "visual."),
    "plain": ("", "visual."),
}


@pytest.mark.parametrize("prefix", ["", "text_encoders.qwen25_7b.transformer."])
@pytest.mark.parametrize("kind", TEXT_STARTS)
def test_text_layouts(kind: str, prefix: str):
    ours = text_layout(TEXT, VISION)
    model, visual = (prefix + start for start in TEXT_STARTS[kind])
    file = {n: visual + n[7:] if n.startswith("visual.") else model + n for n in ours}
    names = text_names([*file.values(), prefix + "lm_head.weight"])
    assert names.layout == kind and names.prefix == prefix and names.table == file
    assert names.unused == (prefix + "lm_head.weight",) and not names.others
