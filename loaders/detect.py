"""What a weight file is, told from its tensors and metadata, never from its name.

`identify` gives facts and one sentence; `require` turns a misplaced or unusable file into an error
that says what it is and where it belongs. Nothing but headers is read.
"""

import json
import logging
import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace

from ..kernels.errors import InkstoneError
from . import keys, layout
from .safetensors_file import DTYPE_NAMES, Entry, ShardedFiles, Weights, open_weights, sniff

log = logging.getLogger(__name__)

MAX_CONFIG = 2**20  # bytes of a config.json
FAMILY_KEY = "inkstone_family"  # metadata of our own files, see family.py

# role -> (in words, folder of the host's models, which loader takes it)
ROLES = {
    "diffusion_model": ("diffusion model", "models/diffusion_models", "the diffusion model loader"),
    "text_encoder": ("text encoder", "models/text_encoders", "the text encoder loader"),
    "vae": ("VAE", "models/vae", "the VAE loader"),
    "lora": ("LoRA", "models/loras", "the LoRA node, behind the diffusion model loader"),
    "controlnet": ("ControlNet", "models/controlnet", "the ControlNet loader"),
}
FLOATS = {"F64": "fp64", "F32": "fp32", "F16": "fp16", "BF16": "bf16"}
WORDS = {"qwen-image": "Qwen-Image", "qwen2.5-vl": "Qwen2.5-VL", "inkstone-embedded": "embedded"}
OURS = frozenset({*WORDS, "qwen-image, perhaps"})
SUPPORTED = frozenset({*FLOATS.values(), "fp8 plain"})

CLASSES = frozenset({
    "QwenImageTransformer2DModel", "QwenImageControlNetModel", "AutoencoderKLQwenImage",
    "Qwen2_5_VLForConditionalGeneration", "Qwen2_5_VLModel", "Qwen2_5_VLTextModel",
})  # fmt: skip


@dataclass(frozen=True)
class FileFacts:
    """Everything that the header tells. `config` has the field names of our kernels' configs."""

    role: str  # a key of ROLES, or "unknown"
    family: str = "unknown"
    variant: str = ""
    layout: str = ""  # diffusers, wan, transformers, old transformers, plain, bundle ...
    prefix: str = ""
    formats: tuple[str, ...] = ()
    dtypes: dict[str, int] = field(default_factory=dict)  # tensors per dtype name
    parameters: int = 0
    layers: int = 0
    config: dict[str, object] = field(default_factory=dict)
    missing: tuple[str, ...] = ()  # our names
    unexpected: tuple[str, ...] = ()  # names of the file
    problem: str = ""  # why this version cannot use it; empty when it can
    sentence: str = ""
    path: str = ""


@dataclass(frozen=True)
class _Seen:
    """A header as the recognisers look at it."""

    entries: Mapping[str, Entry]
    metadata: Mapping[str, str]
    config: Mapping[str, object]  # of the config.json beside the file, or empty
    bare: Mapping[str, Entry]  # entries without the usual prefixes

    def shape(self, names: keys.Names, ours: str) -> tuple[int, ...]:
        """Shape of one of our names; () when it is not there."""
        found = self.entries.get(names.table.get(ours, ""))
        return found.shape if found else ()

    def size(self, names: keys.Names, ours: str, axis: int = 0) -> int:
        """One side of one of our names; 0 when the tensor or the axis is not there."""
        return next(iter(self.shape(names, ours)[axis:]), 0)

    def has(self, *names: str) -> bool:
        return all(name in self.bare for name in names)

    def starts(self, start: str) -> bool:
        return any(name.startswith(start) for name in self.bare)


def _count(pattern: str, names: Iterable[str], most: int = 256) -> int:
    """1 + the largest number below `most` that `pattern` captures; 0 when it never matches."""
    found = (re.match(pattern, name) for name in names)
    return max((min(int(m[1]) + 1, most) for m in found if m), default=0)


