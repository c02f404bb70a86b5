"""Every spelling of a LoRA file's names, and alpha wherever a file keeps it."""

import json
from pathlib import Path

import pytest
import torch

from inkstone.errors import InkstoneError
from inkstone.kernels.configs import MMDiTConfig
from inkstone.kernels.lora import Change
from inkstone.kernels.lora_delta import LowRank
from inkstone.loaders.arch.expected_tensors import mmdit_layout
from inkstone.loaders.arch.key_maps_lora import modules, understand
from inkstone.loaders.lora.adapters import Adapter, fit
from inkstone.loaders.lora.file import Lora, load_lora
from inkstone.loaders.lora.layer import LoraLayer

from ...support import lora_files as files
from ...support.oracle import save_file

Q, MLP = "transformer_blocks.7.attn.to_q", "transformer_blocks.59.img_mlp.net.0.proj"
OUT = "proj_out"
NORM = "transformer_blocks.7.attn.norm_added_k"
TE = "layers.3.self_attn.q_proj"
# name in a file -> (role, our layer, part)
NAMES = {
    f"{Q}.lora_A.weight": ("model", Q, "down"),
    f"{Q}.lora_B.weight": ("model", Q, "up"),
    f"{MLP}.lora_down.weight": ("model", MLP, "down"),
    f"{OUT}.lora_up.weight": ("model", OUT, "up"),
    f"{Q}.alpha": ("model", Q, "alpha"),
    f"transformer.{Q}.lora_A.weight": ("model", Q, "down"),
    f"transformer.{Q}.alpha": ("model", Q, "alpha"),
    f"diffusion_model.{Q}.lora_up.weight": ("model", Q, "up"),
    f"model.diffusion_model.{Q}.lora_B.weight": ("model", Q, "up"),
    f"base_model.model.{Q}.lora_A.weight": ("model", Q, "down"),
    f"base_model.model.transformer.{Q}.lora_B.default.weight": ("model", Q, "up"),
    f"{Q}.lora_A.default.weight": ("model", Q, "down"),
    f"{Q}.lora_B.my_style.weight": ("model", Q, "up"),
    f"{Q}.lora_B.default.bias": ("model", Q, "up_bias"),
    f"pipe.dit.{Q}.lora_A.default.weight": ("model", Q, "down"),
    "lora_unet_transformer_blocks_7_attn_to_q.lora_down.weight": ("model", Q, "down"),
    "lora_unet_transformer_blocks_7_attn_to_out_0.lora_up.weight": (
        "model",
        "transformer_blocks.7.attn.to_out.0",
        "up",
    ),
    "lora_unet_transformer_blocks_59_img_mlp_net_0_proj.alpha": ("model", MLP, "alpha"),
    "lora_unet_transformer_blocks_7_attn_to_add_out.alpha": (
        "model",
        "transformer_blocks.7.attn.to_add_out",
        "alpha",
    ),
    "lora_unet_time_text_embed_timestep_embedder_linear_1.lora_down.weight": (
        "model",
        "time_text_embed.timestep_embedder.linear_1",
        "down",
    ),
    "lora_unet_proj_out.lora_up.weight": ("model", OUT, "up"),
    "lora_transformer_transformer_blocks_7_attn_to_q.lora_down.weight": ("model", Q, "down"),
    "lycoris_transformer_blocks_7_attn_to_q.lokr_w1": ("model", Q, "lokr_w1"),
    "lycoris_transformer_blocks_7_attn_to_q.lokr_w2_a": ("model", Q, "lokr_w2_a"),
    "lycoris_transformer_blocks_7_img_mod_1.hada_w1_b": (
        "model",
        "transformer_blocks.7.img_mod.1",
        "hada_w1_b",
    ),
    f"diffusion_model.{Q}.lokr_w2": ("model", Q, "lokr_w2"),
    f"{Q}.hada_w2_a": ("model", Q, "hada_w2_a"),
    f"{Q}.dora_scale": ("model", Q, "magnitude"),
    f"{Q}.lora_magnitude_vector": ("model", Q, "magnitude"),
    f"base_model.model.{Q}.lora_magnitude_vector.default.weight": ("model", Q, "magnitude"),
    f"diffusion_model.{Q}.diff": ("model", Q, "diff"),
    f"diffusion_model.{Q}.diff_b": ("model", Q, "diff_b"),
    f"diffusion_model.{NORM}.diff": ("model", NORM, "diff"),
    f"diffusion_model.{NORM}.w_norm": ("model", NORM, "diff"),
    f"diffusion_model.{Q}.b_norm": ("model", Q, "diff_b"),
    "lora_unet_transformer_blocks_7_attn_norm_added_k.w_norm": ("model", NORM, "diff"),
    "transformer.txt_norm.diff": ("model", "txt_norm", "diff"),
    "text_encoders.qwen25_7b.transformer.model.norm.diff": ("text", "norm", "diff"),
    "text_encoder.model.layers.3.input_layernorm.diff": (
        "text",
        "layers.3.input_layernorm",
        "diff",
    ),
    f"text_encoder.model.language_model.{TE}.lora_A.weight": ("text", TE, "down"),
    f"text_encoder.model.{TE}.lora_B.weight": ("text", TE, "up"),
    f"text_encoder.{TE}.lora_down.weight": ("text", TE, "down"),
    f"text_encoders.qwen25_7b.transformer.model.{TE}.lora_up.weight": ("text", TE, "up"),
    f"base_model.model.model.{TE}.lora_A.weight": ("text", TE, "down"),
    "lora_te_layers_3_self_attn_q_proj.lora_down.weight": ("text", TE, "down"),
    "lora_te1_model_layers_3_self_attn_q_proj.alpha": ("text", TE, "alpha"),
    "lora_te_model_language_model_layers_3_mlp_gate_proj.lora_up.weight": (
        "text",
        "layers.3.mlp.gate_proj",
        "up",
    ),
    "lycoris_model_layers_3_self_attn_q_proj.lokr_w1": ("text", TE, "lokr_w1"),
}
# part of a LoRA, of no layer of ours
STRANGE = (
    "lora_unet_down_blocks_0_attentions_0_proj_in.lora_down.weight",
    "transformer.single_transformer_blocks.0.attn.to_q.lora_A.weight",
    "lora_te_text_model_encoder_layers_0_self_attn_q_proj.lora_down.weight",
    "transformer_blocks.0.attn.norm_x.diff",
    "visual.blocks.0.attn.qkv.lora_A.weight",
)
NO_PART = ("transformer_blocks.0.attn.to_q.weight", "lora_A.weight", "proj_out.bias", "alpha")


