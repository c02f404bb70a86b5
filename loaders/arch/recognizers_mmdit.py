"""Recognizers of the diffusion model and of the controls that are built of its blocks."""

from __future__ import annotations

from collections.abc import Container, Mapping

from ...kernels.configs import MMDiTConfig, SingleStreamConfig
from ..formats import gguf_metadata
from .dims import (
    BLOCKWISE_SIZES,
    FUN_SIZES,
    UNION_SIZES,
    Shapes,
    count,
    mmdit_sizes,
    single_stream_sizes,
    size,
    sizes,
)
from .expected_tensors import (
    Layout,
    blockwise_layout,
    controlnet_layout,
    fun_layout,
    joined_layout,
    mmdit_layout,
    single_stream_layout,
    union_layout,
)
from .file_facts import FAMILY_KEY, FileFacts, complete
from .header_view import HeaderView
from .key_maps import (
    BLOCKWISE_MARK,
    FUN_MARKS,
    FUSED_ROWS,
    MMDIT_UNREAD,
    SINGLE_STREAM_MARKS,
    KeyMap,
    fun_names,
    fused_parts,
    mmdit_names,
)
from .variant import VARIANT_KEY, variant_by_marks

UNMARKED = "qwen-image or edit (identical tensors)"
UNMARKED_21 = "2.1 or turbo (identical tensors)"
CONTROL_WIDTHS = {64: "union", 68: "inpainting"}  # features per token of InstantX's picture
HEAD = 128  # head size of every published model of the family


def mmdit(view: HeaderView) -> FileFacts | None:
    """Recognizes a Qwen-Image MMDiT, or InstantX's ControlNet for it."""
    if not (
        view.has("txt_norm.weight", "img_in.weight")
        and view.starts("transformer_blocks.0.attn.")
        and view.starts("transformer_blocks.0.txt_mod.1.")
    ):
        return None
    names = view.names(mmdit_names)
    shapes = view.shapes(names)
    config = _config(shapes)
    if "controlnet_x_embedder.weight" in names.table:
        width = size(shapes, "controlnet_x_embedder.weight", 1)
        role, variant = "controlnet", CONTROL_WIDTHS.get(width, f"{width} channels")
        layout = controlnet_layout(config, width)
    else:
        layered = "time_text_embed.addition_t_embedding.weight" in names.table
        zero_cond = (
            gguf_metadata.ZERO_COND_MARK in names.marks or view.config.get("zero_cond_t") is True
        )
        by_marks = variant_by_marks(view.metadata.get(FAMILY_KEY, "qwen-image"), zero_cond, layered)
        role = "diffusion_model"
        variant = by_marks.name if by_marks else view.metadata.get(VARIANT_KEY, UNMARKED)
        layout = mmdit_layout(config, layered)
    facts = FileFacts(
        role, "qwen-image", variant, layers=config.layers, config=_config_facts(config)
    )
    return complete(view, facts, names, _without_unread(layout, config.layers, shapes))


def _config(shapes: Shapes) -> MMDiTConfig:
    """Sizes as far as the tensors give them; a damaged file is still described."""
    numbers = mmdit_sizes(shapes)
    head = numbers["head_dim"] or HEAD
    return MMDiTConfig(
        layers=numbers["layers"],
        heads=numbers["width"] // head,
        head_dim=head,
        channels=numbers["channels"],
        joint=numbers["joint"],
        ff=numbers["ff"] or 4 * numbers["width"],
    )


def _config_facts(config: MMDiTConfig | SingleStreamConfig) -> dict[str, int]:
    """The numbers that come from tensors; rope axes and theta do not."""
    names = ("layers", "channels", "joint", "heads", "head_dim", "ff")
    return {name: getattr(config, name) for name in names}


def _without_unread(layout: Layout, layers: int, shapes: Shapes) -> Layout:
    """The layout without tensors that nobody reads and that this file lacks."""
    unread = {f"transformer_blocks.{layers - 1}.{name}" for name in MMDIT_UNREAD}
    return {n: s for n, s in layout.items() if n in shapes or n not in unread}


