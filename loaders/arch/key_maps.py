"""Names of tensors in published files -> names of our modules, as tables.

Our names: MMDiT and VAE as diffusers has them; text encoder as the old Qwen2.5-VL layout without
`model.` (`layers.0.self_attn.q_proj.weight`), its vision tower under `visual.`. Nothing is dropped
silently: what we know and do not need (`lm_head`, `time_conv`, marks) comes back in `unused`.
"""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace

from ..formats.gguf_metadata import ZERO_COND_MARK
from . import key_maps_gguf

MMDIT_ANCHORS = ("txt_norm.weight", "txt_in.text_norm.weight", "img_in.weight")
BLOCKWISE_MARK = "controlnet_blocks.0.y_rms.weight"
FUN_MARKS = ("control_img_in.weight", "control_blocks.0.after_proj.weight")
# VideoX-Fun's control: (pattern of the file's name, ours); first match wins
FUN_NAMES = (
    (r"control_img_in\.(.+)", r"controlnet_x_embedder.\1"),
    (r"control_blocks\.0\.before_proj\.(.+)", r"before_proj.\1"),
    (r"control_blocks\.(\d+)\.after_proj\.(.+)", r"controlnet_blocks.\1.\2"),
    (r"control_blocks\.(\d+)\.(.+)", r"transformer_blocks.\1.\2"),
)
MMDIT_PREFIXES = (
    "",
    "model.diffusion_model.",
    "diffusion_model.",
    "transformer.",
    "model.",
    "module.",
    "controlnet.",
    "control_model.",
)
FP8_MARK = "scaled_fp8"  # its type says what the file's fp8 bytes are: read by quant/fp8.py
MMDIT_UNUSED = (ZERO_COND_MARK, FP8_MARK)
STREAM = "encoded_exponent"  # what DFloat11 files have in place of a weight
PREFERENCE = "comfy_attention.config"  # of ComfyUI's attention, end of a name: nothing for us
# Tensors of the last block that never reach the output; pruned files lack them.
MMDIT_UNREAD = (
    "attn.add_q_proj.weight",
    "attn.add_q_proj.bias",
    "attn.norm_added_q.weight",
    "attn.to_add_out.weight",
    "attn.to_add_out.bias",
    "txt_mlp.net.0.proj.weight",
    "txt_mlp.net.0.proj.bias",
    "txt_mlp.net.2.weight",
    "txt_mlp.net.2.bias",
)

VAE_PREFIXES = ("", "vae.", "first_stage_model.", "model.")
WAN_MARK = "decoder.middle.0.residual.0.gamma"
DIFFUSERS_VAE_MARK = "decoder.mid_block.resnets.0.norm1.gamma"

# (layout, name that marks it, ((start of the file's name, start of ours), ...)); first match wins.
TEXT_LAYOUTS: tuple[tuple[str, str, tuple[tuple[str, str], ...]], ...] = (
    (
        "transformers",
        "model.language_model.embed_tokens.weight",
        (("model.language_model.", ""), ("model.visual.", "visual."), ("lm_head.", "lm_head.")),
    ),
    (
        "old transformers",
        "model.embed_tokens.weight",
        (
            ("model.visual.", "visual."),
            ("model.", ""),
            ("visual.", "visual."),
            ("lm_head.", "lm_head."),
        ),
    ),
    (
        "language_model.model",
        "language_model.model.embed_tokens.weight",
        (
            ("language_model.model.", ""),
            ("language_model.lm_head.", "lm_head."),
            ("visual.", "visual."),
            ("lm_head.", "lm_head."),
        ),
    ),
    (
        "headless transformers",
        "language_model.embed_tokens.weight",
        (("language_model.", ""), ("visual.", "visual."), ("lm_head.", "lm_head.")),
    ),
    (
        "plain",
        "embed_tokens.weight",
        (
            ("embed_tokens.", "embed_tokens."),
            ("layers.", "layers."),
            ("norm.", "norm."),
            ("visual.", "visual."),
            ("lm_head.", "lm_head."),
        ),
    ),
)
TEXT_PREFIXES = (
    "",
    "text_encoders.qwen25_7b.transformer.",
    "qwen25_7b.transformer.",
    "text_encoder.",
    "text_encoders.",
    "cond_stage_model.",
)

