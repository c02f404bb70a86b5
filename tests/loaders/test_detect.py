"""Layouts against the reference classes on the meta device; every kind of file is told in words."""

import json
import math
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from inkstone.errors import InkstoneError
from inkstone.kernels.configs import VisionConfig
from inkstone.loaders.arch import expected_tensors, key_maps, key_maps_vae
from inkstone.loaders.arch.file_facts import FileFacts
from inkstone.loaders.arch.header_view import SUPPORTED, HeaderView
from inkstone.loaders.arch.identify import describe, identify, require
from inkstone.loaders.formats.hf_folder import known_config
from inkstone.loaders.formats.safetensors import save_safetensors
from inkstone.loaders.formats.safetensors_header import TensorEntry

from .lora.test_lora_keys import NAMES as LORA_NAMES

MMDIT = SimpleNamespace(layers=60, heads=24, head_dim=128, channels=64, joint=3584, ff=12288)
VAE = SimpleNamespace(base=96, mult=(1, 2, 4, 4), res_blocks=2, z=16, channels=3)
TEXT = SimpleNamespace(
    layers=28, width=3584, heads=28, kv_heads=4, head_dim=128, ff=18944, vocab=152064
)
TINY = SimpleNamespace(layers=2, heads=2, head_dim=128, channels=64, joint=32, ff=64)
VISION = VisionConfig()


def total(shapes: expected_tensors.Layout) -> int:
    return sum(math.prod(shape) for shape in shapes.values())


def header(
    shapes: expected_tensors.Layout, dtype: torch.dtype = torch.bfloat16
) -> dict[str, TensorEntry]:
    return {name: TensorEntry(dtype, shape, 0, 0) for name, shape in shapes.items()}


def renamed(
    shapes: expected_tensors.Layout, start: str = "", table: dict | None = None
) -> expected_tensors.Layout:
    return {start + (table or {}).get(name, name): shape for name, shape in shapes.items()}


def facts(
    shapes: expected_tensors.Layout,
    dtype: torch.dtype = torch.bfloat16,
    metadata: dict | None = None,
    config: dict | None = None,
    want: str | None = None,
) -> FileFacts:
    view = HeaderView(header(shapes, dtype), metadata or {}, known_config(config or {}))
    return describe(view, want)


TO_WAN = {ours: wan for wan, ours in key_maps_vae.wan_vae_table().items()}
COUNTS = [
    (expected_tensors.mmdit_layout(MMDIT), 1933, 20_430_401_088),
    (expected_tensors.mmdit_layout(MMDIT, layered=True), 1934, 20_430_407_232),
    (expected_tensors.vae_layout(VAE), 194, 126_892_531),
    (
        expected_tensors.vae_layout(SimpleNamespace(**(vars(VAE) | {"channels": 4}))),
        194,
        126_897_716,
    ),
    (expected_tensors.text_layout(TEXT), 338, 7_070_619_136),
    (expected_tensors.vision_layout(VISION), 390, 676_550_144),
    (expected_tensors.text_layout(TEXT, VISION, lm_head=True), 729, 8_292_166_656),
    (
        expected_tensors.controlnet_layout(SimpleNamespace(**(vars(MMDIT) | {"layers": 5}))),
        181,
        1_768_003_584,
    ),
    (
        expected_tensors.controlnet_layout(SimpleNamespace(**(vars(MMDIT) | {"layers": 6})), 68),
        215,
        2_117_287_424,
    ),
]


@pytest.mark.parametrize(("shapes", "tensors", "parameters"), COUNTS)
def test_published_counts(shapes: expected_tensors.Layout, tensors: int, parameters: int):
    assert (len(shapes), total(shapes)) == (tensors, parameters)


def shapes_of(module: torch.nn.Module) -> expected_tensors.Layout:
    return {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}


def test_mmdit_layout_is_the_reference():
    diffusers = pytest.importorskip("diffusers")
    with torch.device("meta"):
        base = diffusers.QwenImageTransformer2DModel()
        layered = diffusers.QwenImageTransformer2DModel(
            num_layers=3, use_additional_t_cond=True, use_layer3d_rope=True
        )
    assert expected_tensors.mmdit_layout(MMDIT) == shapes_of(base)
    three = SimpleNamespace(**(vars(MMDIT) | {"layers": 3}))
    assert expected_tensors.mmdit_layout(three, layered=True) == shapes_of(layered)