@pytest.mark.parametrize("name", NAMES)
def test_name(name):
    got = understand(name)
    assert (got.role, *got.ours, got.part) == NAMES[name]


def test_names_that_are_none_of_ours():
    assert all(understand(name).ours == () for name in STRANGE)
    assert all(understand(name) is None for name in NO_PART)
    qkv = understand("diffusion_model.transformer_blocks.4.attn.to_qkv.lora_up.weight")
    assert qkv.ours == tuple(f"transformer_blocks.4.attn.to_{x}" for x in "qkv")


@pytest.mark.parametrize("role", ["model", "text"])
def test_flat_names_do_not_collide(role):
    assert len({name.replace(".", "_") for name in modules(role)}) == len(modules(role))


SPELLINGS = {
    "bare": (lambda m: m, "lora_A.weight", "lora_B.weight"),
    "transformer.": (lambda m: f"transformer.{m}", "lora_A.weight", "lora_B.weight"),
    "diffusion_model.": (lambda m: f"diffusion_model.{m}", "lora_down.weight", "lora_up.weight"),
    "model.diffusion_model.": (
        lambda m: f"model.diffusion_model.{m}",
        "lora_A.weight",
        "lora_B.weight",
    ),
    "PEFT": (lambda m: f"base_model.model.{m}", "lora_A.default.weight", "lora_B.default.weight"),
    "kohya": (lambda m: "lora_unet_" + m.replace(".", "_"), "lora_down.weight", "lora_up.weight"),
    "LyCORIS": (lambda m: "lycoris_" + m.replace(".", "_"), "lora_down.weight", "lora_up.weight"),
}


