"""Recognizers: which network a header belongs to, one function per kind, tried in order.

Each looks at names and shapes and returns facts, or None where the file is of another kind. Known
families are compared with the layout that their own sizes call for, so missing, unexpected and
wrongly shaped tensors are listed by name. A damaged header still gives facts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from ...kernels.configs import DeepVisionConfig, TextConfig, VisionConfig
from ..formats.gguf_metadata import ARCHITECTURE
from . import key_maps_gguf
from .dims import BIAS, QK_NORM, VISION_SIZES, Shapes, text_heads, text_sizes, vision_sizes
from .encoder_models import QWEN3_VL, QWEN25_VL, EncoderModel, encoder_model
from .expected_tensors import text_layout, vision_layout
from .file_facts import FileFacts, complete
from .header_view import HeaderView, formats_of
from .key_maps import KeyMap, text_names
from .key_maps_lora import (
    CONTEXT_MODULES,
    CONTEXT_RANK,
    SINGLE_STREAM,
    Named,
    model_family,
    seems_for,
    understand,
)
from .marks import BLOCK_LORA_MARK, FOREIGN, LORA_MARK, OTHER_LORA_MARK, QWEN_LORA_MARK
from .recognizers_mmdit import blockwise, fun, mmdit, single_stream
from .recognizers_vae import other_vae, vae
from .variant import SPEC, VARIANTS


def _lora(view: HeaderView) -> FileFacts | None:
    marked = [name for name in view.entries if LORA_MARK.search(name)]
    if not marked:
        return None
    known = {name: understand(name) for name in marked}
    roles = {named.role for named in known.values() if named and named.ours}
    strangers = [name for name, named in known.items() if not (named and named.ours)]
    if roles == {"text"} and seems_for(strangers) is None:
        # the names of any language model: whether it fits this one, its shapes say at load
        return FileFacts(
            "lora", "qwen2.5-vl, perhaps", "for the text encoder", "lora", formats=formats_of(view)
        )
    qwen = any(QWEN_LORA_MARK.search(name) for name in marked)
    other = any(OTHER_LORA_MARK.search(name) for name in strangers)
    blocks = qwen or (not other and any(BLOCK_LORA_MARK.search(name) for name in marked))
    family = "qwen-image" if qwen else "qwen-image, perhaps" if blocks else "other"
    if (
        model_family(name for named in known.values() if named for name in named.ours)
        == SINGLE_STREAM
    ):
        family = "qwen-image-2.1"
    problem = "" if blocks else "none of its names belongs to Qwen-Image, it is for another model"
    variant = "perhaps the in-context control" if _in_context(view, known) else _label(view)
    return FileFacts("lora", family, variant, "lora", formats=formats_of(view), problem=problem)


def _label(view: HeaderView) -> str:
    """For which variant it was trained, as its metadata say: names and shapes are those of all."""
    label, _, lora = view.metadata.get(SPEC, "").rpartition("/")
    known = {variant.spec for variant in VARIANTS.values() if variant.spec}
    return f"for {label}" if lora == "lora" and label in known else ""


def _in_context(view: HeaderView, known: Mapping[str, Named | None]) -> bool:
    """True for the modules and the rank of DiffSynth's union control; other LoRAs may have them."""
    reached = {n.ours[0].split(".", 2)[-1] for n in known.values() if n and n.ours}
    downs = [view.entries[name] for name, n in known.items() if n and n.part == "down"]
    ranks = {entry.shape[0] for entry in downs if len(entry.shape) == 2}
    return reached == CONTEXT_MODULES and ranks == {CONTEXT_RANK}


def _text_config(
    shapes: Shapes, extra: Mapping[str, object]
) -> tuple[TextConfig, dict[str, object]]:
    """(the config for the layout, the facts that are certain). Where the heads are not known, one
    head as wide as the projection gives the same shapes.
    """
    numbers = text_sizes(shapes)
    heads = text_heads(numbers, extra)
    count, kv_heads, head_dim = heads or (numbers["queries"], numbers["keys"], 1)
    facts: dict[str, object] = {key: numbers[key] for key in ("layers", "width", "vocab", "ff")}
    if heads:
        facts |= {"heads": count, "kv_heads": kv_heads, "head_dim": head_dim}
    published = QWEN3_VL if QK_NORM in shapes else QWEN25_VL
    config = replace(
        published.config,
        layers=numbers["layers"],
        width=numbers["width"],
        heads=count,
        kv_heads=kv_heads,
        head_dim=head_dim,
        ff=numbers["ff"],
        vocab=numbers["vocab"],
    )
    return config, facts


_TEXT_MARKS = frozenset(
    f"layers.0.{end}"
    for end in ("self_attn.q_proj.weight", "self_attn.q_proj.qweight", "encoded_exponent")
)


