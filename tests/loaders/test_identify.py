"""Facts about our own models, from headers, files and folders."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from inkstone.errors import InkstoneError
from inkstone.kernels.configs import MMDiTConfig, VisionConfig
from inkstone.loaders.arch.expected_tensors import Layout, mmdit_layout, text_layout, vision_layout
from inkstone.loaders.arch.expected_tensors_vae import vae_layout
from inkstone.loaders.arch.identify import identify, require
from inkstone.loaders.arch.key_maps import MMDIT_PREFIXES, MMDIT_UNREAD, mmdit_names, text_names
from inkstone.loaders.arch.key_maps_vae import vae_names
from inkstone.loaders.formats.safetensors import save_safetensors

from ..support.headers import (
    MMDIT,
    MMDIT_SIZES,
    SMALL_VAE,
    TEXT,
    TINY,
    TO_WAN,
    VAE,
    D,
    T,
    V,
    facts,
    renamed,
    text_encoder,
)


@pytest.mark.parametrize("prefix", MMDIT_PREFIXES)
def test_mmdit_under_every_prefix(prefix: str):
    info = facts(renamed(mmdit_layout(TINY), prefix))
    assert (info.role, info.family, info.prefix, info.layers) == (
        "diffusion_model",
        "qwen-image",
        prefix,
        2,
    )
    assert info.variant == "qwen-image or edit (identical tensors)" and not info.problem
    assert info.config["joint"] == 32 and info.config["heads"] == 2 and info.config["ff"] == 64
    require(info, "diffusion_model")


def test_full_mmdit_facts():
    info = facts(mmdit_layout(MMDIT))
    assert info.parameters == 20_430_401_088 and info.layers == 60
    assert info.config == MMDIT_SIZES
    assert info.formats == ("bf16",) and info.dtypes == {"BF16": 1933}
    assert "60 layers, 20.4 B parameters, bf16" in info.sentence


def test_variants():
    base = mmdit_layout(TINY)
    edit = base | {"__index_timestep_zero__": ()}
    assert facts(edit).variant == "edit-2511" and not facts(edit).problem
    assert facts(renamed(edit, "model.diffusion_model.")).variant == "edit-2511"
    config = {"_class_name": "QwenImageTransformer2DModel", "zero_cond_t": True}
    assert facts(base, config=config).variant == "edit-2511"
    assert facts(base, config=config | {"_class_name": "Other"}).variant.startswith("qwen-image or")
    assert facts(mmdit_layout(TINY, layered=True)).variant == "layered"
    ours = facts(base, metadata={"inkstone_family": "inkstone-embedded"})
    assert ours.family == "inkstone-embedded"


def test_missing_unexpected_and_wrong_shapes_are_listed():
    shapes = mmdit_layout(TINY)
    del shapes["proj_out.weight"]
    info = facts(shapes | {"odd.weight": (3,), "txt_in.weight": (256, 33)})
    assert info.missing == ("proj_out.weight",) and info.unexpected == ("odd.weight",)
    assert "1 tensors are missing (proj_out.weight)" in info.problem
    assert "txt_in.weight expected [256, 32], got [256, 33]" in info.problem
    words = "proj_out.weight.*Download it again, or choose another file from models/diff"
    with pytest.raises(InkstoneError, match=words):
        require(info, "diffusion_model")


def test_last_block_may_lack_what_nobody_reads():
    shapes = mmdit_layout(TINY)
    pruned = {
        n: s
        for n, s in shapes.items()
        if n.removeprefix("transformer_blocks.1.") not in MMDIT_UNREAD
    }
    assert len(shapes) - len(pruned) == 9 and not facts(pruned).problem
    del pruned["transformer_blocks.0.attn.to_add_out.bias"]
    assert facts(pruned).missing == ("transformer_blocks.0.attn.to_add_out.bias",)


def test_vae_facts():
    shapes = vae_layout(VAE)
    for file, kind in ((shapes, "diffusers"), (renamed(shapes, "", TO_WAN), "wan")):
        info = facts(file)
        assert (info.role, info.family, info.layout, info.problem) == (
            "vae",
            "qwen-image",
            kind,
            "",
        )
        assert info.config == vars(VAE)
    without = {n: s for n, s in shapes.items() if ".time_conv." not in n}
    assert not facts(without).problem
    rgba = vae_layout(replace(VAE, channels=4))
    assert facts(rgba).variant == "layered (RGBA)"
    flat = {n: s[:2] + s[3:] if len(s) == 5 else s for n, s in without.items()}
    assert not facts(flat).problem
    small = vae_layout(SMALL_VAE)
    assert facts(small).config["mult"] == (1, 2) and not facts(small).problem


def test_bundle_gives_each_part():
    vae = renamed(vae_layout(VAE), "vae.", TO_WAN)
    text = renamed(text_layout(TEXT), "text_encoders.qwen25_7b.transformer.model.")
    bundle = renamed(mmdit_layout(TINY), "model.diffusion_model.") | vae | text
    for want, role, prefix in (
        (None, "diffusion_model", "model.diffusion_model."),
        ("vae", "vae", "vae."),
        ("text_encoder", "text_encoder", "text_encoders.qwen25_7b.transformer."),
    ):
        info = facts(bundle, want=want)
        assert (info.role, info.prefix, info.problem) == (role, prefix, "")
        assert info.layout.startswith("bundle")
    for names in (mmdit_names(bundle), vae_names(bundle), text_names(bundle)):
        assert not names.others and len(names.table) + len(names.outside) >= len(bundle) - 8
        require(info, role)


def write(path: Path, shapes: Layout) -> None:
    save_safetensors(path, {name: torch.zeros(shape) for name, shape in shapes.items()})


def test_files_and_folders(tmp_path: Path):
    tiny = MMDiTConfig(layers=1, heads=1, head_dim=4, channels=4, joint=4, ff=4)
    write(tmp_path / "vae of sdxl.safetensors", mmdit_layout(tiny))
    config = {"_class_name": "QwenImageTransformer2DModel", "zero_cond_t": True}
    (tmp_path / "config.json").write_text(json.dumps(config))
    for path in (tmp_path, tmp_path / "vae of sdxl.safetensors"):
        info = identify(path)
        assert info.role == "diffusion_model" and info.variant == "edit-2511" and not info.problem
        assert info.path == str(path)
    write(tmp_path / "other.safetensors", {"x": (1,)})  # now config.json may belong to either
    assert identify(tmp_path / "vae of sdxl.safetensors").variant.startswith("qwen-image or")


def test_folders_saved_by_the_references(tmp_path: Path):
    diffusers = pytest.importorskip("diffusers")
    transformers = pytest.importorskip("transformers")
    size = {
        "num_layers": 2,
        "attention_head_dim": 16,
        "num_attention_heads": 2,
        "joint_attention_dim": 32,
        "axes_dims_rope": (4, 6, 6),
    }
    net = diffusers.QwenImageTransformer2DModel(**size, zero_cond_t=True)
    net.save_pretrained(tmp_path / "transformer", max_shard_size="200KB")
    assert len(list((tmp_path / "transformer").glob("*-of-*.safetensors"))) > 1
    info = identify(tmp_path / "transformer")
    assert (info.role, info.variant, info.layers, info.problem) == (D, "edit-2511", 2, "")
    assert info.parameters == sum(p.numel() for p in net.parameters())
    diffusers.AutoencoderKLQwenImage(base_dim=8).save_pretrained(tmp_path / "vae")
    info = identify(tmp_path / "vae")
    assert (info.role, info.config["base"], info.problem) == (V, 8, "")
    config = transformers.Qwen2_5_VLConfig(
        text_config={
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
            "vocab_size": 300,
        },
        vision_config={
            "depth": 2,
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_heads": 2,
            "out_hidden_size": 32,
        },
    )
    model = transformers.Qwen2_5_VLForConditionalGeneration(config)
    model.save_pretrained(tmp_path / "text_encoder")
    info = identify(tmp_path / "text_encoder")
    assert (info.role, info.layers, info.problem) == (T, 2, "")
    assert "with vision" in info.variant
    with pytest.raises(
        InkstoneError, match=r"one of its folders \(text_encoder, transformer, vae\)"
    ):
        identify(tmp_path)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"PK\x03\x04" + b"\1" * 60, "zip"),
        (b"\x80\x02}q\0" + b"\1" * 60, "a pickle"),
        (b"<!DOCTYPE html>", "web page"),
    ],
)
def test_files_of_other_formats(tmp_path: Path, data: bytes, words: str):
    path = tmp_path / "model.ckpt"
    path.write_bytes(data)
    info = identify(path)
    assert info.role == "unknown" and words in info.sentence
    with pytest.raises(InkstoneError, match=words):
        require(info, "diffusion_model")


def test_damaged_file_raises(tmp_path: Path):
    path = tmp_path / "m.safetensors"
    path.write_bytes(b"\x10\0\0\0\0\0\0\0{")
    with pytest.raises(InkstoneError, match="not a valid"):
        identify(path)
    with pytest.raises(InkstoneError, match="does not exist"):
        identify(tmp_path / "none.safetensors")


def test_absurd_numbers_in_names_stay_small():
    shapes = mmdit_layout(TINY) | {"transformer_blocks.999999.attn.to_q.weight": (1,)}
    assert facts(shapes).layers == 256
    vae = {
        "decoder.up_blocks.99999.resnets.0.conv1.weight": (1,),
        "decoder.up_blocks.0.resnets.99999.conv1.weight": (1,),
    }
    assert facts(vae_layout(VAE) | vae).problem


@pytest.mark.parametrize("drop", range(0, 40, 3))
def test_no_header_breaks_the_recognizers(drop: int):
    """Any tensor may be absent or of another rank: facts come back, never another exception."""
    small = text_encoder(layers=1, width=64, heads=2, kv_heads=1, ff=8, vocab=300)
    for shapes in (
        mmdit_layout(TINY),
        vae_layout(SMALL_VAE),
        small,
        renamed(vae_layout(VAE), "", TO_WAN),
        small | vision_layout(VisionConfig(depth=1)),
    ):
        for rank in range(4):
            picked = {n: s for i, (n, s) in enumerate(shapes.items()) if i % 40 != drop or rank}
            odd = {
                n: (0,) * rank if i % 40 == drop else s for i, (n, s) in enumerate(picked.items())
            }
            assert facts(odd).sentence