# Inside a residual block of the VAE: (diffusers, Wan).
RESNET_PARTS = (
    ("norm1", "residual.0"),
    ("conv1", "residual.2"),
    ("norm2", "residual.3"),
    ("conv2", "residual.6"),
    ("conv_shortcut", "shortcut"),
)
SAMPLER_PARTS = (("resample.1", "resample.1"), ("time_conv", "time_conv"))
ATTENTION_PARTS = (("norm", "norm"), ("to_qkv", "to_qkv"), ("proj", "proj"))
OUTER_PARTS = (
    ("encoder.conv_in", "encoder.conv1"),
    ("encoder.norm_out", "encoder.head.0"),
    ("encoder.conv_out", "encoder.head.2"),
    ("quant_conv", "conv1"),
    ("post_quant_conv", "conv2"),
    ("decoder.conv_in", "decoder.conv1"),
    ("decoder.norm_out", "decoder.head.0"),
    ("decoder.conv_out", "decoder.head.2"),
)
NORMS = ("norm", "norm1", "norm2", "norm_out")


# Marks of quantized files, first match wins: (end of a tensor name, format).
FORMAT_MARKS = (
    (".wscales", "SVDQuant (nunchaku)"),
    (".encoded_exponent", "DFloat11"),
    (".quant_state.bitsandbytes__nf4", "bitsandbytes nf4"),
    (".quant_state.bitsandbytes__fp4", "bitsandbytes fp4"),
    (".SCB", "bitsandbytes int8"),
    (".comfy_quant", "comfy_quant"),
    ("scaled_fp8", "fp8 scaled"),
    (".scale_weight", "fp8 scaled"),
    (".weight_scale_2", "nvfp4"),
    (".weight_scale", "fp8 scaled by rows"),
    (".weight._data", "quanto"),
)
LORA_MARK = re.compile(
    r"\.(lora_[AB](\.[^.]+)?\.weight|lora_[AB]|lora[_.](up|down)(\.weight)?|lokr_w[12](_[ab])?"
    r"|hada_w[12]_[ab]|diff_b|diff)$"
)
QWEN_LORA_MARK = re.compile(r"(img|txt)_(mlp|mod)[._]|transformer_blocks[._][45]\d[._]attn[._]")
BLOCK_LORA_MARK = re.compile(r"transformer_blocks[._]\d+[._]attn[._]")
OTHER_LORA_MARK = re.compile(
    r"single_|transformer_blocks[._]\d+[._](ff|norm1|attn[12])|(down|up|input|output|double)_blocks"
    r"|mid_block|lora_te"
)

