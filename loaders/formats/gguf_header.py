"""The header of a GGUF file: every number of it is checked before any data is used.

Stricter than ggml: limits on names, counts and text, strict UTF-8, no overlaps, no duplicates.
Source: the format description of GGUF. Errors name the tensor or key; the reader adds the file.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

import torch

from ...errors import InkstoneError
from ...quant.gguf_types import REFUSED, TYPES, BlockType
from .gguf_metadata import (
    ARCHITECTURE,
    CUT,
    INTEGERS,
    U32,
    U64,
    ZERO_COND_MARK,
    Array,
    Cursor,
    Fetch,
    decode_array,
    read_values,
)
from .safetensors_header import MAX_RANK, MAX_TENSORS, TensorEntry, show, sniff

MAX_DIMENSION, MAX_NUMEL = 2**40, 2**48
MAX_ALIGNMENT = 2**20
SHAPE_KEY = "comfy.gguf.orig_shape."  # of a tensor that was cut into rows of 256
_OLD = {b"lmgg", b"tjgg", b"fmgg", b"algg"}  # containers from before GGUF


@dataclass(frozen=True)
class GGUFEntry(TensorEntry):
    """One tensor: `begin` and `end` count from the start of the file; packed ones are uint8.

    `factor` multiplies all weights of the tensor (the second scale of NVFP4).
    """

    kind: BlockType
    part: int = 0  # of a file in several parts
    factor: float = 1.0

    @property
    def read_dtype(self) -> torch.dtype:
        return self.kind.dtype or torch.float32

    @property
    def type_name(self) -> str:
        return self.kind.name


@dataclass
class GGUFHeader:
    """The content of a header. Values of `metadata` are text, whatever their type."""

    metadata: dict[str, str]
    arrays: dict[str, Array]
    entries: dict[str, GGUFEntry] = field(default_factory=dict)


def _kind(id: int, what: str) -> BlockType:
    if id in TYPES:
        return TYPES[id]
    reason = REFUSED.get(id, "is not known to this version")
    raise InkstoneError(
        f"{what} has the type {id}: {reason}. Use a file of another type, for example Q4_K_M "
        "or Q8_0"
    )


def _product(dims: Iterable[int], what: str, empty: bool) -> int:
    dims = list(dims)
    if any(not (0 if empty else 1) <= side <= MAX_DIMENSION for side in dims):
        raise InkstoneError(f"{what} has the shape {dims[::-1]}: each side should be 1 to 2^40")
    if math.prod(dims) > MAX_NUMEL:
        raise InkstoneError(f"{what} has the shape {dims[::-1]}: more than 2^48 numbers")
    return math.prod(dims)


def _info(cursor: Cursor, number: str) -> tuple[str, GGUFEntry]:
    """Name and entry of one tensor; its offsets still count from the start of the data."""
    name = cursor.name(f"the name of tensor {number}")
    what = f"tensor {show(name)}"
    rank = cursor.integer(U32, what)
    if rank > 4:
        raise InkstoneError(f"{what} has {rank} dimensions, at most 4 are allowed")
    dims = [cursor.integer(U64, what) for _ in range(rank)]
    kind, offset = _kind(cursor.integer(U32, what), what), cursor.integer(U64, what)
    numel = _product(dims, what, name.endswith(ZERO_COND_MARK))
    if (dims[0] if dims else 1) % kind.block:
        raise InkstoneError(
            f"{what} has rows of {dims[0] if dims else 1}, {kind.name} needs a multiple of "
            f"{kind.block}"
        )
    size = numel // kind.block * kind.bytes
    if offset + size > cursor.size:
        raise InkstoneError(
            f"{what} ({kind.name} {dims[::-1]}) needs {size} bytes from byte {offset} of the "
            f"data, but the whole file has {cursor.size}. {CUT}"
        )
    dtype = kind.dtype or torch.uint8  # packed types have none
    return name, GGUFEntry(dtype, tuple(reversed(dims)), offset, offset + size, kind)


def _alignment(header: GGUFHeader) -> int:
    text = header.metadata.get("general.alignment", "32")
    value = int(text) if text.isdecimal() else 0
    if value not in (1 << bit for bit in range(MAX_ALIGNMENT.bit_length())):
        raise InkstoneError(f"general.alignment is {show(text)}, expected a power of two to 2^20")
    return value


def _true_shape(name: str, entry: GGUFEntry, header: GGUFHeader, buffer: bytearray) -> GGUFEntry:
    """The entry with its original shape, which some converters store where they reshape it."""
    array = header.arrays.get(SHAPE_KEY + name)
    if array is None:
        return entry
    if array.kind not in INTEGERS or array.count > MAX_RANK:
        raise InkstoneError(f"{SHAPE_KEY}{name} should be at most {MAX_RANK} integers")
    shape = tuple(map(int, decode_array(array, buffer[array.begin : array.end])))
    if math.prod(shape) != entry.numel or min(shape, default=1) < 0:
        raise InkstoneError(
            f"{SHAPE_KEY}{name} is {list(shape)}, but tensor {show(name)} has the shape "
            f"{list(entry.shape)}"
        )
    return replace(entry, shape=shape)


def _place(header: GGUFHeader, start: int, alignment: int, size: int) -> None:
    """Checks the offsets and makes them count from the start of the file, in place."""
    at, last = start, "the header"
    for name, entry in sorted(header.entries.items(), key=lambda item: item[1].begin):
        if entry.begin % alignment:
            raise InkstoneError(
                f"tensor {show(name)} begins at byte {entry.begin} of the data, which is not a "
                f"multiple of {alignment}"
            )
        begin, end = start + entry.begin, start + entry.end
        if begin < at and begin < end:
            raise InkstoneError(f"tensor {show(name)} overlaps {last} at byte {begin}")
        if begin < end:
            at, last = end, f"tensor {show(name)}"
        header.entries[name] = replace(entry, begin=begin, end=end)
    if at > size:
        raise InkstoneError(f"it needs {at} bytes, the file has {size}. {CUT}")


def _counts(cursor: Cursor) -> tuple[int, int]:
    """Checks magic and version; returns (number of tensors, number of keys)."""
    cursor.need(min(64, cursor.size), "the magic")
    head = bytes(cursor.buffer[:64])
    if head[:4] != b"GGUF":
        seems = sniff(head)
        if head[:4] in _OLD:
            seems = "of a format from before GGUF. Use a newer file."
        if head[8:9] == b"{":
            seems = "a .safetensors file. Rename it to .safetensors."
        raise InkstoneError(f"it seems to be {seems}" if seems else "it does not begin with GGUF")
    cursor.at = 4
    version = cursor.integer(U32, "the version")
    if not version & 0xFFFF:
        raise InkstoneError("it is big endian. Use a little-endian file, as for any PC or Mac")
    if version not in (2, 3):
        raise InkstoneError(
            f"it has version {version} of the format, expected 2 or 3. Use a newer file"
        )
    tensors, keys = (cursor.integer(U64, f"the number of {what}") for what in ("tensors", "keys"))
    for what, count, least in (("tensors", tensors, 24), ("keys", keys, 13)):
        if count > MAX_TENSORS or count * least > cursor.size:
            most = min(MAX_TENSORS, cursor.size // least)
            raise InkstoneError(
                f"its header counts {count} {what}; at most {most} are possible in {cursor.size} "
                "bytes"
            )
    return tensors, keys


def read_gguf_header(fetch: Fetch, size: int) -> GGUFHeader:
    """The header of a file of `size` bytes."""
    cursor = Cursor(fetch, size)
    tensors, keys = _counts(cursor)
    header = GGUFHeader(*read_values(cursor, keys))
    for number in range(tensors):
        name, entry = _info(cursor, f"{number + 1} of {tensors}")
        if name in header.entries:
            raise InkstoneError(f"two tensors have the name {show(name)}")
        header.entries[name] = _true_shape(name, entry, header, cursor.buffer)
    alignment = _alignment(header)
    _place(header, -(-cursor.at // alignment) * alignment, alignment, size)
    return header


def read_architecture(fetch: Fetch, size: int) -> str:
    """general.architecture, which nearly every file has as its first key; "" if there is none."""
    cursor = Cursor(fetch, size)
    values, _ = read_values(cursor, _counts(cursor)[1], ARCHITECTURE)
    return values.get(ARCHITECTURE, "")