def _stranger(
    view: HeaderView, names: KeyMap, vision: VisionConfig | DeepVisionConfig | None
) -> str:
    """Why a language model is none of ours; "" where it may be. Those of Qwen3-VL and of Qwen3 have
    the same tensors, and so have the towers of Qwen3-VL and Qwen3.5 but for DeepStack.
    """
    if BIAS in names.table:
        return ""
    needs = ", ".join(f"{m.diffusion_model} needs {m.full}" for m in (QWEN25_VL, QWEN3_VL))
    if QK_NORM not in names.table:
        return f"it is a language model without biases on q, k and v (Llama or another), {needs}"
    if names.layout == "gguf":
        known = view.metadata.get(ARCHITECTURE) == QWEN3_VL.architecture
    else:
        known = isinstance(vision, DeepVisionConfig) and bool(vision.taps)
    return "" if known else f"it is a language model of Qwen3 without the eyes of Qwen3-VL, {needs}"


def _text(view: HeaderView) -> FileFacts | None:
    names = view.names(text_names)
    if not _TEXT_MARKS & names.table.keys():
        return None
    shapes = view.shapes(names)
    vision = vision_sizes(shapes)
    stranger = _stranger(view, names, vision)
    if stranger:
        return FileFacts("text_encoder", "other", formats=formats_of(view), problem=stranger)
    config, certain = _text_config(
        shapes, key_maps_gguf.settings(view.metadata) | dict(view.config)
    )
    model = encoder_model(config)
    apart = "vision in an mmproj file" if names.layout == "gguf" else "without vision (no edits)"
    facts = FileFacts(
        "text_encoder",
        model.name,
        f"{model.size_of(config.width)}, " + ("with vision" if vision else apart),
        layers=config.layers,
        config=certain,
        problem=model.wrong_size(config.width),
    )
    return complete(view, facts, names, text_layout(config, vision))


def _mmproj(view: HeaderView) -> FileFacts | None:
    """The vision tower of a GGUF text encoder, a file of its own."""
    if not view.starts("v.blk.") or not view.starts("mm."):
        return None
    table, others = key_maps_gguf.vision_parts(view.entries)
    shapes = key_maps_gguf.joined_shapes({n: e.shape for n, e in view.entries.items()}, table)
    sizes = vision_sizes(shapes)
    model = _model_of_tower(view, sizes)
    if sizes is None or model is None:
        needs = (f"{m.diffusion_model} needs that of {m.full}" for m in (QWEN25_VL, QWEN3_VL))
        return FileFacts(
            "vision",
            "other",
            layout="gguf",
            formats=formats_of(view),
            problem="it is the vision part of another model, " + ", ".join(needs),
        )
    names = KeyMap({n: parts.names[0] for n, parts in table.items()}, (), others, layout="gguf")
    facts = FileFacts(
        "vision",
        model.name,
        f"for text encoders of width {sizes.out}",
        layers=sizes.depth,
        config={name: getattr(sizes, name) for name in VISION_SIZES},
    )
    return complete(view, facts, names, vision_layout(sizes), shapes)


def _model_of_tower(
    view: HeaderView, sizes: VisionConfig | DeepVisionConfig | None
) -> EncoderModel | None:
    """The model whose tower a GGUF file is; None where it is of none that we know."""
    if isinstance(sizes, DeepVisionConfig):
        deep = bool(sizes.taps) and view.has(*key_maps_gguf.DEEP_MARKS)
        return QWEN3_VL if deep else None
    return QWEN25_VL if view.has(*key_maps_gguf.VISION_MARKS) else None


def _foreign(view: HeaderView) -> FileFacts | None:
    for marks, role, family, words in FOREIGN:
        if view.has(*marks):
            return FileFacts(
                role,
                family,
                formats=formats_of(view),
                problem=f"it is {words}, not of the Qwen-Image family",
            )
    return None


_Recognizer = Callable[[HeaderView], FileFacts | None]
_RECOGNIZERS: tuple[_Recognizer, ...] = (
    _lora,
    single_stream,
    blockwise,
    fun,
    mmdit,
    _foreign,
    vae,
    other_vae,
    _text,
    _mmproj,
)
_BY_PART: dict[str, _Recognizer] = {"vae": vae, "text_encoder": _text}


def recognize(view: HeaderView, want: str | None = None) -> FileFacts | None:
    """Facts by the first recognizer that knows the file; `want` names the part to try first."""
    first = (_BY_PART[want],) if want in _BY_PART else ()
    results = (recognizer(view) for recognizer in (*first, *_RECOGNIZERS))
    return next(filter(None, results), None)
