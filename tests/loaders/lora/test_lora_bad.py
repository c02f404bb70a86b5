"""Damaged LoRA files and files for other models: each is a sentence that names thing and remedy."""

import pytest
import torch

from inkstone.errors import InkstoneError
from inkstone.loaders.lora.adapters import Adapter, parse_blocks
from inkstone.loaders.lora.file import load_lora
from inkstone.loaders.models.load import load_diffusion_model

from ...support import lora_files as files
from ...support.oracle import save_file

Q = "transformer_blocks.1.attn.to_q"
MLP = "transformer_blocks.1.txt_mlp.net.0.proj"


def good():
    torch.manual_seed(1)
    layers = {m: files.low_rank(torch.empty(files.SHAPES[m])) for m in (Q, MLP)}
    return {f"{m}.{end}": t for m, parts in layers.items() for end, t in parts.items()}


def put(**changes):
    """The good file with tensors of Q by the ends of their names; None takes one away."""
    ends = {"down": "lora_down.weight", "up": "lora_up.weight"}
    tensors = good()
    for end, value in changes.items():
        name = f"{Q}.{ends.get(end, end)}"
        tensors.pop(name, None)
        if value is not None:
            tensors[name] = value
    return tensors


def only(**parts):
    return {f"{Q}.{end}": t for end, t in parts.items()}


NAN, R = float("nan"), torch.randn
DAMAGED = {
    "NaN in down": (put(down=R(4, 32).fill_(NAN)), "to_q.lora_down.weight contains NaN"),
    "infinity in up": (put(up=torch.full((32, 4), float("inf"))), "lora_up.weight contains NaN or"),
    "NaN alpha": (put(alpha=torch.tensor(NAN)), "to_q.alpha contains NaN"),
    "ranks differ": (put(up=R(32, 5)), "ranks differ: transformer_blocks.1.attn.to_q.lora_up"),
    "up is turned": (put(up=R(4, 32)), "ranks differ"),
    "no up": (put(up=None), "its other half (up) is missing"),
    "no down": (put(down=None), "its other half (down) is missing"),
    "alpha alone": (put(up=None, down=None), "to_q.alpha is there without its matrices"),
    "alpha of two numbers": (put(alpha=torch.ones(2)), "to_q.alpha has shape [2], expected one"),
    "down of rank 3": (put(down=R(4, 32, 3)), "has shape [4, 32, 3], expected a matrix"),
    "empty down": (put(down=R(0, 32)), "has shape [0, 32], expected a matrix"),
    "integers": (put(down=torch.ones(4, 32, dtype=torch.int8)), "torch.int8, expected floats"),
    "DoRA of a wrong size": (put(dora_scale=R(31, 1)), "has shape [31, 1], expected [32]"),
    "DoRA alone": (only(dora_scale=R(32, 1)), "is there without its matrices"),
    "a bias of a wrong size": (put(diff_b=R(31)), "diff_b has 31 elements, expected 32"),
    "LoRA and diff": (put(diff=R(32, 32)), "to_q.diff does not fit the other tensors"),
    "LoKr without w2": (only(lokr_w1=R(2, 2)), "its other half (lokr_w2_a) is missing"),
    "LoKr twice": (
        only(lokr_w1=R(2, 2), lokr_w1_a=R(2, 1), lokr_w2=R(16, 16)),
        "lokr_w1_a does not fit the other",
    ),
    "LoKr with wrong ranks": (
        only(lokr_w1=R(2, 2), lokr_w2_a=R(16, 3), lokr_w2_b=R(4, 16)),
        "ranks differ",
    ),
    "LoHa of two shapes": (
        only(hada_w1_a=R(32, 2), hada_w1_b=R(2, 32), hada_w2_a=R(32, 2), hada_w2_b=R(2, 16)),
        "[32, 32] and [32, 16], expected the same",
    ),
    "LoHa without a factor": (
        only(hada_w1_a=R(32, 2), hada_w1_b=R(2, 32), hada_w2_a=R(32, 2)),
        "its other half (hada_w2_b) is missing",
    ),
    "a convolution": (put(**{"lora_mid.weight": R(4, 4, 3, 3)}), "factor of a convolution"),
    "Tucker LoKr": (put(lokr_t2=R(4, 4, 3, 3)), "which Qwen-Image does not have"),
    "a whole weight": (only(set_weight=R(32, 32)), "a whole weight in place of the model's"),
    "OFT": (only(oft_blocks=R(4, 8, 8)), "an orthogonal turn of the weight"),
    "two adapters": (put(**{"lora_A.one.weight": R(4, 32)}), "the file holds two adapters"),
    "a fused LoKr": (
        {
            "transformer_blocks.1.attn.to_qkv.lokr_w1": R(2, 2),
            "transformer_blocks.1.attn.to_qkv.lokr_w2": R(48, 16),
        },
        "whose rows this LoKr does not have one by one",
    ),
    "a fused LoRA of 95 rows": (
        {
            "transformer_blocks.1.attn.to_qkv.lora_A.weight": R(2, 32),
            "transformer_blocks.1.attn.to_qkv.lora_B.weight": R(95, 2),
        },
        "cannot be split into 3",
    ),
    "an empty file": ({}, "expected a LoRA of Qwen-Image"),
}


