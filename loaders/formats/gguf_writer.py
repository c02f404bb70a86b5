"""Writing GGUF: the header of a file from the shapes and types of its tensors alone.

It needs none of the data, so a file can be written tensor by tensor, in any order, and resumed. Our
own reader checks the header before it is used, so no file is written that we would not read.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ...errors import InkstoneError
from ...quant.gguf_types import BlockType
from .gguf_header import read_gguf_header

ALIGNMENT = 32
VERSION = 3
Value = str | bool | int | float | Sequence[str] | Sequence[int]

_KINDS = {bool: (7, "<?"), int: (4, "<I"), float: (6, "<f")}
_STRING, _ARRAY, _I32 = 8, 9, 5


@dataclass(frozen=True)
class TensorSlot:
    """The place of a tensor in a file: `begin` counts from the start of the file."""

    name: str
    shape: tuple[int, ...]
    kind: BlockType
    begin: int

    @property
    def nbytes(self) -> int:
        return tensor_bytes(self.shape, self.kind)


def tensor_bytes(shape: tuple[int, ...], kind: BlockType) -> int:
    """Bytes of a tensor whose rows are whole blocks."""
    if not shape or 0 in shape:
        return kind.bytes if not shape else 0
    return math.prod(shape[:-1]) * kind.row_bytes(shape[-1])


def _text(value: str) -> bytes:
    data = value.encode("utf-8")
    return struct.pack("<Q", len(data)) + data


def _list(values: Sequence[str] | Sequence[int]) -> bytes:
    texts = [_text(value) for value in values if isinstance(value, str)]
    head = struct.pack("<IQ", _STRING if texts else _I32, len(values))
    return head + (b"".join(texts) if texts else struct.pack(f"<{len(values)}i", *values))


def _value(key: str, value: Value) -> bytes:
    if isinstance(value, str):
        return _text(key) + struct.pack("<I", _STRING) + _text(value)
    if not isinstance(value, bool | int | float):
        return _text(key) + struct.pack("<I", _ARRAY) + _list(value)
    number, form = _KINDS[type(value)]
    return _text(key) + struct.pack("<I", number) + struct.pack(form, value)


def _info(slot: TensorSlot, data: int) -> bytes:
    """Name, dimensions with the fastest first, type, place after the header."""
    sides = struct.pack(f"<I{len(slot.shape)}Q", len(slot.shape), *reversed(slot.shape))
    return _text(slot.name) + sides + struct.pack("<IQ", slot.kind.id, slot.begin - data)


def _up(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT


def _place(tensors: Mapping[str, tuple[tuple[int, ...], BlockType]], at: int) -> list[TensorSlot]:
    slots = []
    for name, (shape, kind) in tensors.items():
        if shape and shape[-1] % kind.block:
            raise InkstoneError(
                f"{name}: {kind.name} needs rows of a multiple of {kind.block}, got {shape[-1]}. "
                "Choose another type for it."
            )
        slots.append(TensorSlot(name, shape, kind, at))
        at += _up(slots[-1].nbytes)
    return slots


def gguf_layout(
    values: Mapping[str, Value], tensors: Mapping[str, tuple[tuple[int, ...], BlockType]]
) -> tuple[bytes, Sequence[TensorSlot], int]:
    """(header with its padding, places of the tensors in the same order, bytes of the file).

    Ints are written as u32, floats as f32, lists of ints as i32. Shapes are torch's.
    """
    start = struct.pack("<4sIQQ", b"GGUF", VERSION, len(tensors), len(values))
    start += b"".join(_value(key, value) for key, value in values.items())
    size = len(start) + sum(len(_info(slot, 0)) for slot in _place(tensors, 0))
    slots = _place(tensors, _up(size))
    head = start + b"".join(_info(slot, _up(size)) for slot in slots)
    head += bytes(_up(size) - size)
    total = max([len(head), *(_up(slot.begin + slot.nbytes) for slot in slots)])
    _check(head, total)
    return head, slots, total


def _check(head: bytes, total: int) -> None:
    def fetch(view: memoryview, at: int) -> None:
        part = head[at : at + len(view)]
        view[: len(part)] = part  # the rest is zeros

    read_gguf_header(fetch, total)