@pytest.mark.parametrize("extra", [0, 4])
def test_controlnet_layout_is_the_reference(extra: int):
    diffusers = pytest.importorskip("diffusers")
    with torch.device("meta"):
        net = diffusers.QwenImageControlNetModel(num_layers=2, extra_condition_channels=extra)
    two = SimpleNamespace(**(vars(MMDIT) | {"layers": 2}))
    assert expected_tensors.controlnet_layout(two, 64 + extra) == shapes_of(net)


@pytest.mark.parametrize(("base", "channels"), [(96, 3), (96, 4), (8, 3)])
def test_vae_layout_is_the_reference(base: int, channels: int):
    diffusers = pytest.importorskip("diffusers")
    with torch.device("meta"):
        vae = diffusers.AutoencoderKLQwenImage(base_dim=base, input_channels=channels)
    config = SimpleNamespace(**(vars(VAE) | {"base": base, "channels": channels}))
    assert expected_tensors.vae_layout(config) == shapes_of(vae)


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
    names = key_maps.text_names(file)
    assert {ours: file[n] for ours, n in names.table.items()} == expected_tensors.text_layout(
        TEXT, VISION
    )
    assert names.unused == ("lm_head.weight",) and not names.others
    seen = facts(file)
    assert (seen.role, seen.variant, seen.layout) == (
        "text_encoder",
        "7B, with vision",
        "transformers",
    )
    assert not (seen.problem or seen.missing or seen.unexpected)
    assert seen.config == {k: v for k, v in vars(TEXT).items()}


@pytest.mark.parametrize("prefix", key_maps_vae.VAE_PREFIXES)
def test_wan_names_map_one_to_one(prefix: str):
    wanted = expected_tensors.vae_layout(VAE)
    names = key_maps_vae.vae_names(renamed(wanted, prefix, TO_WAN))
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
    ours = expected_tensors.text_layout(TEXT, VISION)
    model, visual = (prefix + start for start in TEXT_STARTS[kind])
    file = {n: visual + n[7:] if n.startswith("visual.") else model + n for n in ours}
    names = key_maps.text_names([*file.values(), prefix + "lm_head.weight"])
    assert names.layout == kind and names.prefix == prefix and names.table == file
    assert names.unused == (prefix + "lm_head.weight",) and not names.others


@pytest.mark.parametrize("prefix", key_maps.MMDIT_PREFIXES)
def test_mmdit_under_every_prefix(prefix: str):
    seen = facts(renamed(expected_tensors.mmdit_layout(TINY), prefix))
    assert (seen.role, seen.family, seen.prefix, seen.layers) == (
        "diffusion_model",
        "qwen-image",
        prefix,
        2,
    )
    assert seen.variant == "qwen-image or edit (identical tensors)" and not seen.problem
    assert seen.config["joint"] == 32 and seen.config["heads"] == 2 and seen.config["ff"] == 64
    require(seen, "diffusion_model")


def test_full_mmdit_facts():
    seen = facts(expected_tensors.mmdit_layout(MMDIT))
    assert seen.parameters == 20_430_401_088 and seen.layers == 60
    assert {k: v for k, v in seen.config.items()} == vars(MMDIT)
    assert seen.formats == ("bf16",) and seen.dtypes == {"BF16": 1933}
    assert "60 layers, 20.4 B parameters, bf16" in seen.sentence


def test_variants():
    base = expected_tensors.mmdit_layout(TINY)
    edit = base | {"__index_timestep_zero__": ()}
    assert facts(edit).variant == "edit-2511" and not facts(edit).problem
    assert facts(renamed(edit, "model.diffusion_model.")).variant == "edit-2511"
    config = {"_class_name": "QwenImageTransformer2DModel", "zero_cond_t": True}
    assert facts(base, config=config).variant == "edit-2511"
    assert facts(base, config=config | {"_class_name": "Other"}).variant.startswith("qwen-image or")
    assert facts(expected_tensors.mmdit_layout(TINY, layered=True)).variant == "layered"
    ours = facts(base, metadata={"inkstone_family": "inkstone-embedded"})
    assert ours.family == "inkstone-embedded"


