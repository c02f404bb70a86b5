"""The layout of a quantized file: header, places and types, before any weight is read.

Two kinds of file: GGUF with the mixes of gguf_recipes.py, and fp8 with one scale per matrix as
ComfyUI reads it (`scale_weight`, marked by `scaled_fp8`).
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field

import torch

from ..errors import InkstoneError
from ..loaders.arch.config import text_config, with_family
from ..loaders.arch.dims import vision_sizes
from ..loaders.arch.encoder_models import encoder_model
from ..loaders.arch.family import family_with
from ..loaders.arch.key_maps import HEAD
from ..loaders.arch.key_maps_gguf import TEXT, more_settings
from ..loaders.formats.gguf_metadata import ARCHITECTURE
from ..loaders.formats.gguf_writer import Value, gguf_layout
from ..loaders.formats.safetensors_header import write_header
from ..loaders.models.tokenizer_gguf import tokenizer_for
from ..quant.gguf_types import BlockType
from .gguf_recipes import VECTORS, is_matrix, mix_named, replacement_lines, types_of
from .weight_rows import Matrices

FP8 = "FP8_SCALED"
CODES = torch.float8_e4m3fn
_NORMAL, _CONTROL, _USER, _UNUSED = 1, 3, 4, 5  # token types of llama.cpp


@dataclass(frozen=True)
class Piece:
    """One tensor to write."""

    name: str  # ours; "" for marks, which have no data to compute
    saved_as: str
    shape: tuple[int, ...]
    begin: int
    type: BlockType | torch.dtype
    scale_at: int | None = None  # of fp8 codes: where their scale goes

    @property
    def blocks(self) -> BlockType | None:
        """The type of packed blocks; None for plain numbers and fp8 codes."""
        return self.type if isinstance(self.type, BlockType) and self.type.packed else None

    @property
    def dtype(self) -> torch.dtype | None:
        """The dtype of plain numbers; None for blocks and fp8 codes."""
        if self.scale_at is not None:
            return None
        return self.type.dtype if isinstance(self.type, BlockType) else self.type

    @property
    def form(self) -> str:
        """The name of its type."""
        return self.type.name if isinstance(self.type, BlockType) else str(self.type)[6:]

    @property
    def bits(self) -> float:
        """Bits per weight."""
        return self.type.bits if isinstance(self.type, BlockType) else 8.0 * self.type.itemsize


@dataclass(frozen=True)
class FilePlan:
    """A whole file: `head` comes first, then the pieces, in order."""

    head: bytes
    pieces: list[Piece]
    size: int
    notes: list[str] = field(default_factory=list)  # lines for the user


def plan_file(model: Matrices, type_name: str) -> FilePlan:
    """The plan for a type: a row of gguf_recipes.MIXES, or FP8_SCALED."""
    plan = _fp8(model) if type_name.upper() == FP8 else _gguf(model, type_name)
    if model.beside:
        plan.notes.append(
            f"only the {model.role.replace('_', ' ')} is written, not the other {model.beside} "
            "tensors of the checkpoint: give it as --text-encoder and --vae to draw with the result"
        )
    return plan


def suffix_of(type_name: str) -> str:
    """The suffix of files of a type."""
    return ".safetensors" if type_name.upper() == FP8 else ".gguf"


# --- GGUF


def _gguf_name(ours: str, role: str) -> str:
    """A name as ComfyUI-GGUF expects it: for the text encoder llama.cpp's."""
    if role == "diffusion_model":
        return ours
    parts, leaf = ours.split("."), ours.rpartition(".")[2]
    number = parts[1] if parts[0] == "layers" else ""
    for theirs, template in TEXT:
        if template.format(n=number, leaf=leaf) == ours:
            return theirs.format(n=number, leaf=leaf)
    raise InkstoneError(
        f"{ours} has no name in GGUF files of text encoders. Use a text encoder of Qwen2.5-VL or "
        "Qwen3-VL."
    )


def _gguf(model: Matrices, type_name: str) -> FilePlan:
    mix = mix_named(type_name)
    notes: list[str] = []
    shapes = model.shapes
    if model.role == "text_encoder":
        shapes = {n: s for n, s in shapes.items() if not n.startswith("visual.")}
        if len(shapes) < len(model.shapes):
            notes.append("the vision tower is left out: in GGUF it is a file of its own (mmproj)")
    if model.left_out:
        notes.append(f"left out, not needed for pictures: {', '.join(model.left_out[:3])}")
    types, replacements = types_of(shapes, mix)
    notes += replacement_lines(replacements)
    tensors = {_gguf_name(n, model.role): (shapes[n], types[n]) for n in shapes}
    vector = next(kind for kind in types.values() if kind.name == VECTORS)
    marks = {m: (tuple(model.source.entries[t].shape), vector) for m, t in model.marks.items()}
    head, slots, size = gguf_layout(_values(model, mix.file_type, notes), tensors | marks)
    pieces = [
        Piece(ours, slot.name, slot.shape, slot.begin, slot.kind)
        for ours, slot in zip([*shapes, *[""] * len(marks)], slots)
    ]
    return FilePlan(head, pieces, size, notes)


