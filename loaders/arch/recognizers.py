"""Recognizers: which network a header is of, one function per kind, tried in order.

Each looks at names and shapes and gives facts, or None where the file is of another kind. Known
families are compared with the layout that their own sizes call for, so that what is missing,
unexpected or of a wrong shape is told by name. Whatever a header lacks, facts come back.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from ...kernels.configs import MMDiTConfig, TextConfig, VAEConfig
from ...quant.storage import WeightSource
from ..formats import gguf_metadata
from ..formats.safetensors_header import TensorEntry
from . import expected_tensors, key_maps, key_maps_gguf
from .dims import (
    BLOCKWISE_SIZES,
    FUN_SIZES,
    VISION_SIZES,
    Shapes,
    count,
    mmdit_sizes,
    size,
    sizes,
    text_heads,
    text_sizes,
    vae_blocks,
    vae_sizes,
    vision_sizes,
)
from .header_view import MARKED, SUPPORTED, HeaderView, formats_of
from .key_maps_lora import CONTEXT_MODULES, CONTEXT_RANK, Named, seems_for, understand
from .variant import VARIANT_KEY, marked

FAMILY_KEY = "inkstone_family"  # metadata of our own files, see family.py
UNMARKED = "qwen-image or edit (identical tensors)"


@dataclass(frozen=True)
class FileFacts:
    """Everything that the header tells. `config` has the field names of our kernels' configs."""

    role: str  # a key of detect.ROLES, or "unknown"
    family: str = "unknown"
    variant: str = ""
    layout: str = ""  # diffusers, wan, transformers, old transformers, plain, bundle ...
    prefix: str = ""
    formats: tuple[str, ...] = ()
    packed: dict[str, int] = field(default_factory=dict)  # matrices per packed format
    dtypes: dict[str, int] = field(default_factory=dict)  # tensors per dtype name
    parameters: int = 0
    layers: int = 0
    config: dict[str, object] = field(default_factory=dict)
    missing: tuple[str, ...] = ()  # our names
    unexpected: tuple[str, ...] = ()  # names of the file
    wrong: tuple[str, ...] = ()  # our names of tensors in a wrong shape
    problem: str = ""  # why this version cannot use it; empty when it can
    sentence: str = ""
    path: str = ""


@dataclass(frozen=True)
class _Compared:
    """A file beside the layout that it should have."""

    missing: tuple[str, ...] = ()
    unexpected: tuple[str, ...] = ()
    wrong: tuple[str, ...] = ()
    words: str = ""


def _compare(shapes: Shapes, names: key_maps.KeyMap, wanted: expected_tensors.Layout) -> _Compared:
    """Names and shapes against a layout; another rank is for the loader to judge."""
    missing = tuple(name for name in wanted if name not in shapes)
    extra = tuple(file for ours, file in names.table.items() if ours not in wanted)
    wrong = tuple(
        name
        for name, shape in wanted.items()
        if name in shapes and len(shapes[name]) == len(shape) and shapes[name] != shape
    )
    words = [_listed("missing", missing), _listed("unexpected", extra + names.others)]
    if wrong:
        first = f"{wrong[0]} expected {list(wanted[wrong[0]])}, got {list(shapes[wrong[0]])}"
        words.append(f"{len(wrong)} tensors have wrong shapes ({first})")
    return _Compared(missing, extra + names.others, wrong, "; ".join(filter(None, words)))


def _listed(what: str, names: tuple[str, ...]) -> str:
    return f"{len(names)} tensors are {what} ({', '.join(names[:5])})" if names else ""


def _finish(
    seen: HeaderView,
    facts: FileFacts,
    names: key_maps.KeyMap,
    wanted: expected_tensors.Layout,
    shapes: Shapes | None = None,
) -> FileFacts:
    """Counts, formats and the comparison with the layout, the same for every known family."""
    packed = seen.packed(names)
    counts = Counter(one.format for one in packed.found.values())
    counts = dict(counts.most_common())
    formats = formats_of(seen, counts)
    readable = SUPPORTED | counts.keys()
    strange = [f"{f}: not supported yet by this version" for f in formats if f not in readable]
    shapes = shapes or seen.shapes(names)
    plain = {ours: file for ours, file in names.table.items() if ours not in packed.parts}
    # by its header alone a packed matrix has another shape: there is nothing to compare
    blind = bool(strange or packed.fault) or bool(MARKED & set(formats)) and not counts
    found = _Compared() if blind else _compare(shapes, replace(names, table=plain), wanted)
    return replace(
        facts,
        formats=formats,
        packed=counts,
        family=seen.metadata.get(FAMILY_KEY, facts.family),
        prefix=names.prefix,
        missing=found.missing,
        unexpected=found.unexpected,
        wrong=found.wrong,
        layout="bundle, " + names.layout if names.outside else names.layout,
        parameters=sum(math.prod(shape) for shape in (wanted if blind else shapes).values()),
        problem=facts.problem or "; ".join(strange) or packed.fault or found.words,
    )