def test_missing_unexpected_and_wrong_shapes_are_listed():
    shapes = expected_tensors.mmdit_layout(TINY)
    del shapes["proj_out.weight"]
    seen = facts(shapes | {"odd.weight": (3,), "txt_in.weight": (256, 33)})
    assert seen.missing == ("proj_out.weight",) and seen.unexpected == ("odd.weight",)
    assert "1 tensors are missing (proj_out.weight)" in seen.problem
    assert "txt_in.weight expected [256, 32], got [256, 33]" in seen.problem
    words = "proj_out.weight.*Download it again, or choose another file from models/diff"
    with pytest.raises(InkstoneError, match=words):
        require(seen, "diffusion_model")


def test_last_block_may_lack_what_nobody_reads():
    shapes = expected_tensors.mmdit_layout(TINY)
    pruned = {
        n: s
        for n, s in shapes.items()
        if n.removeprefix("transformer_blocks.1.") not in key_maps.MMDIT_UNREAD
    }
    assert len(shapes) - len(pruned) == 9 and not facts(pruned).problem
    del pruned["transformer_blocks.0.attn.to_add_out.bias"]
    assert facts(pruned).missing == ("transformer_blocks.0.attn.to_add_out.bias",)


def test_vae_facts():
    shapes = expected_tensors.vae_layout(VAE)
    for file, kind in ((shapes, "diffusers"), (renamed(shapes, "", TO_WAN), "wan")):
        seen = facts(file)
        assert (seen.role, seen.family, seen.layout, seen.problem) == (
            "vae",
            "qwen-image",
            kind,
            "",
        )
        assert seen.config == vars(VAE)
    without = {n: s for n, s in shapes.items() if ".time_conv." not in n}
    assert not facts(without).problem
    rgba = expected_tensors.vae_layout(SimpleNamespace(**(vars(VAE) | {"channels": 4})))
    assert facts(rgba).variant == "layered (RGBA)"
    flat = {n: s[:2] + s[3:] if len(s) == 5 else s for n, s in without.items()}
    assert not facts(flat).problem
    small = expected_tensors.vae_layout(
        SimpleNamespace(base=8, mult=(1, 2), res_blocks=1, z=16, channels=3)
    )
    assert facts(small).config["mult"] == (1, 2) and not facts(small).problem


def test_bundle_gives_each_part():
    vae = renamed(expected_tensors.vae_layout(VAE), "vae.", TO_WAN)
    text = renamed(expected_tensors.text_layout(TEXT), "text_encoders.qwen25_7b.transformer.model.")
    bundle = renamed(expected_tensors.mmdit_layout(TINY), "model.diffusion_model.") | vae | text
    for want, role, prefix in (
        (None, "diffusion_model", "model.diffusion_model."),
        ("vae", "vae", "vae."),
        ("text_encoder", "text_encoder", "text_encoders.qwen25_7b.transformer."),
    ):
        seen = facts(bundle, want=want)
        assert (seen.role, seen.prefix, seen.problem) == (role, prefix, "")
        assert seen.layout.startswith("bundle")
    for names in (
        key_maps.mmdit_names(bundle),
        key_maps_vae.vae_names(bundle),
        key_maps.text_names(bundle),
    ):
        assert not names.others and len(names.table) + len(names.outside) >= len(bundle) - 8
        require(seen, role)


def f8(*names: str) -> expected_tensors.Layout:
    return expected_tensors.mmdit_layout(TINY) | dict.fromkeys(names, (1,))


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
def test_quantized_formats_are_named(shapes: expected_tensors.Layout, name: str):
    """By the header alone; what the layers really have is in tests/quant/test_formats_detect.py."""
    seen = facts(shapes, torch.float8_e4m3fn)
    assert name in seen.formats and not seen.missing
    if name in SUPPORTED:
        require(seen, "diffusion_model")
        return
    with pytest.raises(InkstoneError) as caught:
        require(seen, "diffusion_model")
    assert f"{name}: not supported yet by this version" in str(caught.value)


