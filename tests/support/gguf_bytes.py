"""GGUF files written byte by byte, right or wrong in any place."""

from __future__ import annotations

import struct
from collections.abc import Iterable

U32, I32, F32, BOOL, STRING, ARRAY, U64 = 4, 5, 6, 7, 8, 9, 10
TYPE_F32, TYPE_Q8_0 = 0, 8
Q8_0_BLOCK = struct.pack("<e32b", 0.5, *range(-16, 16))


def text(value: str | bytes, length: int | None = None) -> bytes:
    value = value.encode() if isinstance(value, str) else value
    return struct.pack("<Q", len(value) if length is None else length) + value


def kv(key: str | bytes, kind: int, value: bytes) -> bytes:
    return text(key) + struct.pack("<I", kind) + value


def number(key: str, value: int, form: str = "I", kind: int = U32) -> bytes:
    return kv(key, kind, struct.pack("<" + form, value))


def array(key: str, kind: int, count: int, elements: bytes) -> bytes:
    return kv(key, ARRAY, struct.pack("<IQ", kind, count) + elements)


def info(
    name: str | bytes, dims: Iterable[int], kind: int, offset: int, rank: int | None = None
) -> bytes:
    """One tensor; dims fastest first, as in the file."""
    dims = list(dims)
    rank = len(dims) if rank is None else rank
    return text(name) + struct.pack(f"<I{len(dims)}QIQ", rank, *dims, kind, offset)


ARCH = kv("general.architecture", STRING, text("qwen_image"))
TOKENS = array("tokenizer.ggml.tokens", STRING, 3, text("a") + text("bc") + text("é"))
KEYS = (ARCH, TOKENS, number("n", 7), kv("b", BOOL, b"\1"))
TENSORS = (info("a.weight", (64, 2), TYPE_Q8_0, 0), info("b", (4,), TYPE_F32, 160))
DATA = Q8_0_BLOCK * 4 + b"\0" * 24 + struct.pack("<4f", 1, 2, 3, 4)


def file(
    keys: Iterable[bytes] = KEYS,
    tensors: Iterable[bytes] = TENSORS,
    data: bytes = DATA,
    head: bytes = struct.pack("<4sI", b"GGUF", 3),
    counts: tuple[int, int] | None = None,
    alignment: int = 32,
) -> bytes:
    """Two tensors, a.weight Q8_0 [2, 64] and b F32 [4], by default."""
    keys, tensors = list(keys), list(tensors)
    header = head + struct.pack("<QQ", *(counts or (len(tensors), len(keys))))
    header += b"".join(keys) + b"".join(tensors)
    return header + b"\0" * (-len(header) % alignment) + data


def header_length() -> int:
    """Bytes of the header of `file()`."""
    return 24 + len(b"".join(KEYS)) + len(b"".join(TENSORS))
