"""Names of the VAE's tensors in the Wan / ComfyUI layout -> diffusers names, as a table."""

from collections.abc import Iterable
from itertools import product

from .dims import RESIDUAL_VAE_MARK
from .key_maps import KeyMap, find_prefix, sort_names

VAE_PREFIXES = ("", "vae.", "first_stage_model.", "model.")
WAN_MARK = "decoder.middle.0.residual.0.gamma"
DIFFUSERS_VAE_MARK = "decoder.mid_block.resnets.0.norm1.gamma"

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


def _with_leaf(ours: str, theirs: str) -> list[tuple[str, str]]:
    last = ours.rpartition(".")[2]
    leaves = ("gamma",) if last in NORMS else ("weight", "bias")
    return [(f"{ours}.{leaf}", f"{theirs}.{leaf}") for leaf in leaves]


def _inside(ours: str, theirs: str, parts: tuple[tuple[str, str], ...]) -> list[tuple[str, str]]:
    return [pair for a, b in parts for pair in _with_leaf(f"{ours}.{a}", f"{theirs}.{b}")]


def _outer_pairs() -> list[tuple[str, str]]:
    """Tensors outside the blocks: the same in both families."""
    pairs = [pair for a, b in OUTER_PARTS for pair in _with_leaf(a, b)]
    for side in ("encoder", "decoder"):
        for ours, number in (("resnets.0", 0), ("resnets.1", 2)):
            theirs = f"{side}.middle.{number}"
            pairs += _inside(f"{side}.mid_block.{ours}", theirs, RESNET_PARTS)
        pairs += _inside(f"{side}.mid_block.attentions.0", f"{side}.middle.1", ATTENTION_PARTS)
    return pairs


def wan_vae_table(stages: int = 4, res_blocks: int = 2) -> dict[str, str]:
    """Wan / Comfy name -> diffusers name for every tensor that such a VAE can have.

    It also lists shortcuts and time_convs that the 194-tensor file lacks; looking up never adds.
    """
    pairs = _outer_pairs()
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


def residual_vae_table(stages: int = 5, res_blocks: int = 2) -> dict[str, str]:
    """The same for the VAE of Qwen-Image-2.1, whose names have blocks inside blocks."""
    pairs = _outer_pairs()
    sides = (("encoder", "down", res_blocks), ("decoder", "up", res_blocks + 1))
    for (side, way, blocks), stage in product(sides, range(stages)):
        ours, theirs = f"{side}.{way}_blocks.{stage}", f"{side}.{way}samples.{stage}.{way}samples"
        for number in range(blocks):
            pairs += _inside(f"{ours}.resnets.{number}", f"{theirs}.{number}", RESNET_PARTS)
        pairs += _inside(f"{ours}.{way}sampler", f"{theirs}.{blocks}", SAMPLER_PARTS)
    return {theirs: ours for ours, theirs in pairs}


def vae_names(names: Iterable[str], stages: int = 4, res_blocks: int = 2) -> KeyMap:
    """VAE of either family in Wan / Comfy or diffusers layout -> diffusers names. time_conv is
    known unused."""
    names = list(names)
    prefix = find_prefix(names, (WAN_MARK, DIFFUSERS_VAE_MARK), VAE_PREFIXES)
    wan = prefix + WAN_MARK in names
    nested = any(map(RESIDUAL_VAE_MARK.search, names))
    known = (residual_vae_table if nested else wan_vae_table)(stages, res_blocks)
    ours = set(known.values())
    rename = known.get if wan else lambda name: name if name in ours else None
    layout = "wan" if wan else "diffusers"
    return sort_names(names, prefix, layout, rename, lambda name: ".time_conv." in name)