def test_formats_from_metadata_config_and_dtype():
    base = expected_tensors.mmdit_layout(TINY)
    assert "comfy_quant" in facts(base, metadata={"_quantization_metadata": "{}"}).formats
    config = {
        "_class_name": "QwenImageTransformer2DModel",
        "quantization_config": {"quant_method": "sdnq"},
    }
    assert "sdnq: not supported yet" in facts(base, config=config).problem
    plain = facts(base, torch.float8_e4m3fn)
    assert plain.formats == ("fp8 plain",) and not plain.problem
    assert facts(base, torch.float16).formats == ("fp16",)
    text = renamed(expected_tensors.text_layout(TEXT), "model.") | {"scaled_fp8": (0,)}
    scaled = facts(text, torch.float8_e4m3fn)
    assert scaled.formats == ("fp8 scaled",) and not scaled.problem


def text_encoder(**numbers: int) -> expected_tensors.Layout:
    return expected_tensors.text_layout(SimpleNamespace(**(vars(TEXT) | numbers)))


def wan22() -> expected_tensors.Layout:
    shapes = renamed(
        expected_tensors.vae_layout(SimpleNamespace(**(vars(VAE) | {"z": 48}))), "", TO_WAN
    )
    return shapes | {"decoder.upsamples.0.upsamples.0.residual.0.gamma": (1,)}


def named(*names: str, shape: tuple[int, ...] = (8, 8)) -> expected_tensors.Layout:
    return dict.fromkeys(names, shape)


def sd_vae(z: int, diffusers: bool = False) -> expected_tensors.Layout:
    mark = (
        "decoder.mid_block.resnets.0.norm1.weight"
        if diffusers
        else "decoder.mid.block_1.norm1.weight"
    )
    return {mark: (512,), "decoder.conv_in.weight": (512, z, 3, 3)}


