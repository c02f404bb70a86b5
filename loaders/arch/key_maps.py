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
FP8_MARK = "scaled_fp8"  # its type is that of the file's fp8 bytes: read by quant/fp8.py
MMDIT_UNUSED = (ZERO_COND_MARK, FP8_MARK)
HEAD = "lm_head."  # our names of the text encoder's output head, read only to generate text
STREAM = "encoded_exponent"  # what DFloat11 files have in place of a weight
PREFERENCE = "comfy_attention.config"  # end of a name, for ComfyUI's attention only
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

SINGLE_STREAM_MARKS = ("txt_in.text_norm.weight", "modulation.1.weight")
# One matrix of a file for several layers of ours, in the order of their rows.
FUSED_ROWS = {"img_mlp.gate_up": ("img_mlp.gate_layer", "img_mlp.proj")}

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
    "text_encoders.qwen3vl_8b.transformer.",
    "qwen3vl_8b.transformer.",
    "text_encoder.",
    "text_encoders.",
    "cond_stage_model.",
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
    in_file = set(names)
    anchors = tuple(anchors)
    return next((p for p in prefixes if any(p + a in in_file for a in anchors)), "")


def sort_names(
    names: Iterable[str],
    prefix: str,
    layout: str,
    rename: Callable[[str], str | None],
    unused: Callable[[str], bool],
) -> KeyMap:
    """Splits the file's names into the four groups of a KeyMap."""
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
    key_map = sort_names(names, prefix, "diffusers", lambda name: name, _is_mark)
    return replace(key_map, marks=_marks(names))


def fused_parts(names: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """Those of the names that are matrices of several layers, with their equal parts, one below the
    other, that networks have: see FUSED_ROWS. names: ours of all weights, packed ones too.
    """
    return {
        name: tuple(name.removesuffix(f"{end}.weight") + f"{part}.weight" for part in parts)
        for name in names
        for end, parts in FUSED_ROWS.items()
        if name.endswith(f".{end}.weight")
    }


def fun_names(names: Iterable[str]) -> KeyMap:
    """VideoX-Fun's control -> our names, see FUN_NAMES."""
    names = list(names)
    prefix = find_prefix(names, FUN_MARKS, MMDIT_PREFIXES)

    def rename(name: str) -> str | None:
        matches = ((re.fullmatch(pattern, name), ours) for pattern, ours in FUN_NAMES)
        return next((match.expand(ours) for match, ours in matches if match), None)

    return sort_names(names, prefix, "VideoX-Fun", rename, _is_mark)


def _is_mark(name: str) -> bool:
    return name.rpartition(".")[2] in MMDIT_UNUSED or name.endswith(PREFERENCE)


def _marks(names: Iterable[str]) -> frozenset[str]:
    return frozenset(mark for mark in MMDIT_UNUSED if any(n.endswith(mark) for n in names))


def text_names(names: Iterable[str]) -> KeyMap:
    """Qwen2.5-VL or Qwen3-VL in any of the known layouts (GGUF too) -> our names. The output head
    (see `head_names`) and rotary tables are unused."""
    return _text_names(names, _text_unused)


def head_names(names: Iterable[str]) -> KeyMap:
    """The same with the output head, under `HEAD`."""
    return _text_names(names, _text_mark)


def _text_names(names: Iterable[str], unused: Callable[[str], bool]) -> KeyMap:
    names = list(names)
    in_file = set(names)
    if in_file.issuperset(key_maps_gguf.TEXT_MARKS):
        return sort_names(names, "", "gguf", key_maps_gguf.text_name, unused)
    for prefix in TEXT_PREFIXES:
        for layout, anchor, rules in TEXT_LAYOUTS:
            if in_file & {prefix + anchor, prefix + anchor.removesuffix("weight") + STREAM}:
                return sort_names(names, prefix, layout, _renamer(rules), unused)
    return KeyMap({}, others=tuple(names), layout="unknown")


def _text_unused(name: str) -> bool:
    return name.startswith(HEAD) or _text_mark(name)


def _text_mark(name: str) -> bool:
    return name.endswith(("inv_freq", "logit_scale", FP8_MARK, PREFERENCE))


def _renamer(rules: tuple[tuple[str, str], ...]) -> Callable[[str], str | None]:
    def rename(name: str) -> str | None:
        rule = next(((theirs, ours) for theirs, ours in rules if name.startswith(theirs)), None)
        return rule[1] + name[len(rule[0]) :] if rule else None

    return rename
