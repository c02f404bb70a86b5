"""Sizes of networks from the shapes of their tensors: the one place that infers them.

Nothing here raises. A size that no tensor gives is 0: a damaged file is still described
(file_facts.py compares it with the layout that it should have), and config.py refuses the 0.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TypeVar

from ...kernels.configs import DeepVisionConfig, ResidualVAEConfig, VAEConfig, VisionConfig

Tower = TypeVar("Tower", VisionConfig, DeepVisionConfig)
Shapes = Mapping[str, tuple[int, ...]]  # our tensor names -> shapes

# size -> (our name of the tensor that gives it, axis)
MMDIT_SIZES = {
    "width": ("img_in.weight", 0),
    "channels": ("img_in.weight", 1),
    "joint": ("txt_norm.weight", 0),
    "head_dim": ("transformer_blocks.0.attn.norm_q.weight", 0),
    "ff": ("transformer_blocks.0.img_mlp.net.0.proj.weight", 0),
}
SINGLE_STREAM_SIZES = {
    "width": ("img_in.weight", 0),
    "channels": ("img_in.weight", 1),
    "joint": ("txt_in.text_norm.weight", 0),
    "head_dim": ("transformer_blocks.0.attn.norm_q.weight", 0),
    "ff": ("transformer_blocks.0.img_mlp.out.weight", 1),
}
FUN_SIZES = MMDIT_SIZES | {
    "width": ("controlnet_x_embedder.weight", 0),
    "channels": ("controlnet_x_embedder.weight", 1),
    "joint": ("controlnet_x_embedder.weight", 0),  # it has no text of its own
}
UNION_SIZES = FUN_SIZES | {"ff": ("transformer_blocks.0.img_mlp.out.weight", 1)}
BLOCKWISE_SIZES = {"width": ("img_in.weight", 0), "condition": ("img_in.weight", 1)}
TEXT_SIZES = {
    "vocab": ("embed_tokens.weight", 0),
    "width": ("embed_tokens.weight", 1),
    "queries": ("layers.0.self_attn.q_proj.weight", 0),
    "keys": ("layers.0.self_attn.k_proj.weight", 0),
    "ff": ("layers.0.mlp.gate_proj.weight", 0),
}
VISION_SIZES = ("depth", "width", "ff", "patch", "frames", "merge", "channels", "out")
QK_NORM = "layers.0.self_attn.q_norm.weight"  # marks Qwen3
BIAS = "layers.0.self_attn.k_proj.bias"  # marks Qwen2.5
DEEP = "visual.deepstack_merger_list."  # of the tower of Qwen3-VL
HEAD = 128  # head size of every published Qwen2.5 from 3B up and Qwen3
MOST_LAYERS, MOST_BLOCKS = 256, 16  # an absurd number in a name must not cost an absurd layout
_NUMBER = r"(\d{1,6})"
_UP = re.compile(
    rf"(?:^|\.)decoder\.(?:up_blocks\.{_NUMBER}\.(?:resnets\.{_NUMBER}\.)?"
    rf"|upsamples\.{_NUMBER}\.upsamples\.(?:{_NUMBER}\.(?:residual|shortcut)\.)?)"
)
_DOWN = re.compile(rf"(?:^|\.)encoder\.down_blocks\.{_NUMBER}\.")
# blocks inside blocks: only the VAE of Qwen-Image-2.1 and that of Wan 2.2 have them
RESIDUAL_VAE_MARK = re.compile(
    r"(?:^|\.)(?:encoder\.(?:down_blocks\.\d+\.(?:resnets|downsampler)|downsamples\.\d+\.downsamples)"
    r"|decoder\.(?:up_blocks\.\d+\.upsampler|upsamples\.\d+\.upsamples))\."
)
_TEMPORAL = re.compile(
    rf"(?:^|\.)encoder\.(?:down_blocks|downsamples)\.{_NUMBER}\.(?:.*\.)?time_conv\."
)


def size(shapes: Shapes, name: str, axis: int = 0) -> int:
    """One side of one tensor; 0 when the tensor or the axis is not there."""
    return next(iter(shapes.get(name, ())[axis : axis + 1]), 0)


def sizes(shapes: Shapes, table: Mapping[str, tuple[str, int]]) -> dict[str, int]:
    """Every size of a table such as MMDIT_SIZES."""
    return {key: size(shapes, *where) for key, where in table.items()}


def count(names: Iterable[str], start: str, most: int = MOST_LAYERS) -> int:
    """1 + the largest number behind `start`, at most `most`; 0 when there is none."""
    matches = (re.match(re.escape(start) + r"(\d{1,6})\.", name) for name in names)
    return max((min(int(match[1]) + 1, most) for match in matches if match), default=0)


def mmdit_sizes(shapes: Shapes) -> dict[str, int]:
    """Sizes of an MMDiT or of a ControlNet of its shape."""
    return sizes(shapes, MMDIT_SIZES) | {"layers": count(shapes, "transformer_blocks.")}


def single_stream_sizes(shapes: Shapes) -> dict[str, int]:
    """Sizes of the network of Qwen-Image-2.1."""
    return sizes(shapes, SINGLE_STREAM_SIZES) | {"layers": count(shapes, "transformer_blocks.")}


def text_sizes(shapes: Shapes) -> dict[str, int]:
    """Sizes of the language model; heads are not among them (see text_heads)."""
    return sizes(shapes, TEXT_SIZES) | {"layers": count(shapes, "layers.")}


def text_heads(
    sizes: Mapping[str, int], extra: Mapping[str, object]
) -> tuple[int, int, int] | None:
    """(heads, key-value heads, head size) by config.json, else heads of 128; None = no fit."""
    inner = extra.get("text_config")
    extra = {**extra, **inner} if isinstance(inner, Mapping) else extra
    heads, head = _natural(extra.get("num_attention_heads")), _natural(extra.get("head_dim"))
    if not head:
        head = sizes["queries"] // heads if heads else HEAD
    if not head or not sizes["keys"] or sizes["queries"] % head or sizes["keys"] % head:
        return None
    heads, kv_heads = sizes["queries"] // head, sizes["keys"] // head
    return None if heads % kv_heads else (heads, kv_heads, head)


def _natural(value: object) -> int:
    """A positive number of a config.json; 0 for all else."""
    return value if type(value) is int and value > 0 else 0


def vision_sizes(shapes: Shapes) -> VisionConfig | DeepVisionConfig | None:
    """VISION_SIZES of the vision tower, all else as published; None where the file has none."""
    patch = shapes.get("visual.patch_embed.proj.weight", ())
    if len(patch) != 5:
        return None
    if "visual.pos_embed.weight" in shapes:
        return _deep_sizes(shapes, patch)
    return _tower(VisionConfig, shapes, patch, ("mlp.0", "mlp.2", "gate_proj"))


def _deep_sizes(shapes: Shapes, patch: tuple[int, ...]) -> DeepVisionConfig:
    """The same of Qwen3-VL. The tensors show how many blocks are tapped, not which: they count up
    here from 0."""
    return _tower(
        DeepVisionConfig,
        shapes,
        patch,
        ("linear_fc1", "linear_fc2", "linear_fc1"),
        places=size(shapes, "visual.pos_embed.weight"),
        taps=tuple(range(count(shapes, DEEP))),
    )


def _tower(
    kind: Callable[..., Tower],
    shapes: Shapes,
    patch: tuple[int, ...],
    parts: tuple[str, str, str],
    **more: object,
) -> Tower:
    """A config of either tower. patch: the shape of the patch embedding; parts: names of the layers
    of the merger and of the first one of an MLP; more: fields that only one tower has.
    """
    join, out, up = parts
    joined = size(shapes, f"visual.merger.{join}.bias")
    return kind(
        depth=count(shapes, "visual.blocks."),
        width=patch[0],
        channels=patch[1],
        ff=size(shapes, f"visual.blocks.0.mlp.{up}.bias"),
        frames=patch[2],
        patch=patch[3],
        merge=math.isqrt(joined // max(1, patch[0])),
        out=size(shapes, f"visual.merger.{out}.bias"),
        **more,
    )


def vae_blocks(names: Iterable[str]) -> tuple[int, int]:
    """(stages, residual blocks per encoder stage) of diffusers names, or of Wan names that have
    blocks inside blocks, under any prefix.

    Blocks that a damaged file lacks are still counted where the other stages, or the encoder,
    know of them. Plain Wan names number all blocks through: for them the published (4, 2).
    """
    names = list(names)
    ups = [match for match in map(_UP.search, names) if match]
    downs = [int(match[1]) for match in map(_DOWN.search, names) if match]
    blocks: dict[int, int] = {}  # stage -> resnets of the decoder there
    for up in ups:
        stage, inner = int(up[1] or up[3]), up[2] or up[4]
        blocks[stage] = max(blocks.get(stage, 0), int(inner) + 1 if inner else 0)
    if not any(blocks.values()):
        return 4, 2
    stages_with = Counter(blocks.values())  # resnets -> stages that have as many
    usual = max(stages_with, key=lambda number: (stages_with[number], number))
    usual = min(max(2, usual), MOST_BLOCKS)  # the decoder has one block more than the encoder
    if any(map(RESIDUAL_VAE_MARK.search, names)):  # the encoder's blocks are its stages
        stages = max(*blocks, *downs, 0) + 1
    else:
        stages = max(max(blocks) + 1, math.ceil((max(downs, default=-1) + 2) / usual))
    return min(stages, MOST_BLOCKS), usual - 1


def vae_sizes(shapes: Shapes, unused: Iterable[str] = ()) -> VAEConfig:
    """Sizes of the VAE of either family (our names). unused: names of tensors that a still does
    not need, which say where the network halves time.
    """
    stages, blocks = vae_blocks(shapes)
    residual = any(map(RESIDUAL_VAE_MARK.search, shapes))
    down = ".resnets.0" if residual else ""
    step = 1 if residual else blocks + 1
    ups = [
        size(shapes, f"decoder.up_blocks.{stages - 1 - stage}.resnets.0.conv1.weight")
        for stage in range(stages)
    ]
    downs = [
        size(shapes, f"encoder.down_blocks.{stage * step}{down}.conv1.weight")
        for stage in range(stages)
    ]
    z = size(shapes, "decoder.conv_in.weight", 1) or size(shapes, "post_quant_conv.weight")
    channels = size(shapes, "decoder.conv_out.weight") or size(shapes, "encoder.conv_in.weight", 1)
    if not residual:
        widths = [up or down for up, down in zip(ups, downs, strict=True)]
        return VAEConfig(widths[0] or 1, _multiples(widths), blocks, z, channels)
    marks = {int(match[1]) for match in map(_TEMPORAL.search, unused) if match}
    return ResidualVAEConfig(
        base=downs[0] or 1,
        mult=_multiples(downs if all(downs) else ups),
        res_blocks=blocks,
        z=z,
        channels=channels,
        decoder_base=ups[0] or 1,
        # a file without these tensors is taken for the published one
        temporal=tuple(n in marks if marks else n > 0 for n in range(stages - 1)),
    )


def _multiples(widths: Sequence[int]) -> tuple[int, ...]:
    """Widths as multiples of the first."""
    return tuple(width // max(1, widths[0]) for width in widths)
