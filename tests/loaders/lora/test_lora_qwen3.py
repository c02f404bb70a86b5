"""LoRAs on Qwen3-VL, the text encoder of Qwen-Image-2.1, against PEFT and merged weights."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from inkstone.loaders.arch.family import EDIT_21
from inkstone.loaders.lora.adapters import Adapter
from inkstone.loaders.lora.file import load_lora
from inkstone.loaders.models.load import load_text_encoder

from ...support.oracle import library, measured, relative, save_file
from ...support.vision import image, save_encoder
from ...support.vision_deep import encode_21, pipeline_21, random_qwen3

peft = library("peft")
TARGETS = ["q_proj", "k_proj", "o_proj", "up_proj", "down_proj"]


@pytest.fixture
def encoder(tmp_path):
    model = random_qwen3()
    return SimpleNamespace(
        theirs=model, ours=load_text_encoder(save_encoder(model, tmp_path / "folder"))
    )


def states_of(model, picture):
    """Text rows of an edit by the pipeline, and where its head ends."""
    pipe = pipeline_21(model)
    want, _, pads = encode_21(pipe, "a red cat", [picture])
    return want[:, ~pads[0]], pipe._drop_idx


@pytest.mark.parametrize("start", ["text_encoder.model.language_model.", "text_encoder."])
def test_states_are_those_of_peft(encoder, tmp_path, start):
    """Every layer, in a prompt with a picture: the deeper levels are added behind the branches."""
    theirs, own = image(64, 96)
    plain, drop = states_of(encoder.theirs, theirs)
    torch.manual_seed(10)
    config = peft.LoraConfig(target_modules=TARGETS, r=4, lora_alpha=6)
    net = peft.get_peft_model(encoder.theirs.model.language_model, config)
    with torch.no_grad():
        for name, p in net.named_parameters():
            if "lora_" in name:
                p.copy_(torch.randn_like(p) * 0.5 * p.shape[-1] ** -0.5)
    state = peft.get_peft_model_state_dict(net)
    tensors = {n.replace("base_model.model.", start): t for n, t in state.items()}
    tensors |= {n.split(".lora_")[0] + ".alpha": torch.tensor(6.0) for n in tensors}
    save_file(tensors, tmp_path / "te.safetensors")
    text = encoder.ours.with_loras([Adapter(load_lora(tmp_path / "te.safetensors"))])
    assert [len(f.layers) for f in text.adapters] == [len(TARGETS) * 4]
    want, _ = states_of(encoder.theirs, theirs)
    got = text.encode_edit("a red cat", [own], replace(EDIT_21, drop=drop)).states
    error, effect = measured(got, want), relative(plain, want)
    assert error < 1e-5 and effect > 0.02, f"error {error:.2e}, effect {effect:.2e}"


def test_differences_of_norms_of_heads(encoder, tmp_path):
    """Equal to the norm with the difference added."""
    torch.manual_seed(3)
    names = [f"layers.{n}.self_attn.{x}_norm" for n in range(4) for x in "qk"]
    changes = {name: torch.randn(16) * 0.3 for name in names}
    save_file({f"text_encoder.{n}.diff": t for n, t in changes.items()}, tmp_path / "n.safetensors")
    text = encoder.ours.with_loras([Adapter(load_lora(tmp_path / "n.safetensors"))])
    got, plain = text.encode("a cat").states, encoder.ours.encode("a cat").states
    with torch.no_grad():
        for name, change in changes.items():
            encoder.ours.network.get_submodule(name).weight += change
    want = encoder.ours.with_loras([]).encode("a cat").states
    error, effect = measured(got, want), relative(plain, want)
    assert error < 1e-5 and effect > 0.01, f"error {error:.2e}, effect {effect:.2e}"
