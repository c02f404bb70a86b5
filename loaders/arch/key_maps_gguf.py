"""Names of tensors in GGUF files of the text encoder and its vision tower, as tables.

Unusual: whole names are matched, never parts of them ("output" is also the start of "output_norm").
Some of our tensors are several in the file: the table says which, and along which axis they are
joined. The diffusion model and the VAE keep the names of their other files.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from ...kernels.configs import DeepVisionConfig, TextConfig, VisionConfig
from ..formats.gguf_metadata import ARCHITECTURE

# (name in the file, ours); {n} is a number, {leaf} weight or bias.
TEXT = (
    ("token_embd.weight", "embed_tokens.weight"),
    ("output_norm.weight", "norm.weight"),
    ("output.weight", "lm_head.weight"),
    ("blk.{n}.attn_q.{leaf}", "layers.{n}.self_attn.q_proj.{leaf}"),
    ("blk.{n}.attn_k.{leaf}", "layers.{n}.self_attn.k_proj.{leaf}"),
    ("blk.{n}.attn_v.{leaf}", "layers.{n}.self_attn.v_proj.{leaf}"),
    ("blk.{n}.attn_q_norm.weight", "layers.{n}.self_attn.q_norm.weight"),
    ("blk.{n}.attn_k_norm.weight", "layers.{n}.self_attn.k_norm.weight"),
    ("blk.{n}.attn_output.weight", "layers.{n}.self_attn.o_proj.weight"),
    ("blk.{n}.ffn_gate.weight", "layers.{n}.mlp.gate_proj.weight"),
    ("blk.{n}.ffn_up.weight", "layers.{n}.mlp.up_proj.weight"),
    ("blk.{n}.ffn_down.weight", "layers.{n}.mlp.down_proj.weight"),
    ("blk.{n}.attn_norm.weight", "layers.{n}.input_layernorm.weight"),
    ("blk.{n}.ffn_norm.weight", "layers.{n}.post_attention_layernorm.weight"),
)
TEXT_MARKS = ("token_embd.weight", "blk.0.attn_q.weight")

# The same for the vision tower; names of one tensor of ours in their order.
PATCHES = ("v.patch_embd.weight", "v.patch_embd.weight.1")  # frames 0 and 1 of a kernel
QKV = ("v.blk.{n}.attn_q.{leaf}", "v.blk.{n}.attn_k.{leaf}", "v.blk.{n}.attn_v.{leaf}")
VISION = (
    ("v.blk.{n}.attn_qkv.{leaf}", "visual.blocks.{n}.attn.qkv.{leaf}"),  # newer converters
    ("v.blk.{n}.attn_out.{leaf}", "visual.blocks.{n}.attn.proj.{leaf}"),
    ("v.blk.{n}.ln1.weight", "visual.blocks.{n}.norm1.weight"),
    ("v.blk.{n}.ln2.weight", "visual.blocks.{n}.norm2.weight"),
    ("v.blk.{n}.ffn_gate.{leaf}", "visual.blocks.{n}.mlp.gate_proj.{leaf}"),
    ("v.blk.{n}.ffn_up.{leaf}", "visual.blocks.{n}.mlp.up_proj.{leaf}"),
    ("v.blk.{n}.ffn_down.{leaf}", "visual.blocks.{n}.mlp.down_proj.{leaf}"),
    ("v.post_ln.weight", "visual.merger.ln_q.weight"),
    ("mm.0.{leaf}", "visual.merger.mlp.0.{leaf}"),
    ("mm.2.{leaf}", "visual.merger.mlp.2.{leaf}"),
)
VISION_MARKS = ("v.patch_embd.weight", "v.post_ln.weight", "v.blk.0.ffn_gate.weight")
# Those of Qwen3-VL; the number of a deeper level is that of the block that it comes from.
DEEP_VISION = (
    ("v.patch_embd.bias", "visual.patch_embed.proj.bias"),
    ("v.position_embd.weight", "visual.pos_embed.weight"),
    ("v.blk.{n}.attn_qkv.{leaf}", "visual.blocks.{n}.attn.qkv.{leaf}"),
    ("v.blk.{n}.attn_out.{leaf}", "visual.blocks.{n}.attn.proj.{leaf}"),
    ("v.blk.{n}.ln1.{leaf}", "visual.blocks.{n}.norm1.{leaf}"),
    ("v.blk.{n}.ln2.{leaf}", "visual.blocks.{n}.norm2.{leaf}"),
    ("v.blk.{n}.ffn_up.{leaf}", "visual.blocks.{n}.mlp.linear_fc1.{leaf}"),
    ("v.blk.{n}.ffn_down.{leaf}", "visual.blocks.{n}.mlp.linear_fc2.{leaf}"),
    ("v.post_ln.{leaf}", "visual.merger.norm.{leaf}"),
    ("mm.0.{leaf}", "visual.merger.linear_fc1.{leaf}"),
    ("mm.2.{leaf}", "visual.merger.linear_fc2.{leaf}"),
    ("v.deepstack.{n}.norm.{leaf}", "visual.deepstack_merger_list.{n}.norm.{leaf}"),
    ("v.deepstack.{n}.fc1.{leaf}", "visual.deepstack_merger_list.{n}.linear_fc1.{leaf}"),
    ("v.deepstack.{n}.fc2.{leaf}", "visual.deepstack_merger_list.{n}.linear_fc2.{leaf}"),
)
DEEP_MARKS = ("v.patch_embd.weight", "v.post_ln.weight", "v.position_embd.weight")
_LEVEL = re.compile(r"v\.deepstack\.(0|[1-9]\d{0,5})\.")
# Name of ours -> (axis, names in the file): several tensors that are one of ours.
JOINED = (
    ("visual.patch_embed.proj.weight", "stack", 2, PATCHES),
    ("visual.blocks.{n}.attn.qkv.{leaf}", "cat", 0, QKV),
)

# Key of config.json -> key of the header, behind the architecture's name.
SETTINGS = (
    ("num_attention_heads", "attention.head_count", int),
    ("num_key_value_heads", "attention.head_count_kv", int),
    ("rope_theta", "rope.freq_base", float),
    ("rms_norm_eps", "attention.layer_norm_rms_epsilon", float),
)


@dataclass(frozen=True)
class JoinedTensors:
    """Tensors of a file that together are one of ours, joined along `axis`."""

    names: tuple[str, ...]
    axis: int = 0
    stack: bool = False  # along a new axis

    def shape(self, shapes: Iterable[tuple[int, ...]]) -> tuple[int, ...]:
        """Shape of the whole from the shapes of its parts."""
        shapes = list(shapes)
        first = shapes[0]
        if self.stack:
            return (*first[: self.axis], len(shapes), *first[self.axis :])
        return (*first[: self.axis], sum(s[self.axis] for s in shapes), *first[self.axis + 1 :])


def _pattern(template: str) -> re.Pattern[str]:
    text = re.escape(template).replace(r"\{n\}", r"(?P<n>0|[1-9]\d{0,5})")
    return re.compile(text.replace(r"\{leaf\}", "(?P<leaf>weight|bias)"))


def _renamer(table: Iterable[tuple[str, str]]) -> list[tuple[re.Pattern[str], str]]:
    return [(_pattern(theirs), ours) for theirs, ours in table]


_TEXT, _VISION, _DEEP = _renamer(TEXT), _renamer(VISION), _renamer(DEEP_VISION)
_JOINED = [
    (_pattern(parts[0]), ours, way == "stack", axis, parts) for ours, way, axis, parts in JOINED
]


def _renamed(name: str, table: Iterable[tuple[re.Pattern[str], str]]) -> str | None:
    matches = ((pattern.fullmatch(name), ours) for pattern, ours in table)
    return next((ours.format(**match.groupdict()) for match, ours in matches if match), None)


def text_name(name: str) -> str | None:
    """Our name of a tensor of the text encoder, or None."""
    return _renamed(name, _TEXT)


def tapped_blocks(names: Iterable[str]) -> tuple[int, ...]:
    """The blocks whose states deeper levels of a tower are made of, in order."""
    levels = (_LEVEL.match(name) for name in names)
    return tuple(sorted({int(level[1]) for level in levels if level}))


def _counted(name: str, levels: Mapping[int, int]) -> str:
    """A name of a deeper level with the number of the level in place of the block's."""
    match = _LEVEL.match(name)
    if match is None or int(match[1]) not in levels:
        return name
    return f"v.deepstack.{levels[int(match[1])]}.{name[match.end() :]}"