@pytest.mark.slow
@pytest.mark.parametrize("spelling", SPELLINGS)
def test_every_spelling_reaches_every_layer(spelling, tmp_path):
    rename, down, up = SPELLINGS[spelling]
    torch.manual_seed(1)
    tensors = {}
    for module, (n, k) in files.SHAPES.items():
        tensors[f"{rename(module)}.{down}"] = torch.randn(2, k)
        tensors[f"{rename(module)}.{up}"] = torch.randn(n, 2)
    save_file(tensors, tmp_path / "l.safetensors")
    lora = load_lora(tmp_path / "l.safetensors")
    assert lora.model.keys() == files.SHAPES.keys() and not lora.unknown_modules and not lora.text
    for module, layer in lora.model.items():
        delta = layer.change.delta
        assert torch.equal(delta.down, tensors[f"{rename(module)}.{down}"])
        assert torch.equal(delta.up, tensors[f"{rename(module)}.{up}"]) and delta.scale == 1


NAME = "transformer_blocks.0.attn.to_q"
OTHER = "transformer_blocks.1.img_mlp.net.2"
PEFT = {"r": 4, "lora_alpha": 8}
# (metadata, own alpha or None) -> scale of NAME, of OTHER; rank is 4
ALPHAS = {
    "nothing": ({}, None, 1.0, 1.0),
    "tensor": ({}, 2.0, 0.5, 1.0),
    "diffusers": ({f"transformer.{k}": v for k, v in PEFT.items()}, None, 2.0, 2.0),
    "tensor wins": ({f"transformer.{k}": v for k, v in PEFT.items()}, 2.0, 0.5, 2.0),
    "PEFT": (PEFT, None, 2.0, 2.0),
    "float alpha": ({"r": 4, "lora_alpha": 6.0}, None, 1.5, 1.5),
    "alpha of one layer": (PEFT | {"alpha_pattern": {"img_mlp.net.2": 16}}, None, 2.0, 4.0),
    "a whole name": (PEFT | {"alpha_pattern": {"^" + NAME: 2}}, None, 0.5, 2.0),
    "rsLoRA": (PEFT | {"use_rslora": True}, None, 4.0, 4.0),
    "another rank": (PEFT | {"r": 16}, None, 1.0, 1.0),
    "ranks of layers": (PEFT | {"r": 16, "rank_pattern": {"to_(q|k)": 4}}, None, 2.0, 2.0),
    "text encoder's": ({f"text_encoder.{k}": v for k, v in PEFT.items()}, None, 1.0, 1.0),
}


def two_layers(alpha=None):
    tensors = {}
    for module, (n, k) in ((NAME, (32, 32)), (OTHER, (32, 128))):
        tensors[f"{module}.lora_A.weight"] = torch.ones(4, k)
        tensors[f"{module}.lora_B.weight"] = torch.ones(n, 4)
    return tensors | ({} if alpha is None else {f"{NAME}.alpha": torch.tensor(alpha)})


def scales(path):
    lora = load_lora(path)
    return [lora.model[m].change.delta.scale for m in (NAME, OTHER)]


@pytest.mark.parametrize("case", ALPHAS)
def test_alpha(case, tmp_path):
    adapter_metadata, alpha, *want = ALPHAS[case]
    metadata = {"lora_adapter_metadata": json.dumps(adapter_metadata)} if adapter_metadata else None
    save_file(two_layers(alpha), tmp_path / "l.safetensors", metadata)
    assert scales(tmp_path / "l.safetensors") == want


@pytest.mark.parametrize("key", ["ss_network_alpha", "lora_alpha", "network_alpha", "alpha"])
@pytest.mark.parametrize("value", ["2.0", "None", "many"])
def test_notes_of_a_training_run_do_not_change_the_strength(key, value, tmp_path):
    """Converters multiply alpha into the factors and keep the notes."""
    path = tmp_path / "l.safetensors"
    save_file(two_layers(), path, {key: value, "ss_network_dim": "4"})
    assert scales(path) == [1.0, 1.0]
    save_file(two_layers(alpha=2.0), tmp_path / "own.safetensors", {key: value})
    assert scales(tmp_path / "own.safetensors") == [0.5, 1.0]


def test_alpha_of_a_peft_folder(tmp_path):
    folder = tmp_path / "peft"
    folder.mkdir()
    (folder / "adapter_config.json").write_text(json.dumps(PEFT | {"peft_type": "LORA"}))
    save_file(two_layers(), folder / "adapter_model.safetensors")
    assert scales(folder / "adapter_model.safetensors") == [2.0, 2.0]
    save_file(two_layers(), folder / "second.safetensors")
    assert scales(folder / "second.safetensors") == [1.0, 1.0], "whose config it is, is not known"