def _formats(seen: _Seen) -> tuple[str, ...]:
    """Storage formats in the file, quantised ones first, then plain dtypes by count."""
    ends = {form for mark, form in keys.FORMAT_MARKS if any(n.endswith(mark) for n in seen.entries)}
    if "nvfp4" in ends:
        ends.discard("fp8 scaled by rows")
    if "_quantization_metadata" in seen.metadata:
        ends.add("comfy_quant")
    if "comfy_quant" in ends:
        ends -= {"nvfp4", "fp8 scaled by rows", "fp8 scaled"}
    method = seen.config.get("quantization_config", {})
    if isinstance(method, dict) and isinstance(method.get("quant_method"), str):
        ends.add(method["quant_method"])
    kinds = Counter(DTYPE_NAMES[entry.dtype] for entry in seen.entries.values())
    if not ends and any(kind.startswith("F8_") for kind in kinds):
        ends.add("fp8 plain")
    if not ends and kinds.keys() & {"F4", "U8", "I8"}:
        ends.add("an unknown integer format")
    return (*sorted(ends), *(FLOATS[kind] for kind, _ in kinds.most_common() if kind in FLOATS))


def _compare(
    seen: _Seen, names: keys.Names, wanted: layout.Layout
) -> tuple[tuple[str, ...], tuple[str, ...], str]:
    """(our names that are missing, file names that are unexpected, words about wrong shapes)."""
    missing = tuple(name for name in wanted if name not in names.table)
    extra = [file for ours, file in names.table.items() if ours not in wanted]
    extra += names.others
    wrong = [
        name for name, shape in wanted.items()
        if name in names.table and len(seen.shape(names, name)) == len(shape)
        and seen.shape(names, name) != shape
    ]  # fmt: skip
    if not wrong:
        return missing, tuple(extra), ""
    first = f"{wrong[0]} expected {list(wanted[wrong[0]])}, got {list(seen.shape(names, wrong[0]))}"
    return missing, tuple(extra), f"{len(wrong)} tensors have wrong shapes ({first})"


def _listed(what: str, names: tuple[str, ...]) -> str:
    return f"{len(names)} tensors are {what} ({', '.join(names[:5])})" if names else ""


def _finish(seen: _Seen, facts: FileFacts, names: keys.Names, wanted: layout.Layout) -> FileFacts:
    """Counts, formats and the comparison with the layout, the same for every known family."""
    formats = _formats(seen)
    bad = [form for form in formats if form not in SUPPORTED]
    missing, extra, wrong = ((), (), "") if bad else _compare(seen, names, wanted)
    faults = [f"{form}: not supported yet by this version" for form in bad]
    faults += [_listed("missing", missing), _listed("unexpected", extra), wrong]
    return replace(
        facts, formats=formats, family=seen.metadata.get(FAMILY_KEY, facts.family),
        prefix=names.prefix, missing=missing, unexpected=extra,
        layout="bundle, " + names.layout if names.outside else names.layout,
        parameters=sum(seen.entries[file].numel for file in names.table.values()),
        problem=facts.problem or "; ".join(filter(None, faults)),
    )  # fmt: skip


def _mmdit_config(seen: _Seen, names: keys.Names) -> dict[str, object]:
    width, channels = (seen.size(names, "img_in.weight", axis) for axis in (0, 1))
    at = "transformer_blocks.0"
    head_dim = seen.size(names, f"{at}.attn.norm_q.weight") or 128
    return {
        "layers": _count(r"transformer_blocks\.(\d{1,6})\.", names.table), "heads": width // head_dim,
        "head_dim": head_dim, "channels": channels, "joint": seen.size(names, "txt_norm.weight"),
        "ff": seen.size(names, f"{at}.img_mlp.net.0.proj.bias") or 4 * width,
    }  # fmt: skip


def _mmdit(seen: _Seen) -> FileFacts | None:
    if not (seen.has("txt_norm.weight", "img_in.weight")
            and seen.starts("transformer_blocks.0.attn.")
            and seen.starts("transformer_blocks.0.txt_mod.1.")):  # fmt: skip
        return None
    names = keys.mmdit_names(seen.entries)
    control = "controlnet_x_embedder.weight" in names.table
    role = "controlnet" if control else "diffusion_model"
    config = _mmdit_config(seen, names)
    layered = "time_text_embed.addition_t_embedding.weight" in names.table
    if control:
        width = seen.size(names, "controlnet_x_embedder.weight", 1)
        variant = {64: "union", 68: "inpainting"}.get(width, f"{width} channels")
        wanted = layout.controlnet_layout(SimpleNamespace(**config), width)
    else:
        marked = keys.ZERO_COND_MARK in names.marks or seen.config.get("zero_cond_t") is True
        variant = ("layered" if layered else "edit-2511" if marked
                   else "qwen-image or edit (identical tensors)")  # fmt: skip
        wanted = layout.mmdit_layout(SimpleNamespace(**config), layered)
        unread = {f"transformer_blocks.{config['layers'] - 1}.{n}" for n in keys.MMDIT_UNREAD}
        wanted = {n: s for n, s in wanted.items() if n in names.table or n not in unread}
    facts = FileFacts(role, "qwen-image", variant, layers=config["layers"], config=config)
    return _finish(seen, facts, names, wanted)


