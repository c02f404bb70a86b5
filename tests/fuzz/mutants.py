"""Mutants of an input: of the values where it is JSON or has a JSON header, of the chunks where it
is a PNG, else of the bytes. Deterministic: a seed gives the same mutants everywhere.
"""

from __future__ import annotations

import json
import struct
import zlib
from random import Random
from typing import Any

from .files import MARK

_PNG = b"\x89PNG\r\n\x1a\n"
_NUMBERS = (0, 1, -1, 2, 3, 8, 255, 2**31, 2**53, 2**64, -(2**63), 10**400, 0.5, 1e308, -0.0)
_TEXTS = ("", "x", "0", "1", "-1", "a.b", "../x", "\0", "\ud800", "%", "é" * 300, "1" * 5000)
_EXTREMES = (b"\0", b"\xff", b"\x7f", b"\x80", b"\0\0\0\0", b"\xff\xff\xff\xff", b"{", b"]", b'"')


def mutant(data: bytes, rng: Random) -> bytes:
    """One mutant; of an input of several files, one of them changes."""
    parts = data.split(MARK)
    index = rng.randrange(len(parts))
    parts[index] = _of_file(parts[index], rng)
    return MARK.join(parts)


def _of_file(data: bytes, rng: Random) -> bytes:
    if rng.random() < 0.75:
        if data.startswith(_PNG):
            return _of_png(data, rng)
        length = int.from_bytes(data[:8], "little")
        if data[8:9] == b"{" and length <= len(data) - 8:  # .safetensors
            changed = _of_json(data[8 : 8 + length], rng)
            if changed is not None:
                return len(changed).to_bytes(8, "little") + changed + data[8 + length :]
        if data[:1] in (b"{", b"["):
            lines = data.split(b"\n") if b"\n{" in data else [data]
            index = rng.randrange(len(lines))
            changed = _of_json(lines[index], rng)
            if changed is not None:
                lines[index] = changed
                return b"\n".join(lines)
    return _of_bytes(data, rng)


def _of_bytes(data: bytes, rng: Random) -> bytes:
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 4, 16))):
        at = rng.randrange(len(changed) + 1)
        size = rng.choice((1, 1, 2, 4, 8, 64))
        kind = rng.randrange(5)
        if kind == 0 and at < len(changed):
            changed[at] ^= 1 << rng.randrange(8)
        elif kind == 1:
            piece = rng.choice(_EXTREMES)
            changed[at : at + len(piece)] = piece
        elif kind == 2:
            del changed[at : at + size]
        elif kind == 3:
            changed[at:at] = changed[at : at + size]
        else:
            changed[at : at + size] = rng.randbytes(size)
    return bytes(changed[: rng.randrange(len(changed) + 1)] if rng.random() < 0.05 else changed)


# ---- JSON ----------------------------------------------------------------------------------------


def _of_json(text: bytes, rng: Random) -> bytes | None:
    """The text with a few values changed; None where it is no JSON."""
    try:
        tree = [json.loads(text)]
    except (ValueError, RecursionError):
        return None
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        places = _places(tree)
        if not places:
            break
        home, key = rng.choice(places)
        _change(home, key, places, rng)
    try:
        return json.dumps(tree[0] if tree else None).encode()
    except (ValueError, RecursionError):  # it holds itself
        return None


def _places(tree: list[Any]) -> list[tuple[Any, Any]]:
    """(container, key) of every value, at most some thousands."""
    places: list[tuple[Any, Any]] = []
    level: list[Any] = [tree]
    while level and len(places) < 5000:
        home = level.pop()
        keys = list(home) if isinstance(home, dict) else range(len(home))
        for key in keys:
            places.append((home, key))
            if isinstance(home[key], (dict, list)):
                level.append(home[key])
    return places


def _change(home: Any, key: Any, places: list[tuple[Any, Any]], rng: Random) -> None:
    if key not in home if isinstance(home, dict) else key >= len(home):
        return
    kind = rng.randrange(7)
    if kind == 0:
        del home[key]
    elif kind == 1 and isinstance(home, dict):
        home[rng.choice(_TEXTS)] = home.pop(key)
    elif kind == 1:
        home.insert(key, home[key])
    elif kind == 2:
        home[key] = rng.choice(_NUMBERS)
    elif kind == 3:
        home[key] = rng.choice(_TEXTS)
    elif kind == 4:
        home[key] = rng.choice((None, True, False, [], {}, [None], {"": None}, [[1, 2]]))
    elif kind == 5:
        home[key] = [home[key]] if rng.random() < 0.5 else {"x": home[key]}
    else:
        other, place = rng.choice(places)
        if place in other if isinstance(other, dict) else place < len(other):
            home[key] = json.loads(json.dumps(other[place]))


# ---- PNG -----------------------------------------------------------------------------------------


def _of_png(data: bytes, rng: Random) -> bytes:
    """One chunk changed, with a right checksum, so that it is read."""
    chunks, at = [], len(_PNG)
    while at + 12 <= len(data):
        length = int.from_bytes(data[at : at + 4], "big")
        chunks.append((data[at + 4 : at + 8], data[at + 8 : at + 8 + length]))
        at += length + 12
    if not chunks:
        return _of_bytes(data, rng)
    index = rng.randrange(len(chunks))
    kind, content = chunks[index]
    key, zero, text = content.partition(b"\0")
    if kind == b"tEXt" and zero and rng.random() < 0.7:
        chunks[index] = kind, key + zero + _of_file(text, rng)
    elif kind == b"IDAT" and rng.random() < 0.3:
        chunks[index] = kind, zlib.compress(rng.randbytes(50))
    elif rng.random() < 0.2:
        chunks.insert(rng.randrange(len(chunks)), chunks[index])
    else:
        chunks[index] = kind, _of_bytes(content, rng)
    return _PNG + b"".join(
        struct.pack(">I", len(c)) + k + c + struct.pack(">I", zlib.crc32(k + c)) for k, c in chunks
    )