@pytest.mark.parametrize(
    "metadata, words",
    [
        ({"lora_adapter_metadata": "{"}, "not JSON"),
        ({"lora_adapter_metadata": "[" * 10**5}, "cannot be read"),
        ({"lora_adapter_metadata": json.dumps({"r": 4, "lora_alpha": "x"})}, "lora_alpha = 'x'"),
        ({"lora_adapter_metadata": json.dumps({"r": 4, "alpha_pattern": 3})}, "alpha_pattern"),
        (
            {"lora_adapter_metadata": json.dumps({"r": 4, "alpha_pattern": {"to_(q|k)": 3}})},
            "regular expression",
        ),
        ({"lora_adapter_metadata": '{"r": 4, "lora_alpha": NaN}'}, "expected a number"),
        ({"lora_adapter_metadata": json.dumps({"r": "many"})}, "r = 'many'"),
    ],
)
def test_invalid_metadata_is_reported(metadata, words, tmp_path):
    save_file(two_layers(), tmp_path / "l.safetensors", metadata)
    with pytest.raises(InkstoneError) as caught:
        load_lora(tmp_path / "l.safetensors")
    assert words in str(caught.value) and "l.safetensors" in str(caught.value)


def test_types_of_a_file_stay(tmp_path):
    """fp16, bf16 and fp8 files; 8 bits become bfloat16, which holds every value of them."""
    for kind, want in ((torch.float16, torch.float16), (torch.float8_e4m3fn, torch.bfloat16)):
        path = tmp_path / f"{kind}.safetensors"
        save_file({n: t.to(kind) for n, t in two_layers().items()}, path)
        assert load_lora(path).model[NAME].change.delta.down.dtype == want


def test_the_published_lightning_file_on_the_published_model(caplog):
    """720 modules of 60 blocks, without storage."""
    layout = mmdit_layout(MMDiTConfig())
    layers = {}
    for name in (n[:-7] for n in layout if n.endswith(".weight") and "blocks." in n):
        if "norm" in name or "_mod" in name:
            continue
        n, k = layout[f"{name}.weight"]
        down, up = torch.empty(64, k, device="meta"), torch.empty(n, 64, device="meta")
        layers[name] = LoraLayer(Change(LowRank(down, up)), "LoRA", (n, k), 64, 64.0)
    with caplog.at_level("INFO"):
        fitted = fit(Adapter(Lora(Path("l.safetensors"), layers, {})), "model", layout)
    assert fitted.sentence() == "720 of 720 modules, rank 64, alpha 64, strength 1"
    assert caplog.messages == [f"LoRA l.safetensors: {fitted.sentence()}"]


ELIGEN = (  # the layers that DiffSynth-Studio's training of EliGen for Qwen-Image names
    "attn.to_q attn.to_k attn.to_v attn.add_q_proj attn.add_k_proj attn.add_v_proj attn.to_out.0 "
    "attn.to_add_out img_mlp.net.2 img_mod.1 txt_mlp.net.2 txt_mod.1"
).split()


def test_a_file_with_the_names_of_eligen_reaches_all_its_layers(tmp_path):
    """The names of the published file, on all 60 blocks of a narrow network."""
    layout = mmdit_layout(MMDiTConfig(heads=1, head_dim=8, joint=12, ff=16, axes=(2, 2, 4)))
    tensors = {}
    for name in (f"transformer_blocks.{block}.{layer}" for block in range(60) for layer in ELIGEN):
        n, k = layout[f"{name}.weight"]
        tensors[f"{name}.lora_A.default.weight"] = torch.randn(2, k)
        tensors[f"{name}.lora_B.default.weight"] = torch.randn(n, 2)
    assert len(tensors) == 2 * 720
    save_file(tensors, tmp_path / "model.safetensors")
    lora = load_lora(tmp_path / "model.safetensors")
    assert not lora.unknown_modules and not lora.text and lora.distilled is None
    fitted = fit(Adapter(lora), "model", layout)
    assert fitted.sentence() == "720 of 720 modules, rank 2, no alpha (factor 1), strength 1"