def blockwise(view: HeaderView) -> FileFacts | None:
    """Recognizes DiffSynth's blockwise controls."""
    if not view.has(BLOCKWISE_MARK):
        return None
    names = view.names(mmdit_names)
    shapes = view.shapes(names)
    config, layers = sizes(shapes, BLOCKWISE_SIZES), count(shapes, "controlnet_blocks.")
    variant = "blockwise inpainting" if config["condition"] == 68 else "blockwise"
    facts = FileFacts("controlnet", "qwen-image", variant, layers=layers, config=config)
    layout = blockwise_layout(config["width"], layers, config["condition"])
    return complete(view, facts, names, layout)


def fun(view: HeaderView) -> FileFacts | None:
    """Recognizes VideoX-Fun's control."""
    if not view.has(*FUN_MARKS):
        return None
    names = view.names(fun_names)
    shapes = view.shapes(names)
    if "transformer_blocks.0.img_mlp.out.weight" in shapes:
        return _union(view, names, shapes)
    numbers = sizes(shapes, FUN_SIZES)
    layers, head = count(shapes, "transformer_blocks."), numbers["head_dim"] or HEAD
    config = MMDiTConfig(
        layers=layers,
        heads=numbers["width"] // head,
        head_dim=head,
        channels=numbers["channels"],
        joint=numbers["joint"],
        ff=numbers["ff"],
    )
    facts = FileFacts(
        "controlnet", "qwen-image", "fun union", layers=layers, config=_config_facts(config)
    )
    layout = fun_layout(config, numbers["channels"])
    return complete(view, facts, names, _without_unread(layout, layers, shapes))


def _union(view: HeaderView, names: KeyMap, shapes: Shapes) -> FileFacts:
    """VideoX-Fun's control for Qwen-Image-2.1."""
    layers = {"layers": count(shapes, "transformer_blocks.")}
    config = _stream_config(sizes(shapes, UNION_SIZES) | layers)
    facts = FileFacts(
        "controlnet",
        "qwen-image-2.1",
        "fun union",
        layers=config.layers,
        config=_config_facts(config),
    )
    return complete(view, facts, names, _spelled(union_layout(config, config.channels), shapes))


def _stream_config(numbers: Mapping[str, int]) -> SingleStreamConfig:
    """Sizes as far as the tensors give them; a damaged file is still described."""
    head = numbers["head_dim"] or HEAD
    return SingleStreamConfig(
        layers=numbers["layers"],
        heads=numbers["width"] // head,
        head_dim=head,
        channels=numbers["channels"],
        joint=numbers["joint"],
        ff=numbers["ff"] or 3 * numbers["width"],
    )


def single_stream(view: HeaderView) -> FileFacts | None:
    """Recognizes Qwen-Image-2.1 in both spellings of its MLP."""
    if not view.has(*SINGLE_STREAM_MARKS):
        return None
    names = view.names(mmdit_names)
    config = _stream_config(single_stream_sizes(view.shapes(names)))
    facts = FileFacts(
        "diffusion_model",
        "qwen-image-2.1",
        view.metadata.get(VARIANT_KEY, UNMARKED_21),
        layers=config.layers,
        config=_config_facts(config),
    )
    return complete(view, facts, names, _spelled(single_stream_layout(config), view.shapes(names)))


def _spelled(layout: Layout, present: Container[str]) -> Layout:
    """The layout in the spelling of a file: with fused matrices where it has one, but for blocks
    in which it has the parts. present: our names of all weights that it has.
    """
    wholes = {
        name.replace(f"{parts[0]}.weight", f"{whole}.weight")
        for name in layout
        for whole, parts in FUSED_ROWS.items()
        if name.endswith(f".{parts[0]}.weight")
    }
    fused = fused_parts(wholes)
    if not any(whole in present for whole in fused):
        return layout
    own = {whole: p for whole, p in fused.items() if not any(part in present for part in p)}
    return joined_layout(layout, own)
