"""Decoding Huffman streams of bytes, many places at once: the exponents of DFloat11.

A stream is cut into chunks of 64 bits; a chunk owns the codes that start in it, and the file has
the bit at which the first of them starts. So all chunks can be decoded in parallel. Unusual: a step
does not take one code but as many as fit into 16 bits (about six): a table of 65536 entries has up
to eight symbols in one int64. Rare longer codes go through the file's own tables, 8 bits at a time.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

WINDOW = 16  # bits looked at in one step
WINDOWS = 1 << WINDOW
CHUNK = 64  # bits of a chunk
POINTER = 240  # values from here on are rows of the file's tables (256 - row), not symbols
LEVELS = 4  # rows that one code can pass: codes have at most 32 bits


class Tables(NamedTuple):
    """The lookup tables: for every 16 bits the up to 8 symbols as bytes of an int64, the bits they
    take (0: the first code is longer), and how many of them start in the first 0 .. 16 bits. 256
    more entries have one symbol each. luts, lens: the file's own."""

    symbols: Tensor  # int64 [65792]
    bits: Tensor  # int64 [65792]
    starts: Tensor  # uint8 [65792 * 17]
    luts: Tensor  # int64 [17 * 256]
    lens: Tensor  # int64 [256]


def fault(luts: Tensor) -> str:
    """The problem with tables [rows + 1, 256] (the last row: lengths), or ""."""
    if luts.dim() != 2 or luts.shape[1] != 256 or not 2 <= len(luts) <= 18:
        return f"shape {list(luts.shape)}, expected [2 to 18, 256]"
    rows, lens = luts[:-1].int(), luts[-1].int()
    pointers = 256 - rows[rows >= POINTER]
    if bool((pointers >= len(rows)).any()):
        return f"a pointer to row {int(pointers.max())} of {len(rows)}"
    symbols = rows[rows < POINTER].unique()
    if not len(symbols):
        return "no symbol in it"
    bad = symbols[(lens[symbols] < 1) | (lens[symbols] > 32)]
    if len(bad):
        return f"symbol {int(bad[0])} has {int(lens[bad[0]])} bits, expected 1 to 32"
    return ""


