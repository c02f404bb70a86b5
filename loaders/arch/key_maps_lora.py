"""Names in LoRA files -> our modules and parts of a LoRA, as tables.

A name is WRAPPER + MODULE + "." + PART. Trainers differ in all three; what they mean does not. Flat
names (kohya, LyCORIS: every dot an underscore) are looked up in a table of our own flattened names,
never cut at underscores.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable
from dataclasses import dataclass

from .dims import MOST_LAYERS
from .key_maps import FUSED_ROWS

# Stripped from the front as long as one fits, in any order and depth.
WRAPPERS = (
    "base_model.model.",
    "model.diffusion_model.",
    "diffusion_model.",
    "transformer.",
    "unet.",
    "pipe.dit.",
    "dit.",
    "module.",
    "model.",
)
TEXT_WRAPPERS = (
    "text_encoders.qwen25_7b.transformer.",
    "text_encoders.qwen25_7b.",
    "text_encoder.",
    "text_encoders.",
    "qwen25_7b.transformer.",
    "text_encoders.qwen3vl_8b.transformer.",
    "qwen3vl_8b.transformer.",
    "conditioner.",
)
INSIDE_TEXT = (
    "base_model.model.",
    "model.language_model.",
    "language_model.model.",
    "language_model.",
    "model.",
)
FLAT = ("lora_unet_", "lora_transformer_", "lora_dit_", "lycoris_")
FLAT_TEXT = ("lora_te_", "lora_te1_", "lora_text_encoder_", "lycoris_")
INSIDE_FLAT_TEXT = (
    "",
    "model_language_model_",
    "language_model_model_",
    "language_model_",
    "model_",
)

# part -> how its end is spelled, behind "MODULE."; `[^.]+` is the name of a PEFT adapter.
PARTS = {
    "down": r"lora_A(?:\.[^.]+)?\.weight|lora_A|lora_down(?:\.weight)?|lora\.down\.weight",
    "up": r"lora_B(?:\.[^.]+)?\.weight|lora_B|lora_up(?:\.weight)?|lora\.up\.weight",
    "up_bias": r"lora_B(?:\.[^.]+)?\.bias",
    "alpha": r"alpha|lora_alpha",
    "magnitude": r"dora_scale|lora_magnitude_vector(?:\.[^.]+)?(?:\.weight)?",
    "diff": r"diff|w_norm",
    "diff_b": r"diff_b|b_norm",
    "lokr_w1": r"lokr_w1",
    "lokr_w1_a": r"lokr_w1_a",
    "lokr_w1_b": r"lokr_w1_b",
    "lokr_w2": r"lokr_w2",
    "lokr_w2_a": r"lokr_w2_a",
    "lokr_w2_b": r"lokr_w2_b",
    "hada_w1_a": r"hada_w1_a",
    "hada_w1_b": r"hada_w1_b",
    "hada_w2_a": r"hada_w2_a",
    "hada_w2_b": r"hada_w2_b",
    "other": r"lora_mid\.weight|lokr_t[12]|hada_t[12]|set_weight|reshape_weight"
    r"|on_input|oft_blocks|oft_diag|rescale|[ab][12]\.weight|bora_scale",
}
# parts of "other" that cannot be a side branch of a linear layer, and why
OTHER_WORDS = (
    (
        re.compile(r"lora_mid|lokr_t|hada_t"),
        "a middle factor of a convolution, which Qwen-Image does not have",
    ),
    (re.compile(r"set_weight|reshape_weight"), "a whole weight in place of the model's"),
    (re.compile(r"oft_|rescale"), "an orthogonal turn of the weight (OFT, BOFT)"),
    (re.compile(r"[ab][12]\.weight"), "a GLoRA"),
)

BLOCK_MODULES = (
    "attn.to_q",
    "attn.to_k",
    "attn.to_v",
    "attn.to_out.0",
    "attn.add_q_proj",
    "attn.add_k_proj",
    "attn.add_v_proj",
    "attn.to_add_out",
    "img_mlp.net.0.proj",
    "img_mlp.net.2",
    "txt_mlp.net.0.proj",
    "txt_mlp.net.2",
    "img_mod.1",
    "txt_mod.1",
)
# What Qwen-Image-2.1 has that the first family has not; its attention has the same names.
SINGLE_BLOCK_MODULES = ("img_mlp.proj", "img_mlp.gate_layer", "img_mlp.out")
SINGLE_OUTER_MODULES = ("txt_in.in_layer", "txt_in.out_layer", "modulation.1")
SINGLE_OUTER_NORM = "txt_in.text_norm"
OUTER_MODULES = (
    "img_in",
    "txt_in",
    "proj_out",
    "norm_out.linear",
    "time_text_embed.timestep_embedder.linear_1",
    "time_text_embed.timestep_embedder.linear_2",
)
TEXT_MODULES = (
    "self_attn.q_proj",
    "self_attn.k_proj",
    "self_attn.v_proj",
    "self_attn.o_proj",
    "mlp.gate_proj",
    "mlp.up_proj",
    "mlp.down_proj",
)
# Norms: plain differences of their weights are applied.
BLOCK_NORMS = ("attn.norm_q", "attn.norm_k", "attn.norm_added_q", "attn.norm_added_k")
OUTER_NORM = "txt_norm"
TEXT_NORMS = ("input_layernorm", "post_attention_layernorm", "self_attn.q_norm", "self_attn.k_norm")
OUTER_TEXT_NORM = "norm"
# One name of a block for several of ours, their output rows concatenated.
FUSED = {
    "attn.to_qkv": ("attn.to_q", "attn.to_k", "attn.to_v"),
    "attn.add_qkv_proj": ("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj"),
} | FUSED_ROWS
# Modules that Lightning files train: everything of a block but its modulation.
DISTILLED_MODULES = frozenset(BLOCK_MODULES) - {"img_mod.1", "txt_mod.1"}
# Modules that DiffSynth-Studio and its in-context control train: all but those before the GELU.
CONTEXT_MODULES = frozenset(BLOCK_MODULES) - {"img_mlp.net.0.proj", "txt_mlp.net.0.proj"}
CONTEXT_RANK = 64

# Names in LoRAs for other models: (pattern, model). The first match counts.
FOREIGN = (
    (r"single_transformer_blocks|(double|single)_blocks", "FLUX or HunyuanVideo"),
    (r"joint_(transformer_)?blocks", "Stable Diffusion 3"),
    (r"lora_te2_|add_embedding", "SDXL"),
    (r"(down|up)_blocks|(input|output|mid|middle)_blocks?[._]", "Stable Diffusion 1, 2 or SDXL"),
    (r"text_model[._]encoder", "a CLIP text encoder (Stable Diffusion or FLUX)"),
    (r"blocks[._]\d+[._](self|cross)_attn[._][qkvo]([._]|$)", "Wan video"),
    (
        r"(noise|context)_refiner|layers[._]\d+[._](attention|feed_forward|adaLN)",
        "Z-Image or Lumina 2",
    ),
    (r"transformer_blocks[._]\d+[._](attn[12]|caption)", "LTX-Video, PixArt or a UNet"),
    (r"transformer_blocks[._]\d+[._](ff|ff_context|norm1)", "FLUX or Stable Diffusion 3"),
    (r"self_attn|mlp[._](gate|up|down)_proj", "a language model or another text encoder"),
)
_FOREIGN = tuple((re.compile(pattern), words) for pattern, words in FOREIGN)
SINGLE_STREAM = "Qwen-Image-2.1"
# Our names of modules that only one family has: (pattern, family).
_FAMILIES = (
    (
        re.compile(r"img_mlp\.(proj|gate_layer|out)$|txt_in\.\w+_(layer|norm)$|modulation\.1$"),
        SINGLE_STREAM,
    ),
    (re.compile(r"attn\.(add_|to_add_|norm_added)|\.net\.|_mod\.1$|txt_(in|norm)$"), "Qwen-Image"),
)
_PART = re.compile(r"(.+)\.(?:" + "|".join(f"(?P<{k}>{v})" for k, v in PARTS.items()) + r")")


@dataclass(frozen=True)
class Named:
    """A tensor's name, parsed. `ours` is empty where the module is none of ours."""

    module: str  # as the file spells it
    part: str  # a key of PARTS
    role: str = ""  # "model" or "text"
    ours: tuple[str, ...] = ()