# Other people's models: (names that must all be there, role, family, in words).
FOREIGN = (
    # controls first: they hold blocks of the model that they are for
    (("lora_controlnet",), "controlnet", "sd", "a Stable Diffusion control LoRA"),
    (
        ("controlnet_blocks.0.weight", "input_hint_block.0.weight"),
        "controlnet",
        "flux",
        "a FLUX ControlNet",
    ),
    (("input_hint_block.0.weight",), "controlnet", "sd", "a Stable Diffusion ControlNet"),
    (
        ("controlnet_cond_embedding.conv_in.weight",),
        "controlnet",
        "sd",
        "a Stable Diffusion ControlNet",
    ),
    (
        ("adapter.body.0.resnets.0.block1.weight",),
        "controlnet",
        "sd",
        "a T2I-Adapter of Stable Diffusion",
    ),
    (
        ("body.0.block1.weight", "conv_in.weight"),
        "controlnet",
        "sd",
        "a T2I-Adapter of Stable Diffusion",
    ),
    (("controlnet_x_embedder.weight",), "controlnet", "flux", "a FLUX ControlNet"),
    (
        ("controlnet_blocks.0.weight", "pos_embed_input.weight"),
        "controlnet",
        "flux",
        "a FLUX ControlNet",
    ),
    (
        ("controlnet_blocks.0.weight", "pos_embed_input.proj.weight"),
        "controlnet",
        "sd3",
        "a Stable Diffusion 3 ControlNet",
    ),
    (("control_all_x_embedder.2-1.weight",), "controlnet", "z-image", "a Z-Image ControlNet"),
    (("double_blocks.0.img_attn.qkv.weight",), "diffusion_model", "flux", "a FLUX model"),
    (("single_transformer_blocks.0.attn.to_q.weight",), "diffusion_model", "flux", "a FLUX model"),
    (
        ("joint_blocks.0.x_block.attn.qkv.weight",),
        "diffusion_model",
        "sd3",
        "a Stable Diffusion 3 model",
    ),
    (
        ("pos_embed.proj.weight", "transformer_blocks.0.attn.add_k_proj.weight"),
        "diffusion_model",
        "sd3",
        "a Stable Diffusion 3 model",
    ),
    (
        ("input_blocks.0.0.weight", "label_emb.0.0.weight"),
        "diffusion_model",
        "sdxl",
        "an SDXL checkpoint",
    ),
    (("input_blocks.0.0.weight",), "diffusion_model", "sd", "a Stable Diffusion 1 or 2 checkpoint"),
    (
        ("down_blocks.0.resnets.0.norm1.weight", "time_embedding.linear_1.weight"),
        "diffusion_model",
        "sd",
        "a Stable Diffusion UNet",
    ),
    (
        ("blocks.0.self_attn.q.weight", "patch_embedding.weight"),
        "diffusion_model",
        "wan",
        "a Wan video model",
    ),
    (
        ("noise_refiner.0.attention.qkv.weight",),
        "diffusion_model",
        "lumina",
        "a Lumina 2 or Z-Image model",
    ),
    (
        ("text_model.encoder.layers.0.self_attn.q_proj.weight",),
        "text_encoder",
        "clip",
        "a CLIP text encoder",
    ),
    (
        ("transformer.resblocks.0.attn.in_proj_weight",),
        "text_encoder",
        "clip",
        "a CLIP text encoder",
    ),
    (
        ("vision_model.encoder.layers.0.self_attn.q_proj.weight",),
        "unknown",
        "clip",
        "a CLIP vision model",
    ),
    (
        ("encoder.block.0.layer.0.SelfAttention.q.weight",),
        "text_encoder",
        "t5",
        "a T5 text encoder",
    ),
)
# Prefixes that are looked through when a file is recognized.
STRIP = (
    "text_encoders.qwen25_7b.transformer.",
    "model.diffusion_model.",
    "first_stage_model.",
    "diffusion_model.",
    "vae.",
    "transformer.",
    "controlnet.",
    "control_model.",
    "model.",
    "module.",
    "text_encoder.",
)


@dataclass(frozen=True)
class KeyMap:
    """Result of a renaming. `table` maps our names to the file's; the rest lists file names."""

    table: dict[str, str]
    unused: tuple[str, ...] = ()  # known, not needed
    others: tuple[str, ...] = ()  # not known at all
    outside: tuple[str, ...] = ()  # without the prefix: other parts of a bundled checkpoint
    prefix: str = ""
    layout: str = "diffusers"
    marks: frozenset[str] = field(default_factory=frozenset)


def find_prefix(names: Iterable[str], anchors: Iterable[str], prefixes: Iterable[str]) -> str:
    """The first prefix under which one of the anchor names is there; "" when none is."""
    held = set(names)
    anchors = tuple(anchors)
    return next((p for p in prefixes if any(p + a in held for a in anchors)), "")


def _sort(
    names: Iterable[str],
    prefix: str,
    layout: str,
    rename: Callable[[str], str | None],
    unused: Callable[[str], bool],
) -> KeyMap:
    """Splits the file's names into the four groups of Names."""
    table: dict[str, str] = {}
    known: list[str] = []
    others: list[str] = []
    outside: list[str] = []
    for name in names:
        inside = name.startswith(prefix)
        ours = rename(name[len(prefix) :]) if inside else None
        if unused(ours or name):
            known.append(name)
        elif not inside:
            outside.append(name)
        elif ours is None or ours in table:
            others.append(name)
        else:
            table[ours] = name
    return KeyMap(table, tuple(known), tuple(others), tuple(outside), prefix, layout)


def mmdit_names(names: Iterable[str]) -> KeyMap:
    """Qwen-Image MMDiT (or ControlNet): our names are the file's without the prefix."""
    names = list(names)
    prefix = find_prefix(names, MMDIT_ANCHORS, MMDIT_PREFIXES)
    found = _sort(names, prefix, "diffusers", lambda name: name, _is_mark)
    return replace(found, marks=_marks(names))


def fun_names(names: Iterable[str]) -> KeyMap:
    """VideoX-Fun's control -> our names, see FUN_NAMES."""
    names = list(names)
    prefix = find_prefix(names, FUN_MARKS, MMDIT_PREFIXES)

    def rename(name: str) -> str | None:
        found = ((re.fullmatch(pattern, name), ours) for pattern, ours in FUN_NAMES)
        return next((match.expand(ours) for match, ours in found if match), None)

    return _sort(names, prefix, "VideoX-Fun", rename, _is_mark)