D, C, T, V, L = "diffusion_model", "controlnet", "text_encoder", "vae", "lora"
QWEN_ATTENTION = "transformer_blocks.0.attn.to_q"
OTHERS = [
    (named("txt_in.text_norm.weight", "modulation.1.weight", "img_in.weight"), D, "Qwen-Image-2.1"),
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
    (
        expected_tensors.vae_layout(SimpleNamespace(**(vars(VAE) | {"z": 64}))),
        V,
        "Qwen-Image-2.1 VAE",
    ),
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
def test_other_models_are_told_and_refused(shapes: expected_tensors.Layout, role: str, words: str):
    seen = facts(shapes)
    assert seen.role == role and words in seen.sentence
    with pytest.raises(InkstoneError, match="expected a "):
        require(seen, role)


CONTROL = SimpleNamespace(**(vars(TINY) | {"layers": 2}))
PLACES = [
    (expected_tensors.controlnet_layout(CONTROL), C, "union", "models/controlnet"),
    (expected_tensors.controlnet_layout(CONTROL, 68), C, "inpainting", "models/controlnet"),
    (expected_tensors.blockwise_layout(3072, 60), C, "blockwise", "models/controlnet"),
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
    (
        expected_tensors.vae_layout(VAE),
        V,
        "qwen-image or wan 2.1 (identical tensors)",
        "models/vae",
    ),
    (
        renamed(expected_tensors.text_layout(TEXT), "model."),
        T,
        "7B, without vision (no edits)",
        "models/text_encoders",
    ),
]


@pytest.mark.parametrize(("shapes", "role", "variant", "folder"), PLACES)
def test_wrong_place_names_the_right_one(
    shapes: expected_tensors.Layout, role: str, variant: str, folder: str
):
    seen = facts(shapes)
    assert (seen.role, seen.variant, seen.problem) == (role, variant, "")
    require(seen, role)
    with pytest.raises(InkstoneError) as caught:
        require(seen, D)
    assert f"It belongs in {folder}" in str(caught.value) and "loader" in str(caught.value)


@pytest.mark.parametrize("name", [n for n, (role, _, _) in LORA_NAMES.items() if role == "text"])
def test_lora_for_the_text_encoder_in_every_spelling(name: str):
    if name.endswith(".alpha"):
        name = name.removesuffix("alpha") + "lora_up.weight"
    seen = facts({name: (3584, 16)})
    assert (seen.role, seen.problem) == (L, ""), seen.sentence
    assert "text encoder" in seen.sentence
    require(seen, L)


def test_lora_for_both():
    both = named(
        "lora_unet_transformer_blocks_3_attn_to_q.lora_up.weight",
        "lora_te_layers_3_self_attn_q_proj.lora_up.weight",
    )
    seen = facts(both)
    assert (seen.role, seen.variant, seen.problem) == (L, "", "") and "qwen-image" in seen.sentence


def test_lora_in_the_old_spelling_of_diffusers():
    seen = facts(named("transformer_blocks.45.attn.to_q.lora.down.weight"))
    assert (seen.role, seen.family, seen.problem) == (L, "qwen-image", "")


def test_unknown_file():
    seen = facts(named("alpha", "beta"))
    assert seen.role == "unknown" and "alpha, beta" in seen.sentence
    with pytest.raises(InkstoneError, match="no known kind"):
        require(seen, "vae")


def write(path: Path, shapes: expected_tensors.Layout) -> None:
    save_safetensors(path, {name: torch.zeros(shape) for name, shape in shapes.items()})


def test_files_and_folders(tmp_path: Path):
    tiny = SimpleNamespace(layers=1, heads=1, head_dim=4, channels=4, joint=4, ff=4)
    write(tmp_path / "vae of sdxl.safetensors", expected_tensors.mmdit_layout(tiny))
    config = {"_class_name": "QwenImageTransformer2DModel", "zero_cond_t": True}
    (tmp_path / "config.json").write_text(json.dumps(config))
    for path in (tmp_path, tmp_path / "vae of sdxl.safetensors"):
        seen = identify(path)
        assert seen.role == "diffusion_model" and seen.variant == "edit-2511" and not seen.problem
        assert seen.path == str(path)
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
    seen = identify(tmp_path / "transformer")
    assert (seen.role, seen.variant, seen.layers, seen.problem) == (D, "edit-2511", 2, "")
    assert seen.parameters == sum(p.numel() for p in net.parameters())
    diffusers.AutoencoderKLQwenImage(base_dim=8).save_pretrained(tmp_path / "vae")
    seen = identify(tmp_path / "vae")
    assert (seen.role, seen.config["base"], seen.problem) == (V, 8, "")
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
    seen = identify(tmp_path / "text_encoder")
    assert (seen.role, seen.layers, seen.problem) == (T, 2, "")
    assert "with vision" in seen.variant
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
    seen = identify(path)
    assert seen.role == "unknown" and words in seen.sentence
    with pytest.raises(InkstoneError, match=words):
        require(seen, "diffusion_model")


def test_damaged_file_raises(tmp_path: Path):
    path = tmp_path / "m.safetensors"
    path.write_bytes(b"\x10\0\0\0\0\0\0\0{")
    with pytest.raises(InkstoneError, match="not a valid"):
        identify(path)
    with pytest.raises(InkstoneError, match="does not exist"):
        identify(tmp_path / "none.safetensors")


def test_absurd_numbers_in_names_stay_small():
    shapes = expected_tensors.mmdit_layout(TINY) | {
        "transformer_blocks.999999.attn.to_q.weight": (1,)
    }
    assert facts(shapes).layers == 256
    vae = {
        "decoder.up_blocks.99999.resnets.0.conv1.weight": (1,),
        "decoder.up_blocks.0.resnets.99999.conv1.weight": (1,),
    }
    assert facts(expected_tensors.vae_layout(VAE) | vae).problem


@pytest.mark.parametrize("drop", range(0, 40, 3))
def test_no_header_breaks_the_recognizers(drop: int):
    """Any tensor may be absent or of another rank: facts come back, never another exception."""
    tiny_vae = SimpleNamespace(base=8, mult=(1, 2), res_blocks=1, z=16, channels=3)
    small = text_encoder(layers=1, width=64, heads=2, kv_heads=1, ff=8, vocab=300)
    for shapes in (
        expected_tensors.mmdit_layout(TINY),
        expected_tensors.vae_layout(tiny_vae),
        small,
        renamed(expected_tensors.vae_layout(VAE), "", TO_WAN),
        small | expected_tensors.vision_layout(VisionConfig(depth=1)),
    ):
        for rank in range(4):
            picked = {n: s for i, (n, s) in enumerate(shapes.items()) if i % 40 != drop or rank}
            odd = {
                n: (0,) * rank if i % 40 == drop else s for i, (n, s) in enumerate(picked.items())
            }
            assert facts(odd).sentence