@functools.cache
def modules(role: str) -> frozenset[str]:
    """Our names of all linear layers and norms that a model of any depth can have."""
    if role == "text":
        in_layer = (*TEXT_MODULES, *TEXT_NORMS)
        each = (f"layers.{i}.{m}" for i in range(MOST_LAYERS) for m in in_layer)
        return frozenset((*each, OUTER_TEXT_NORM))
    in_block = (*BLOCK_MODULES, *SINGLE_BLOCK_MODULES, *FUSED, *BLOCK_NORMS)
    each = (f"transformer_blocks.{i}.{m}" for i in range(MOST_LAYERS) for m in in_block)
    outer = (*OUTER_MODULES, *SINGLE_OUTER_MODULES, OUTER_NORM, SINGLE_OUTER_NORM)
    return frozenset((*each, *outer))


def model_family(ours: Iterable[str]) -> str | None:
    """The family that modules of a diffusion model belong to, by our names; None where both have
    them.
    """
    ours = list(ours)
    return next((words for mark, words in _FAMILIES if any(map(mark.search, ours))), None)


def is_norm(ours: str) -> bool:
    """True for our name of a norm, False for that of a linear layer."""
    return ours in (OUTER_NORM, SINGLE_OUTER_NORM, OUTER_TEXT_NORM) or ours.endswith(
        (*BLOCK_NORMS, *TEXT_NORMS)
    )