def _walk(window: Tensor, bits: int, luts: Tensor) -> Tensor:
    """The symbol at the start of each `bits`-bit window (int64); a pointer where there is none."""
    symbols = luts[window >> (bits - 8) & 255]
    for level in range(2, bits // 8 + 1):
        deeper = symbols >= POINTER
        below = luts[(256 - symbols).clamp(0, 16) * 256 + (window >> (bits - 8 * level) & 255)]
        symbols = torch.where(deeper, below, symbols)
    return symbols


@lru_cache(maxsize=8)
def tables(raw: bytes, device: torch.device) -> Tables:
    """Tables of a stream, from the bytes of its luts. Streams of one block share them."""
    with torch.inference_mode(False):
        both = torch.tensor(list(raw), dtype=torch.int64, device=device).view(-1, 256)
        luts = torch.zeros(17 * 256, dtype=torch.int64, device=device)
        luts[: both[:-1].numel()] = both[:-1].flatten()
        lens = both[-1].contiguous()
        every = torch.arange(256, device=device)
        window = torch.arange(WINDOWS, device=device)
        one = _walk(window, WINDOW, luts)
        length = torch.where(one < POINTER, lens[one], CHUNK)
        symbols = torch.zeros(WINDOWS + 256, 8, dtype=torch.uint8, device=device)
        starts = torch.full_like(symbols, 255)
        bits = torch.zeros_like(window)
        for at in range(8):
            rest = window << bits & 0xFFFF
            fits = bits + length[rest] <= WINDOW
            symbols[:WINDOWS, at] = torch.where(fits, one[rest], 0)
            starts[:WINDOWS, at] = torch.where(fits, bits, 255)
            bits = bits + torch.where(fits, length[rest], 0)
        symbols[WINDOWS:, 0], starts[WINDOWS:, 0] = every, 0
        bits = torch.cat([bits, torch.where(every < POINTER, lens, CHUNK)])
        counts = [(starts < left).sum(1, dtype=torch.uint8) for left in range(WINDOW + 1)]
        return Tables(
            symbols=symbols.view(torch.int64).view(-1),
            bits=bits,
            starts=torch.stack(counts, 1).flatten(),
            luts=luts,
            lens=lens,
        )


def _words(stream: Tensor) -> Tensor:
    """Bytes of whole chunks -> int64 [chunks], the first byte the highest."""
    return stream.view(-1, 8).flip(-1).contiguous().view(torch.int64).view(-1)


def _long_codes(position: Tensor, high: Tensor, following: Tensor, tables: Tables) -> Tensor:
    """The symbols of codes of up to 32 bits at `position` of chunks and the words that follow them.
    An invalid code gives 240 or more: it takes all bits, so the count of the chunk is wrong."""
    late = high << 32 | following >> 32 & 0xFFFFFFFF  # bits 32..95 of the chunk
    window = torch.where(
        position <= 32, high >> (32 - position).clamp_min(0), late >> (64 - position).clamp_max(32)
    )
    return _walk(window & 0xFFFFFFFF, 8 * LEVELS, tables.luts)


class _Chunks(NamedTuple):
    """Chunks that are not decoded to their end yet, all int64."""

    number: Tensor
    position: Tensor  # bit of the next code
    owned: Tensor  # codes so far
    high: Tensor  # bits 0..63
    low: Tensor  # bits 16..79
    following: Tensor  # bits 64..127

    def where(self, mask: Tensor) -> _Chunks:
        at = mask.nonzero().squeeze(1)
        return _Chunks(*(t.index_select(0, at) for t in self))


def _start(stream: Tensor, gaps: Tensor) -> _Chunks:
    words = _words(stream)
    high, following = words[:-1], words[1:]
    low = high << 16 | following >> 48 & 0xFFFF
    number = torch.arange(len(high), device=stream.device)
    return _Chunks(
        number=number,
        position=gaps.long(),
        owned=torch.zeros_like(number),
        high=high,
        low=low,
        following=following,
    )


def _look_up(chunks: _Chunks, tables: Tables) -> tuple[Tensor, Tensor, Tensor]:
    """(entries, bits, codes that start in this chunk) of the next lookup in every chunk."""
    shift = 48 - chunks.position
    late = chunks.low >> (shift + 16).clamp_max_(63)
    entry = torch.where(shift >= 0, chunks.high >> shift.clamp_min(0), late).bitwise_and_(0xFFFF)
    bits = tables.bits.index_select(0, entry)
    if int(bits.min()) == 0:
        at = (bits == 0).nonzero().squeeze(1)
        position, high, following = chunks.position[at], chunks.high[at], chunks.following[at]
        entry[at] = WINDOWS + _long_codes(position, high, following, tables)
        bits[at] = tables.bits[entry[at]]
    left = (shift + 16).clamp_max_(WINDOW)
    counts = tables.starts.index_select(0, left.add_(entry, alpha=WINDOW + 1))
    return entry, bits, counts


def decode(stream: Tensor, gaps: Tensor, tables: Tables) -> tuple[Tensor, Tensor]:
    """Symbols of `chunks` chunks in their order, and how many each chunk owns.

    stream: uint8 [8 * chunks + 8], the last 8 bytes for codes that run over; gaps [chunks]: first
    bits. Codes in the padding at a stream's end are among the symbols.
    """
    chunks = _start(stream, gaps)
    owned = torch.zeros_like(chunks.number)
    lookups = []  # of every step: entries, their chunks, codes that these had before
    while len(chunks.number):
        entry, bits, counts = _look_up(chunks, tables)
        lookups.append((entry, chunks.number, chunks.owned))
        chunks = chunks._replace(position=chunks.position + bits, owned=chunks.owned + counts)
        going = chunks.position < CHUNK
        if int(going.sum()) < len(going):
            owned[chunks.number] = chunks.owned
            chunks = chunks.where(going)
    entries, index, before = (torch.cat(t) for t in zip(*lookups))
    ends = owned.cumsum(0)
    places = (ends - owned).index_select(0, index).add_(before)
    symbols = tables.symbols.index_select(0, entries).view(torch.uint8).view(-1, 8)
    out = torch.empty(int(ends[-1]) + 8, dtype=torch.uint8, device=stream.device)
    for at in range(7, -1, -1):  # symbols written too far right are overwritten by a later pass
        out[at:].scatter_(0, places, symbols[:, at].contiguous())
    return out[:-8], owned
