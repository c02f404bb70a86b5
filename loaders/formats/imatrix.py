"""Importance matrices: for every linear layer the mean square of each column of its input.

Read from the two formats of llama.cpp's tools (GGUF, older .dat), written as GGUF. Layers that have
the same input (q, k, v of a stream, modulation of all blocks) share the values of any of them.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from ...errors import InkstoneError
from ...files.atomic import atomic
from ...quant.gguf_types import BY_NAME
from .file_reader import first_bytes
from .gguf import GGUFFile
from .gguf_writer import Value, gguf_layout

SUM, COUNT = ".in_sum2", ".counts"
_MOST_DAT = 1 << 30  # bytes of a plausible .dat file
_TINY = 1e-6  # of the mean: the least weight of a column

# Layers with the same input, as (pattern, replacements): the others' names from one name.
_SHARED = (
    (re.compile(r"(.*\.)(?:to_q|to_k|to_v)(\.weight)"), ("to_q", "to_k", "to_v")),
    (
        re.compile(r"(.*\.)(?:add_q_proj|add_k_proj|add_v_proj)(\.weight)"),
        ("add_q_proj", "add_k_proj", "add_v_proj"),
    ),
    (re.compile(r"(.*\.)(?:q_proj|k_proj|v_proj)(\.weight)"), ("q_proj", "k_proj", "v_proj")),
    (re.compile(r"(.*\.)(?:attn_q|attn_k|attn_v)(\.weight)"), ("attn_q", "attn_k", "attn_v")),
    (re.compile(r"(.*\.)(?:gate_proj|up_proj)(\.weight)"), ("gate_proj", "up_proj")),
    (re.compile(r"(.*\.)(?:ffn_gate|ffn_up)(\.weight)"), ("ffn_gate", "ffn_up")),
    (  # one matrix in files, two layers in networks
        re.compile(r"(.*\.img_mlp\.)(?:gate_layer|proj|gate_up)(\.weight)"),
        ("gate_layer", "proj", "gate_up"),
    ),
    (re.compile(r"(.*\.)(?:img_mod|txt_mod)(\.1\.weight)"), ("img_mod", "txt_mod")),
)


def sharing(name: str) -> list[str]:
    """Names of the layers that have the same input, this one first."""
    for pattern, parts in _SHARED:
        match = pattern.fullmatch(name)
        if match:
            return [name, *(n for p in parts if (n := match[1] + p + match[2]) != name)]
    return [name]


class Importance:
    """Mean squares by name of a layer's weight (ours, or that of a GGUF file)."""

    def __init__(self, values: Mapping[str, Tensor], path: Path, text: str = "") -> None:
        self.values, self.path, self.text = values, path, text

    def of(self, names: tuple[str, ...], columns: int) -> Tensor | None:
        """[columns] > 0 for the first of the names (or of the layers with the same input) that has
        values, else None. InkstoneError where it has another width."""
        for name in (n for one in names for n in sharing(one)):
            squares = self.values.get(name)
            if squares is None:
                continue
            if len(squares) != columns:
                raise InkstoneError(
                    f"{self.path}: {name} has {len(squares)} columns, the model's layer {columns}: "
                    "the importance matrix is of another model. Make one with --prompts."
                )
            mean = float(squares.mean())
            return squares.clamp(min=mean * _TINY) if mean > 0 else None
        return None


def _checked(name: str, values: Tensor, path: Path) -> Tensor:
    if not bool((values.isfinite() & (values >= 0)).all()):
        raise InkstoneError(
            f"{path}: {name} has values that are negative or not finite. Make "
            "the importance matrix again."
        )
    return values


def read_imatrix(path: Path) -> Importance:
    """An importance matrix of either format; InkstoneError for any other file."""
    if first_bytes(path, 4, "GGUF or .dat") == b"GGUF":
        return _read_gguf(path)
    size = path.stat().st_size
    return _read_dat(path, first_bytes(path, size) if size <= _MOST_DAT else b"")


def _read_gguf(path: Path) -> Importance:
    with GGUFFile(path) as file:
        names = [n.removesuffix(SUM) for n in file.entries if n.endswith(SUM)]
        if not names:
            raise InkstoneError(
                f"{path}: no tensor name ends in {SUM}, so it is not an importance matrix. "
                "Choose another file, or use --prompts."
            )
        values = {}
        for name in names:
            total = file.read(name + SUM, dtype=torch.float32).flatten()
            count = 1.0
            if name + COUNT in file.entries:
                count = float(file.read(name + COUNT, dtype=torch.float32).flatten()[0])
            if count > 0:
                values[name] = _checked(name, total / count, path)
        return Importance(values, path, file.metadata.get("inkstone.prompts", ""))


def _read_dat(path: Path, data: bytes) -> Importance:
    """i32 count; per layer: i32 length, name, i32 calls, i32 columns, f32[columns]."""
    at = 0
    layers: dict[str, Tensor] = {}

    def number() -> int:
        nonlocal at
        value = struct.unpack_from("<i", data, at)[0]
        at += 4
        return value

    try:
        for _ in range(number()):
            length = number()
            if not 0 < length <= 1024:
                raise ValueError(f"a name of {length} bytes")
            name = data[at : at + length].decode("utf-8")
            at += length
            calls, columns = number(), number()
            if not 0 < columns <= (len(data) - at) // 4:
                raise ValueError(f"{columns} columns")
            values = torch.frombuffer(bytearray(data[at : at + 4 * columns]), dtype=torch.float32)
            at += 4 * columns
            layers[name] = _checked(name, values / max(1, calls), path)
    except (struct.error, ValueError, UnicodeDecodeError) as error:
        if isinstance(error, InkstoneError):
            raise
        layers = {}
    if not layers:
        raise InkstoneError(
            f"{path}: expected an importance matrix (GGUF or .dat); the file is of another format "
            "or truncated. Download it again, or use --prompts."
        )
    return Importance(layers, path)


def save_imatrix(
    path: Path, sums: Mapping[str, tuple[Tensor, int]], text: str, source: str
) -> None:
    """Writes (sum of squares [columns], number of rows) of each layer, atomically.

    `text` identifies the prompts, so that a caller can tell whether the file still fits.
    """
    kind = BY_NAME["F32"]
    tensors = {}
    for name, (total, _) in sums.items():
        tensors[name + SUM] = ((1, len(total)), kind)
        tensors[name + COUNT] = ((1, 1), kind)
    values: dict[str, Value] = {
        "general.type": "imatrix",
        "imatrix.datasets": [source],
        "imatrix.chunk_count": 1,
        "imatrix.chunk_size": 1,
        "inkstone.prompts": text,
    }
    head, slots, size = gguf_layout(values, tensors)
    data = bytearray(size)
    data[: len(head)] = head
    for slot in slots:
        name, _, leaf = slot.name.rpartition(".")
        total, count = sums[name]
        numbers = total.float() if f".{leaf}" == SUM else torch.tensor([float(count)])
        data[slot.begin : slot.begin + slot.nbytes] = numbers.contiguous().numpy().tobytes()
    with atomic(path) as file:
        file.write(data)