@functools.cache
def _flat(role: str) -> dict[str, str]:
    return {name.replace(".", "_"): name for name in modules(role)}


def _stripped(name: str, wrappers: tuple[str, ...]) -> str:
    """The name without any of the wrappers, however many there are."""
    while wrapper := next((w for w in wrappers if name.startswith(w)), None):
        name = name[len(wrapper) :]
    return name


def _flat_module(name: str) -> tuple[str, str] | None:
    for prefix in FLAT:
        if name.startswith(prefix) and (ours := _flat("model").get(name[len(prefix) :])):
            return "model", ours
    for prefix in FLAT_TEXT:
        for inside in INSIDE_FLAT_TEXT:
            if name.startswith(prefix + inside):
                ours = _flat("text").get(name[len(prefix + inside) :])
                if ours:
                    return "text", ours
    return None


def _module(name: str) -> tuple[str, str] | None:
    """(role, our name) of a module as a file spells it; None when it is none of ours."""
    if name.startswith((*FLAT, *FLAT_TEXT)):
        return _flat_module(name)
    bare = _stripped(name, WRAPPERS)
    text = _stripped(bare, TEXT_WRAPPERS + INSIDE_TEXT)
    if bare in modules("model"):
        return "model", bare
    return ("text", text) if text in modules("text") else None


def _unfused(name: str) -> tuple[str, ...]:
    for fused, parts in FUSED.items():
        if name.endswith("." + fused):
            return tuple(name.removesuffix(fused) + part for part in parts)
    return (name,)


def understand(name: str) -> Named | None:
    """Parses a tensor's name; None when it is no part of a LoRA at all."""
    match = _PART.fullmatch(name)
    if not match:
        return None
    module, part = match[1], next(key for key in PARTS if match[key])
    ours = _module(module)
    return Named(module, part, ours[0], _unfused(ours[1])) if ours else Named(module, part)


def seems_for(names: list[str]) -> str | None:
    """The model that a LoRA with these tensor names seems to be for, when it is not Qwen-Image."""
    return next((words for mark, words in _FOREIGN if any(mark.search(n) for n in names)), None)


def other_words(part: str) -> str:
    """A description of an "other" part."""
    return next((words for mark, words in OTHER_WORDS if mark.search(part)), "of another method")
