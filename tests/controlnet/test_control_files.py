"""Files of Blockwise and Fun controls: published counts, damaged ones, those of other models."""

from __future__ import annotations

import math

import pytest
import torch

from inkstone.errors import InkstoneError
from inkstone.kernels.configs import MMDiTConfig
from inkstone.loaders.arch import expected_tensors
from inkstone.loaders.formats.safetensors import save_safetensors
from inkstone.loaders.models.control import load_control

from ..support.control_kinds import random_control
from .test_control_kinds import KINDS, SHAPE


def refused(tmp_path, tensors, words):
    path = tmp_path / "control.safetensors"
    save_safetensors(path, tensors, {})
    with pytest.raises(InkstoneError, match=words):
        load_control(path)


def test_wrong_files_are_refused(tmp_path):
    nets = {kind: random_control(kind, SHAPE, layers) for kind, layers in KINDS.items()}
    state = {k: {n: v.contiguous() for n, v in nets[k].state_dict().items()} for k in nets}
    cut = {n: v for n, v in state["canny"].items() if "3.output_proj" not in n}
    refused(tmp_path, cut, "2 tensors are missing.*controlnet_blocks.3.output_proj")
    extra = state["canny"] | {"controlnet_blocks.0.gate": torch.zeros(4)}
    refused(tmp_path, extra, "controlnet_blocks.0.gate")
    wide = state["canny"] | {"img_in.weight": torch.zeros(64, 72)}
    refused(tmp_path, wide, "72 features per token.*kind that this version does not have")
    other = state["fun"] | {"control_img_in.weight": torch.zeros(64, 129)}
    refused(tmp_path, other, "129 features per token, expected 132.*Qwen-Image-2512, or")
    some = state["fun"] | {"control_img_in.weight": torch.zeros(64, 128)}
    refused(tmp_path, some, "128 features per token, expected 132")
    fewer = {n: v for n, v in state["fun"].items() if "1.after_proj" not in n}
    refused(tmp_path, fewer, "missing.*controlnet_blocks.1.weight")


FOREIGN = {
    "a FLUX ControlNet": (
        "controlnet_x_embedder.weight",
        "transformer_blocks.0.attn.to_q.weight",
        "single_transformer_blocks.0.attn.to_q.weight",
    ),
    "a Stable Diffusion 3 ControlNet": (
        "controlnet_blocks.0.weight",
        "pos_embed_input.proj.weight",
        "pos_embed.proj.weight",
        "transformer_blocks.0.attn.add_k_proj.weight",
    ),
    "a Stable Diffusion ControlNet": ("control_model.input_hint_block.0.weight",),
    "a Stable Diffusion control LoRA": ("lora_controlnet", "input_hint_block.0.weight"),
    "a T2I-Adapter": ("adapter.body.0.resnets.0.block1.weight",),
    "a Z-Image ControlNet": ("control_all_x_embedder.2-1.weight",),
}


@pytest.mark.parametrize("words", FOREIGN)
def test_controls_for_other_models_are_refused_by_name(tmp_path, words):
    refused(tmp_path, {name: torch.zeros(4, 4) for name in FOREIGN[words]}, f"it is {words}")


def test_the_published_files_have_these_counts():
    """Tensors and parameters of the files on the hub, by our layouts at full size."""
    config = MMDiTConfig(layers=5, heads=24, head_dim=128, ff=12288, joint=3072)
    for layout, want in (
        (expected_tensors.blockwise_layout(3072, 60), (362, 1_133_399_040)),
        (expected_tensors.blockwise_layout(3072, 60, 68), (362, 1_133_411_328)),
        (expected_tensors.fun_layout(config), (174, 1_756_206_592)),
    ):
        assert (len(layout), sum(map(math.prod, layout.values()))) == want