def _values(model: Matrices, file_type: int, notes: list[str]) -> dict[str, Value]:
    text = _text_values(model, notes) if model.role == "text_encoder" else {}
    values: dict[str, Value] = {ARCHITECTURE: text.pop(ARCHITECTURE, "qwen_image")}
    values |= {"general.quantization_version": 2, "general.file_type": file_type}
    return values | model.metadata | text


def _text_values(model: Matrices, notes: list[str]) -> dict[str, Value]:
    config = text_config(model.shapes, model.config)
    config = with_family(config, family_with(model.source.metadata, encoder_model(config)))
    numbers: dict[str, Value] = {
        "block_count": config.layers,
        "embedding_length": config.width,
        "feed_forward_length": config.ff,
        "attention.head_count": config.heads,
        "attention.head_count_kv": config.kv_heads,
        "rope.freq_base": float(config.theta),
        "attention.layer_norm_rms_epsilon": float(config.eps),
        "rope.dimension_sections": [*config.axes, 0],  # time, row, column
    }
    numbers |= more_settings(config, vision_sizes(model.shapes))
    longest = model.config.get("max_position_embeddings")
    if isinstance(longest, int):
        numbers["context_length"] = longest
    name = encoder_model(config).architecture
    values: dict[str, Value] = {ARCHITECTURE: name}
    values |= {f"{name}.{key}": value for key, value in numbers.items()}
    try:
        return values | _tokenizer_values(model, config.vocab)
    except InkstoneError as error:
        notes.append(f"the file gets no tokenizer: {error}")
        return values


def _tokenizer_values(model: Matrices, vocabulary: int) -> dict[str, Value]:
    """tokens, token_type, merges and special ids, as llama.cpp writes them for Qwen2."""
    backend = json.loads(tokenizer_for(model.path, model.source).to_json())
    ids: dict[str, int] = backend["model"]["vocab"]
    tokens = [f"[PAD{number}]" for number in range(vocabulary)]
    kinds = [_UNUSED] * vocabulary
    for token, number in ids.items():
        if number < vocabulary:
            tokens[number], kinds[number] = token, _NORMAL
    added = {entry["content"]: entry["id"] for entry in backend["added_tokens"]}
    for entry in backend["added_tokens"]:
        if entry["id"] < vocabulary:
            tokens[entry["id"]] = entry["content"]
            kinds[entry["id"]] = _CONTROL if entry["special"] else _USER
    merges = [m if isinstance(m, str) else " ".join(m) for m in backend["model"]["merges"]]
    values: dict[str, Value] = {
        "model": "gpt2",
        "pre": "qwen2",
        "tokens": tokens,
        "token_type": kinds,
        "merges": merges,
        "add_bos_token": False,
    }
    for key, token in (("eos_token_id", "<|im_end|>"), ("padding_token_id", "<|endoftext|>")):
        if token in added:
            values[key] = added[token]
    return {f"tokenizer.ggml.{key}": value for key, value in values.items()}


# --- fp8


def _fp8(model: Matrices) -> FilePlan:
    """Matrices of blocks in e4m3 with a scale; other tensors as they are in the source."""
    start = "model." if model.role == "text_encoder" else ""
    meta: dict[str, torch.Tensor] = {}
    ours_of: dict[str, str] = {}

    def add(saved: str, shape: tuple[int, ...], dtype: torch.dtype, ours: str = "") -> None:
        meta[saved] = torch.empty(shape, dtype=dtype, device="meta")
        ours_of[saved] = ours

    for ours, shape in model.shapes.items():
        saved = ours if ours.startswith(("visual.", HEAD)) else start + ours
        if is_matrix(ours, shape) and not ours.startswith(("embed_tokens", HEAD)):
            add(saved, shape, CODES, ours)
            add(saved.removesuffix("weight") + "scale_weight", (), torch.float32)
        else:
            plain = model.dtype(ours) if model.dtype(ours).itemsize > 1 else torch.bfloat16
            add(saved, shape, plain, ours)
    add("scaled_fp8", (0,), CODES)
    for mark, theirs in model.marks.items():
        add(mark, tuple(model.source.entries[theirs].shape), torch.float32)
    return _with_places(meta, ours_of, model)


def _with_places(
    meta: dict[str, torch.Tensor], ours_of: dict[str, str], model: Matrices
) -> FilePlan:
    ordered = dict(sorted(meta.items(), key=lambda item: (-item[1].dtype.itemsize, item[0])))
    head = write_header(ordered, {"format": "pt"} | model.metadata)
    places, at = {}, len(head)
    for saved, tensor in ordered.items():
        places[saved] = at
        at += tensor.numel() * tensor.dtype.itemsize
    pieces = []
    for saved, tensor in ordered.items():
        if saved.endswith(".scale_weight"):
            continue  # written with its matrix
        codes = tensor.dtype == CODES and bool(ours_of[saved])
        scale = places[saved.removesuffix("weight") + "scale_weight"] if codes else None
        shape = tuple(tensor.shape)
        pieces.append(Piece(ours_of[saved], saved, shape, places[saved], tensor.dtype, scale))
    return FilePlan(head, pieces, at, [])