@pytest.mark.parametrize("what", DAMAGED)
def test_damage_is_reported(what, tmp_path):
    tensors, words = DAMAGED[what]
    path = tmp_path / "l.safetensors"
    save_file(tensors, path)
    with pytest.raises(InkstoneError) as caught:
        load_lora(path)
    assert words in str(caught.value) and str(path) in str(caught.value), str(caught.value)
    assert "\n" not in str(caught.value) and str(caught.value).endswith(".")


def pairs(*modules, down="lora_A.weight", up="lora_B.weight", k=32):
    shapes = {down: (4, k), up: (k, 4)}
    return {f"{m}.{end}": R(*shape) for m in modules for end, shape in shapes.items()}


KOHYA = dict(down="lora_down.weight", up="lora_up.weight")
# files for other models -> (tensors, what the message calls it)
FOREIGN = {
    "FLUX, diffusers": (
        pairs(
            "transformer.transformer_blocks.0.attn.to_q",
            "transformer.single_transformer_blocks.3.attn.to_q",
        ),
        "FLUX",
    ),
    "FLUX, kohya": (pairs("lora_unet_double_blocks_0_img_attn_qkv", **KOHYA), "FLUX"),
    "SDXL": (
        pairs(
            "lora_unet_input_blocks_4_1_proj_in",
            "lora_te2_text_model_encoder_layers_0_self_attn_q_proj",
            **KOHYA,
        ),
        "SDXL",
    ),
    "SD 1": (pairs("lora_unet_down_blocks_0_attentions_0_proj_in", **KOHYA), "Stable Diffusion"),
    "SD 3": (
        pairs(
            "transformer.transformer_blocks.0.attn.to_q",
            "transformer.transformer_blocks.0.ff.net.0.proj",
        ),
        "Stable Diffusion 3",
    ),
    "Wan": (pairs("diffusion_model.blocks.0.self_attn.q"), "Wan video"),
    "Z-Image": (pairs("diffusion_model.layers.0.attention.to_q"), "Z-Image"),
    "LTX": (pairs("diffusion_model.transformer_blocks.0.attn1.to_q"), "LTX-Video"),
    "CLIP": (pairs("lora_te_text_model_encoder_layers_0_mlp_fc1", **KOHYA), "a CLIP text encoder"),
    "nobody knows": (pairs("something.else"), "its names are of no known model"),
}


@pytest.mark.parametrize("what", FOREIGN)
def test_other_models_are_named(what, tmp_path):
    tensors, words = FOREIGN[what]
    path = tmp_path / "l.safetensors"
    save_file(tensors, path)
    with pytest.raises(InkstoneError) as caught:
        load_lora(path)
    text = str(caught.value)
    assert words in text and text.startswith(f"{path}: 0 of ") and "Choose a LoRA" in text, text


def test_no_lora_at_all_is_reported(tmp_path):
    model = files.write_model(tmp_path / "m", files.random_state())
    path = model / "diffusion_pytorch_model.safetensors"
    with pytest.raises(InkstoneError, match="a LoRA of Qwen-Image, got: Qwen-Image diffusion"):
        load_lora(path)
    with pytest.raises(InkstoneError, match="does not exist"):
        load_lora(tmp_path / "nothing.safetensors")
    pickle = tmp_path / "l.safetensors"
    torch.save({"a": 1}, pickle)
    with pytest.raises(InkstoneError, match="pickled"):
        load_lora(pickle)


def test_a_lora_for_another_size_is_refused(tmp_path):
    """Nothing fits: an error; something fits: the rest is reported with both shapes."""
    model = load_diffusion_model(files.write_model(tmp_path / "m", files.random_state()))
    wide, path = pairs(Q, f"{Q[:-1]}k", k=48), tmp_path / "l.safetensors"
    save_file(wide, path)
    with pytest.raises(InkstoneError) as caught:
        model.with_loras([Adapter(load_lora(path))])
    assert "0 of 2 modules of this LoRA fit the diffusion model" in str(caught.value)
    assert "made for [48, 48], here [32, 32]" in str(caught.value)
    save_file(wide | pairs(f"{Q[:-1]}v"), path)
    adapted = model.with_loras([Adapter(load_lora(path))])
    assert len(adapted.adapters[0].misses) == 2 and adapted.adapters[0].layers.keys() == {
        f"{Q[:-1]}v"
    }


@pytest.mark.parametrize("strength", [float("nan"), float("inf"), 101, -1e9])
def test_senseless_strengths(strength, tmp_path):
    save_file(good(), tmp_path / "l.safetensors")
    with pytest.raises(InkstoneError, match="strength of LoRA l.safetensors is"):
        Adapter(load_lora(tmp_path / "l.safetensors"), strength)


@pytest.mark.parametrize("spec", ["x", "0-19", "19-0:1", "0-19:x", "0-19:1;20:1", "1:2:3", "-1:2"])
def test_senseless_blocks(spec):
    with pytest.raises(InkstoneError, match="0-19:0.5,20-59:1.0"):
        parse_blocks(spec)