def _is_mark(name: str) -> bool:
    return name.rpartition(".")[2] in MMDIT_UNUSED or name.endswith(PREFERENCE)


def _marks(names: Iterable[str]) -> frozenset[str]:
    return frozenset(mark for mark in MMDIT_UNUSED if any(n.endswith(mark) for n in names))


def _with_leaf(ours: str, theirs: str) -> list[tuple[str, str]]:
    last = ours.rpartition(".")[2]
    leaves = ("gamma",) if last in NORMS else ("weight", "bias")
    return [(f"{ours}.{leaf}", f"{theirs}.{leaf}") for leaf in leaves]


def _inside(ours: str, theirs: str, parts: tuple[tuple[str, str], ...]) -> list[tuple[str, str]]:
    return [pair for a, b in parts for pair in _with_leaf(f"{ours}.{a}", f"{theirs}.{b}")]


def wan_vae_table(stages: int = 4, res_blocks: int = 2) -> dict[str, str]:
    """Wan / Comfy name -> diffusers name for every tensor that such a VAE can have.

    It also lists shortcuts and time_convs that the 194-tensor file lacks; looking up never adds.
    """
    pairs = [pair for a, b in OUTER_PARTS for pair in _with_leaf(a, b)]
    for side in ("encoder", "decoder"):
        for ours, number in (("resnets.0", 0), ("resnets.1", 2)):
            theirs = f"{side}.middle.{number}"
            pairs += _inside(f"{side}.mid_block.{ours}", theirs, RESNET_PARTS)
        pairs += _inside(f"{side}.mid_block.attentions.0", f"{side}.middle.1", ATTENTION_PARTS)
    for number in range(stages * (res_blocks + 1) - 1):
        parts = SAMPLER_PARTS if number % (res_blocks + 1) == res_blocks else RESNET_PARTS
        pairs += _inside(f"encoder.down_blocks.{number}", f"encoder.downsamples.{number}", parts)
    for number in range(stages * (res_blocks + 2) - 1):
        block, inner = divmod(number, res_blocks + 2)
        sampler = inner == res_blocks + 1
        ours = f"decoder.up_blocks.{block}." + ("upsamplers.0" if sampler else f"resnets.{inner}")
        parts = SAMPLER_PARTS if sampler else RESNET_PARTS
        pairs += _inside(ours, f"decoder.upsamples.{number}", parts)
    return {theirs: ours for ours, theirs in pairs}


def vae_names(names: Iterable[str], stages: int = 4, res_blocks: int = 2) -> KeyMap:
    """VAE in Wan / Comfy or diffusers layout -> diffusers names. time_conv is known unused."""
    names = list(names)
    prefix = find_prefix(names, (WAN_MARK, DIFFUSERS_VAE_MARK), VAE_PREFIXES)
    wan = prefix + WAN_MARK in names
    known = wan_vae_table(stages, res_blocks)
    ours = set(known.values())
    rename = known.get if wan else lambda name: name if name in ours else None
    layout = "wan" if wan else "diffusers"
    return _sort(names, prefix, layout, rename, lambda name: ".time_conv." in name)


def text_names(names: Iterable[str]) -> KeyMap:
    """Qwen2.5-VL in any of the known layouts (GGUF too) -> our names. lm_head and rotary tables are
    unused."""
    names = list(names)
    held = set(names)
    if held.issuperset(key_maps_gguf.TEXT_MARKS):
        return _sort(names, "", "gguf", key_maps_gguf.text_name, _text_unused)
    for prefix in TEXT_PREFIXES:
        for layout, anchor, rules in TEXT_LAYOUTS:
            if held & {prefix + anchor, prefix + anchor.removesuffix("weight") + STREAM}:
                return _sort(names, prefix, layout, _renamer(rules), _text_unused)
    return KeyMap({}, others=tuple(names), layout="unknown")


def _text_unused(name: str) -> bool:
    ends = ("inv_freq", "logit_scale", FP8_MARK, PREFERENCE)
    return name.startswith("lm_head.") or name.endswith(ends)


def _renamer(rules: tuple[tuple[str, str], ...]) -> Callable[[str], str | None]:
    def rename(name: str) -> str | None:
        found = next(((a, b) for a, b in rules if name.startswith(a)), None)
        return found[1] + name[len(found[0]) :] if found else None

    return rename