def _mmdit_config(shapes: Shapes) -> dict[str, int]:
    told = mmdit_sizes(shapes)
    head = told["head_dim"] or 128
    known = {key: told[key] for key in ("layers", "channels", "joint")}
    ff = told["ff"] or 4 * told["width"]
    return known | {"heads": told["width"] // head, "head_dim": head, "ff": ff}


def _mmdit(seen: HeaderView) -> FileFacts | None:
    if not (
        seen.has("txt_norm.weight", "img_in.weight")
        and seen.starts("transformer_blocks.0.attn.")
        and seen.starts("transformer_blocks.0.txt_mod.1.")
    ):
        return None
    names = key_maps.mmdit_names(seen.entries)
    control = "controlnet_x_embedder.weight" in names.table
    role = "controlnet" if control else "diffusion_model"
    shapes = seen.shapes(names)
    config = _mmdit_config(shapes)
    layered = "time_text_embed.addition_t_embedding.weight" in names.table
    if control:
        width = size(shapes, "controlnet_x_embedder.weight", 1)
        variant = {64: "union", 68: "inpainting"}.get(width, f"{width} channels")
        wanted = expected_tensors.controlnet_layout(MMDiTConfig(**config), width)
    else:
        zero_cond = (
            gguf_metadata.ZERO_COND_MARK in names.marks or seen.config.get("zero_cond_t") is True
        )
        said = marked(seen.metadata.get(FAMILY_KEY, "qwen-image"), zero_cond, layered)
        variant = said.name if said else seen.metadata.get(VARIANT_KEY, UNMARKED)
        wanted = expected_tensors.mmdit_layout(MMDiTConfig(**config), layered)
    unread = {f"transformer_blocks.{config['layers'] - 1}.{n}" for n in key_maps.MMDIT_UNREAD}
    wanted = {n: s for n, s in wanted.items() if n in shapes or n not in unread}
    facts = FileFacts(role, "qwen-image", variant, layers=config["layers"], config=config)
    return _finish(seen, facts, names, wanted)


def _blockwise(seen: HeaderView) -> FileFacts | None:
    if not seen.has(key_maps.BLOCKWISE_MARK):
        return None
    names = key_maps.mmdit_names(seen.entries)
    shapes = seen.shapes(names)
    told, layers = sizes(shapes, BLOCKWISE_SIZES), count(shapes, "controlnet_blocks.")
    variant = "blockwise inpainting" if told["condition"] == 68 else "blockwise"
    facts = FileFacts("controlnet", "qwen-image", variant, layers=layers, config=told)
    wanted = expected_tensors.blockwise_layout(told["width"], layers, told["condition"])
    return _finish(seen, facts, names, wanted)


def _fun(seen: HeaderView) -> FileFacts | None:
    if not seen.has(*key_maps.FUN_MARKS):
        return None
    names = key_maps.fun_names(seen.entries)
    shapes = seen.shapes(names)
    told = sizes(shapes, FUN_SIZES)
    layers, head = count(shapes, "transformer_blocks."), told["head_dim"] or 128
    if told["channels"] % 4 or "transformer_blocks.0.txt_mod.1.weight" not in shapes:
        return FileFacts(
            "controlnet",
            "qwen-image-2.1",
            "fun union",
            layers=layers,
            formats=formats_of(seen),
            problem=f"its pictures have {told['channels']} features per token: it is a VideoX-Fun "
            "control for another model, most likely Qwen-Image-2.1; use the one for "
            "Qwen-Image-2512",
        )
    config = dict(
        layers=layers,
        heads=told["width"] // head,
        head_dim=head,
        ff=told["ff"],
        channels=told["channels"],
        joint=told["joint"],
    )
    wanted = expected_tensors.fun_layout(MMDiTConfig(**config), told["channels"])
    unread = {f"transformer_blocks.{layers - 1}.{n}" for n in key_maps.MMDIT_UNREAD}
    wanted = {n: s for n, s in wanted.items() if n in shapes or n not in unread}
    facts = FileFacts("controlnet", "qwen-image", "fun union", layers=layers, config=config)
    return _finish(seen, facts, names, wanted)


def _two_one(seen: HeaderView) -> FileFacts | None:
    if not seen.has("txt_in.text_norm.weight", "modulation.1.weight"):
        return None
    return FileFacts(
        "diffusion_model",
        "qwen-image-2.1",
        formats=formats_of(seen),
        problem="Qwen-Image-2.1 is a different network, which this version does not have; use "
        "Qwen-Image, 2512, Edit, 2509, 2511 or Layered",
    )


def _lora(seen: HeaderView) -> FileFacts | None:
    marked = [name for name in seen.entries if key_maps.LORA_MARK.search(name)]
    if not marked:
        return None
    known = {name: understand(name) for name in marked}
    roles = {one.role for one in known.values() if one and one.ours}
    strange = [name for name, one in known.items() if not (one and one.ours)]
    if roles == {"text"} and seems_for(strange) is None:
        # the names of any language model: that it fits this one, its shapes say at load
        return FileFacts(
            "lora", "qwen2.5-vl, perhaps", "for the text encoder", "lora", formats=formats_of(seen)
        )
    qwen = any(key_maps.QWEN_LORA_MARK.search(name) for name in marked)
    other = any(key_maps.OTHER_LORA_MARK.search(name) for name in strange)
    blocks = qwen or (not other and any(key_maps.BLOCK_LORA_MARK.search(name) for name in marked))
    family = "qwen-image" if qwen else "qwen-image, perhaps" if blocks else "other"
    problem = "" if blocks else "none of its names belongs to Qwen-Image, it is for another model"
    variant = "perhaps the in-context control" if _in_context(seen, known) else ""
    return FileFacts("lora", family, variant, "lora", formats=formats_of(seen), problem=problem)


def _in_context(seen: HeaderView, known: Mapping[str, Named | None]) -> bool:
    """Has the modules and the rank of DiffSynth's union control. Other LoRAs may have them too."""
    reached = {one.ours[0].split(".", 2)[-1] for one in known.values() if one and one.ours}
    downs = [seen.entries[name] for name, one in known.items() if one and one.part == "down"]
    ranks = {entry.shape[0] for entry in downs if len(entry.shape) == 2}
    return reached == CONTEXT_MODULES and ranks == {CONTEXT_RANK}


def _qwen_vae(seen: HeaderView) -> FileFacts | None:
    if not (seen.has(key_maps.WAN_MARK) or seen.has(key_maps.DIFFUSERS_VAE_MARK)):
        return None
    firsts = (seen.bare.get(n) for n in ("decoder.conv1.weight", "decoder.conv_in.weight"))
    z = next((first.shape[1] for first in firsts if first and len(first.shape) > 1), 0)
    other = {
        48: ("wan-2.2", "it is the Wan 2.2 VAE (48 latent channels)"),
        64: ("qwen-image-2.1", "it is the Qwen-Image-2.1 VAE (64 latent channels)"),
    }
    if seen.starts("decoder.upsamples.0.upsamples.") or z in other:
        family, words = other.get(z, other[48])
        return FileFacts(
            "vae",
            family,
            formats=formats_of(seen),
            problem=f"{words}, Qwen-Image needs its own VAE with 16",
        )
    names = key_maps.vae_names(seen.entries, *vae_blocks(seen.bare))
    config = vae_sizes(seen.shapes(names))
    rgba = config["channels"] == 4
    variant = "layered (RGBA)" if rgba else "qwen-image or wan 2.1 (identical tensors)"
    wanted = {
        name: shape
        for name, shape in expected_tensors.vae_layout(VAEConfig(**config)).items()
        if ".time_conv." not in name
    }
    facts = FileFacts("vae", "qwen-image", variant, layers=len(config["mult"]), config=config)
    return _finish(seen, facts, names, wanted)


def _other_vae(seen: HeaderView) -> FileFacts | None:
    """VAEs of the Stable Diffusion line: one network, told apart by the latent channels."""
    marks = ("decoder.mid.block_1.norm1.weight", "decoder.mid_block.resnets.0.norm1.weight")
    if not any(mark in seen.bare for mark in marks) or not seen.has("decoder.conv_in.weight"):
        return None
    z = seen.bare["decoder.conv_in.weight"].shape[1:2]
    words = {4: "SD 1, 2 or SDXL", 16: "FLUX or SD 3", 32: "FLUX 2"}.get(
        *z or (0,), "another model"
    )
    return FileFacts(
        "vae",
        "sd",
        formats=formats_of(seen),
        problem=f"it is the VAE of {words} "
        f"({z[0] if z else '?'} latent channels), Qwen-Image needs its own",
    )


def _text_config(
    shapes: Shapes, extra: Mapping[str, object]
) -> tuple[dict[str, int], dict[str, int]]:
    """(what is known, the same with stand-ins where only a product is known)."""
    told = text_sizes(shapes)
    config = {key: told[key] for key in ("layers", "width", "vocab", "ff")}
    heads = text_heads(told, extra)
    if heads:
        config |= dict(zip(("heads", "kv_heads", "head_dim"), heads))
        return config, config
    return config, config | {"heads": told["queries"], "kv_heads": told["keys"], "head_dim": 1}


def _text(seen: HeaderView) -> FileFacts | None:
    names = key_maps.text_names(seen.entries)
    if (
        not {
            "layers.0.self_attn.q_proj.weight",
            "layers.0.self_attn.q_proj.qweight",
            "layers.0.encoded_exponent",
        }
        & names.table.keys()
    ):
        return None
    if "layers.0.self_attn.k_proj.bias" not in names.table:
        return FileFacts(
            "text_encoder",
            "other",
            formats=formats_of(seen),
            problem="it is a language model "
            "without biases on q, k and v (Qwen3, Llama or another), Qwen-Image needs "
            "Qwen2.5-VL-7B",
        )
    shapes = seen.shapes(names)
    config, numbers = _text_config(
        shapes, key_maps_gguf.settings(seen.metadata) | dict(seen.config)
    )
    vision = vision_sizes(shapes)
    word = {3584: "7B", 2048: "3B"}.get(config["width"], f"width {config['width']}")
    apart = "vision in an mmproj file" if names.layout == "gguf" else "without vision (no edits)"
    variant = f"{word}, " + ("with vision" if vision else apart)
    problem = "it is Qwen2.5-VL-3B, Qwen-Image needs the 7B" if config["width"] == 2048 else ""
    facts = FileFacts(
        "text_encoder",
        "qwen2.5-vl",
        variant,
        layers=config["layers"],
        config=config,
        problem=problem,
    )
    return _finish(seen, facts, names, expected_tensors.text_layout(TextConfig(**numbers), vision))


def _mmproj(seen: HeaderView) -> FileFacts | None:
    """The vision tower of a GGUF text encoder, a file of its own."""
    if not seen.starts("v.blk.") or not seen.starts("mm."):
        return None
    table, others = key_maps_gguf.vision_parts(seen.entries)
    shapes = key_maps_gguf.joined_shapes({n: e.shape for n, e in seen.entries.items()}, table)
    sizes = vision_sizes(shapes)
    if sizes is None or not seen.has(*key_maps_gguf.VISION_MARKS):
        return FileFacts(
            "vision",
            "other",
            layout="gguf",
            formats=formats_of(seen),
            problem="it is the vision "
            "part of another model, Qwen-Image needs that of Qwen2.5-VL-7B",
        )
    names = key_maps.KeyMap(
        {n: parts.names[0] for n, parts in table.items()}, (), others, layout="gguf"
    )
    facts = FileFacts(
        "vision",
        "qwen2.5-vl",
        f"for text encoders of width {sizes.out}",
        layers=sizes.depth,
        config={name: getattr(sizes, name) for name in VISION_SIZES},
    )
    return _finish(seen, facts, names, expected_tensors.vision_layout(sizes), shapes)


def _foreign(seen: HeaderView) -> FileFacts | None:
    for marks, role, family, words in key_maps.FOREIGN:
        if seen.has(*marks):
            return FileFacts(
                role,
                family,
                formats=formats_of(seen),
                problem=f"it is {words}, not of the Qwen-Image family",
            )
    return None


_Recognizer = Callable[[HeaderView], FileFacts | None]
_RECOGNISERS: tuple[_Recognizer, ...] = (
    _lora,
    _two_one,
    _blockwise,
    _fun,
    _mmdit,
    _foreign,
    _qwen_vae,
    _other_vae,
    _text,
    _mmproj,
)
_WANTED: dict[str, _Recognizer] = {"vae": _qwen_vae, "text_encoder": _text}


def recognize(
    entries: Mapping[str, TensorEntry],
    metadata: Mapping[str, str],
    config: Mapping[str, object],
    want: str | None = None,
    source: WeightSource | None = None,
) -> FileFacts | None:
    """Facts by the first recognizer that knows the file; `want` names the part to try first.

    With the open file, packed formats are told layer by layer and compared with the layout too.
    """
    bare = {
        next((n[len(p) :] for p in key_maps.STRIP if n.startswith(p)), n): e
        for n, e in entries.items()
    }
    seen = HeaderView(entries, metadata, config, bare, source)
    first = (_WANTED[want],) if want in _WANTED else ()
    found = (look(seen) for look in (*first, *_RECOGNISERS))
    return next(filter(None, found), None)