def vision_parts(names: Iterable[str]) -> tuple[dict[str, JoinedTensors], tuple[str, ...]]:
    """(our name -> tensors of the file, names that are not known) of a vision tower.

    A tensor of which one part is missing is left out; its other parts are then not known.
    """
    in_file = set(names)
    deep = in_file.issuperset(DEEP_MARKS)
    levels = {block: level for level, block in enumerate(tapped_blocks(in_file))} if deep else {}
    table: dict[str, JoinedTensors] = {}
    for name in in_file:
        for pattern, template, stack, axis, templates in _JOINED:
            match = pattern.fullmatch(name)
            parts = tuple(t.format(**match.groupdict()) for t in templates) if match else ()
            if match and in_file.issuperset(parts):
                table[template.format(**match.groupdict())] = JoinedTensors(parts, axis, stack)
        ours = _renamed(_counted(name, levels), _DEEP if deep else _VISION)
        if ours:
            table[ours] = JoinedTensors((name,))
    used = {part for joined in table.values() for part in joined.names}
    return dict(sorted(table.items())), tuple(sorted(in_file - used))


def joined_shapes(
    shapes: Mapping[str, tuple[int, ...]], table: Mapping[str, JoinedTensors]
) -> dict[str, tuple[int, ...]]:
    """Shapes by our names from those of the file."""
    return {
        ours: parts.shape(shapes[name] for name in parts.names) for ours, parts in table.items()
    }


def settings(metadata: Mapping[str, str]) -> dict[str, int | float]:
    """The header's numbers of a language model, by the keys of config.json.

    Numbers in the header have 7 digits (0.000001 is not one of them): they are rounded to that.
    """
    architecture = metadata.get(ARCHITECTURE, "")
    numbers: dict[str, int | float] = {}
    for ours, theirs, kind in SETTINGS:
        text = metadata.get(f"{architecture}.{theirs}")
        if text is None:
            continue
        try:
            numbers[ours] = kind(f"{float(text):.7g}")
        except ValueError:
            continue  # a number with a fraction, or no number: shapes and defaults count
    return numbers


def more_settings(
    config: TextConfig, tower: VisionConfig | DeepVisionConfig | None
) -> dict[str, int]:
    """Numbers that llama.cpp's converter writes beside SETTINGS for Qwen3 (norms of q and k)."""
    numbers = {"attention.key_length": config.head_dim} if config.qk_norm else {}
    if isinstance(tower, DeepVisionConfig):
        numbers["n_deepstack_layers"] = len(tower.taps)
    return numbers