def _blockwise(seen: _Seen) -> FileFacts | None:
    if not seen.has("controlnet_blocks.0.y_rms.weight"):
        return None
    layers = _count(r"controlnet_blocks\.(\d{1,6})\.", seen.bare)
    return FileFacts("controlnet", "qwen-image", "blockwise", "DiffSynth", layers=layers,
                     formats=_formats(seen))  # fmt: skip


def _two_one(seen: _Seen) -> FileFacts | None:
    if not seen.has("txt_in.text_norm.weight", "modulation.1.weight"):
        return None
    return FileFacts(
        "diffusion_model", "qwen-image-2.1", formats=_formats(seen),
        problem="Qwen-Image-2.1 is a different network, which this version does not have; use "
        "Qwen-Image, 2512, Edit, 2509, 2511 or Layered",
    )  # fmt: skip


def _lora(seen: _Seen) -> FileFacts | None:
    marked = [name for name in seen.entries if keys.LORA_MARK.search(name)]
    if not marked:
        return None
    qwen = any(keys.QWEN_LORA_MARK.search(name) for name in marked)
    other = any(keys.OTHER_LORA_MARK.search(name) for name in marked)
    blocks = qwen or (not other and any(keys.BLOCK_LORA_MARK.search(name) for name in marked))
    family = "qwen-image" if qwen else "qwen-image, perhaps" if blocks else "other"
    problem = "" if blocks else "none of its names belongs to Qwen-Image, it is for another model"
    return FileFacts("lora", family, layout="lora", formats=_formats(seen), problem=problem)


def _vae_config(seen: _Seen, names: keys.Names) -> dict[str, object]:
    stages = _count(r"decoder\.up_blocks\.(\d{1,6})\.", names.table, 16)
    blocks = _count(r"decoder\.up_blocks\.0\.resnets\.(\d{1,6})\.", names.table, 16) - 1
    widths = [seen.size(names, f"decoder.up_blocks.{i}.resnets.0.conv1.weight")
              for i in reversed(range(stages))]  # fmt: skip
    base = max(1, widths[0]) if widths else 1
    return {
        "base": base, "mult": tuple(width // base for width in widths), "res_blocks": blocks,
        "z": seen.size(names, "decoder.conv_in.weight", 1),
        "channels": seen.size(names, "decoder.conv_out.weight"),
    }  # fmt: skip


def _qwen_vae(seen: _Seen) -> FileFacts | None:
    if not (seen.has(keys.WAN_MARK) or seen.has(keys.DIFFUSERS_VAE_MARK)):
        return None
    first = next(seen.bare[n] for n in ("decoder.conv1.weight", "decoder.conv_in.weight")
                 if n in seen.bare)  # fmt: skip
    z = first.shape[1] if len(first.shape) > 1 else 0
    other = {48: ("wan-2.2", "it is the Wan 2.2 VAE (48 latent channels)"),
             64: ("qwen-image-2.1", "it is the Qwen-Image-2.1 VAE (64 latent channels)")}  # fmt: skip
    if seen.starts("decoder.upsamples.0.upsamples.") or z in other:
        family, words = other.get(z, other[48])
        return FileFacts("vae", family, formats=_formats(seen),
                         problem=f"{words}, Qwen-Image needs its own VAE with 16")  # fmt: skip
    stages = _count(r"decoder\.up_blocks\.(\d{1,6})\.", seen.bare, 16) or 4
    blocks = _count(r"decoder\.up_blocks\.0\.resnets\.(\d{1,6})\.", seen.bare, 16) or 3
    names = keys.vae_names(seen.entries, stages, blocks - 1)
    config = _vae_config(seen, names)
    rgba = config["channels"] == 4
    variant = "layered (RGBA)" if rgba else "qwen-image or wan 2.1 (identical tensors)"
    wanted = {name: shape for name, shape in layout.vae_layout(SimpleNamespace(**config)).items()
              if ".time_conv." not in name}  # fmt: skip
    facts = FileFacts("vae", "qwen-image", variant, layers=stages, config=config)
    return _finish(seen, facts, names, wanted)


def _other_vae(seen: _Seen) -> FileFacts | None:
    """VAEs of the Stable Diffusion line: one network, told apart by the latent channels."""
    marks = ("decoder.mid.block_1.norm1.weight", "decoder.mid_block.resnets.0.norm1.weight")
    if not any(mark in seen.bare for mark in marks) or not seen.has("decoder.conv_in.weight"):
        return None
    z = seen.bare["decoder.conv_in.weight"].shape[1:2]
    words = {4: "SD 1, 2 or SDXL", 16: "FLUX or SD 3", 32: "FLUX 2"}.get(
        *z or (0,), "another model"
    )
    return FileFacts("vae", "sd", formats=_formats(seen), problem=f"it is the VAE of {words} "
                     f"({z[0] if z else '?'} latent channels), Qwen-Image needs its own")  # fmt: skip


def _vision(seen: _Seen, names: keys.Names) -> layout.VisionNumbers | None:
    patch = seen.shape(names, "visual.patch_embed.proj.weight")
    if len(patch) != 5:
        return None
    joined = seen.size(names, "visual.merger.mlp.0.bias")
    return layout.VisionNumbers(
        depth=_count(r"visual\.blocks\.(\d{1,6})\.", names.table), width=patch[0], channels=patch[1],
        ff=seen.size(names, "visual.blocks.0.mlp.gate_proj.bias"), temporal=patch[2],
        patch=patch[3], merge=math.isqrt(joined // max(1, patch[0])),
        out=seen.size(names, "visual.merger.mlp.2.bias"),
    )  # fmt: skip


def _text_config(seen: _Seen, names: keys.Names) -> tuple[dict[str, object], dict[str, object]]:
    """(what is known, the same with stand-ins where only a product is known)."""
    vocab, width = (seen.size(names, "embed_tokens.weight", axis) for axis in (0, 1))
    queries, keyed = (seen.size(names, f"layers.0.self_attn.{n}_proj.bias") for n in "qk")
    config = {
        "layers": _count(r"layers\.(\d{1,6})\.", names.table), "width": width, "vocab": vocab,
        "ff": seen.size(names, "layers.0.mlp.gate_proj.weight"),
    }  # fmt: skip
    if keyed and queries % 128 == 0 and keyed % 128 == 0:  # every published Qwen2.5 of 3B and up
        config |= {"heads": queries // 128, "kv_heads": keyed // 128, "head_dim": 128}
    shown = {"heads": queries, "kv_heads": keyed, "head_dim": 1}
    return config, config if {*shown} <= {*config} else config | shown


def _text(seen: _Seen) -> FileFacts | None:
    names = keys.text_names(seen.entries)
    if "layers.0.self_attn.q_proj.weight" not in names.table:
        return None
    if "layers.0.self_attn.k_proj.bias" not in names.table:
        return FileFacts("text_encoder", "other", formats=_formats(seen), problem="it is a language "
                         "model without biases on q, k and v (Qwen3, Llama or another), Qwen-Image "
                         "needs Qwen2.5-VL-7B")  # fmt: skip
    config, numbers = _text_config(seen, names)
    vision = _vision(seen, names)
    size = {3584: "7B", 2048: "3B"}.get(config["width"], f"width {config['width']}")
    variant = f"{size}, " + ("with vision" if vision else "without vision (no edits)")
    problem = "it is Qwen2.5-VL-3B, Qwen-Image needs the 7B" if config["width"] == 2048 else ""
    facts = FileFacts("text_encoder", "qwen2.5-vl", variant, layers=config["layers"], config=config,
                      problem=problem)  # fmt: skip
    return _finish(seen, facts, names, layout.text_layout(SimpleNamespace(**numbers), vision))


def _foreign(seen: _Seen) -> FileFacts | None:
    for marks, role, family, words in keys.FOREIGN:
        if seen.has(*marks):
            return FileFacts(role, family, formats=_formats(seen),
                             problem=f"it is {words}, not of the Qwen-Image family")  # fmt: skip
    return None


Recogniser = Callable[[_Seen], FileFacts | None]
RECOGNISERS: tuple[Recogniser, ...] = (
    _lora, _two_one, _blockwise, _mmdit, _foreign, _qwen_vae, _other_vae, _text,
)  # fmt: skip
WANTED: dict[str, Recogniser] = {"vae": _qwen_vae, "text_encoder": _text}


def _amount(parameters: int) -> str:
    unit, word = next(((u, w) for u, w in ((1e9, "B"), (1e6, "M")) if parameters >= u), (1e3, "k"))
    return f"{parameters / unit:.3g} {word} parameters"


def _sentence(facts: FileFacts) -> str:
    """E.g. "Qwen-Image diffusion model, layered, 60 layers, 20.4 B parameters, bf16"."""
    if facts.role not in ROLES:
        return facts.sentence if facts.family == "unknown" else facts.problem
    known = WORDS.get(facts.family, facts.family) + " " if facts.family in OURS else ""
    parts = [known + ROLES[facts.role][0], facts.variant]
    parts += [f"{facts.layers} layers"] if facts.layers and facts.role != "vae" else []
    parts += [_amount(facts.parameters), " + ".join(facts.formats)]
    return ", ".join(filter(None, parts)) + (f": {facts.problem}" if facts.problem else "")


def describe(
    entries: Mapping[str, Entry], metadata: Mapping[str, str],
    config: Mapping[str, object] | None = None, want: str | None = None,
) -> FileFacts:  # fmt: skip
    """Facts from a header. `config` is the config.json beside it; `want` the part of a bundle."""
    bare = {
        next((n[len(p) :] for p in keys.STRIP if n.startswith(p)), n): e for n, e in entries.items()
    }
    first = (WANTED[want],) if want in WANTED else ()
    seen, facts = _Seen(entries, metadata, _known_config(config or {}), bare), None
    for recognise in (*first, *RECOGNISERS):
        facts = recognise(seen)
        if facts:
            break
    facts = facts or FileFacts("unknown", problem="no model that this version knows has such names")
    counts = Counter(DTYPE_NAMES[entry.dtype] for entry in entries.values())
    total = facts.parameters or sum(entry.numel for entry in entries.values())
    some = ", ".join(sorted(entries)[:3])
    facts = replace(
        facts,
        dtypes=dict(counts),
        parameters=total,
        sentence=f"a file of no known kind with {len(entries)} tensors ({some} ...)",
    )
    return replace(facts, sentence=_sentence(facts))


def _known_config(config: Mapping[str, object]) -> Mapping[str, object]:
    """A config.json counts only when it names one of the classes that we know."""
    named = [config.get("_class_name"), *(config.get("architectures") or ())]
    return config if CLASSES.intersection(filter(None, named)) else {}


def _config_beside(weights: Weights, path: Path) -> dict[str, object]:
    """config.json of a folder that holds this model alone; empty in a folder of many models."""
    folder = weights.path.parent
    alone = isinstance(weights, ShardedFiles) or len(list(folder.glob("*.safetensors"))) == 1
    file = folder / "config.json"
    if not (path.is_dir() or alone) or not file.is_file() or file.stat().st_size > MAX_CONFIG:
        return {}
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError, RecursionError):
        log.warning("%s is not readable JSON and is left aside", file)
        return {}
    return found if isinstance(found, dict) else {}


def identify(source: str | Path | Weights, want: str | None = None) -> FileFacts:
    """Facts about a file, an index, a folder or an open one; a GGUF or a pickle is told in words.

    `want` ("vae", "text_encoder") asks for that part of a bundled checkpoint. A damaged file raises.
    """
    if not isinstance(source, str | Path):
        found = describe(source.entries, source.metadata, _config_beside(source, source.path), want)
        return replace(found, path=str(source.path))
    path = Path(source)
    if path.is_file() and path.suffix != ".json":
        with open(path, "rb") as file:
            head = file.read(64)
        seems = sniff(head)
        if seems and int.from_bytes(head[:8], "little") > path.stat().st_size:
            gguf = "GGUF: not supported yet by this version; use a .safetensors file"
            problem = gguf if head.startswith(b"GGUF") else f"it is {seems}".rstrip(".")
            return FileFacts("unknown", problem=problem, sentence=problem, path=str(path))
    with open_weights(path) as weights:
        config = _config_beside(weights, path)
        return replace(describe(weights.entries, weights.metadata, config, want), path=str(path))


def require(facts: FileFacts, role: str) -> None:
    """Raises InkstoneError unless the file is usable as `role`: what it is, where it belongs."""
    word, folder, _ = ROLES[role]
    if facts.role == role and not facts.problem:
        return
    where = f"Choose another file from {folder}."
    if facts.role != role and facts.role in ROLES and facts.family in OURS:
        where = "It belongs in {1} and is loaded with {2}.".format(*ROLES[facts.role])
    raise InkstoneError(
        f"{facts.path or 'the file'}: expected a {word} of Qwen-Image, got: {facts.sentence}. {where}"
    )
