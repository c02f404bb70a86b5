"""A DFloat11 encoder for tests: the format restated from its description, bits set one by one.

Codes come from a plain Huffman tree over the exponents and an end mark, in canonical order.
"""

from __future__ import annotations

import heapq
from collections import Counter

import torch
from torch import Tensor

CHUNK, THREADS = 64, 512


def code_table(counts: dict[int, int]) -> dict[int, tuple[int, int]]:
    """Symbol -> (bits, code); -1 is the end mark."""
    counts = {**counts, -1: 1}
    heap = [(count, at, [symbol]) for at, (symbol, count) in enumerate(sorted(counts.items()))]
    lengths = dict.fromkeys(counts, 0)
    heapq.heapify(heap)
    while len(heap) > 1:
        low, second = heapq.heappop(heap), heapq.heappop(heap)
        for symbol in low[2] + second[2]:
            lengths[symbol] += 1
        heapq.heappush(heap, (low[0] + second[0], low[1], low[2] + second[2]))
    codes, code, before = {}, 0, 0
    for symbol, bits in sorted(lengths.items(), key=lambda item: (item[1], -item[0])):
        code <<= bits - before
        codes[symbol] = (bits, code)
        code, before = code + 1, bits
    return codes


def luts(codes: dict[int, tuple[int, int]]) -> Tensor:
    """Rows by the bytes that lead to them, then the lengths. Holes repeat what stands before."""
    words = {s: format(code, f"0{bits}b") for s, (bits, code) in codes.items() if s >= 0}
    starts = sorted({w[: (len(w) - 1) // 8 * 8] for w in words.values()} | {""}, key=len)
    table, last = torch.zeros(len(starts) + 1, 256, dtype=torch.uint8), 0
    for row, start in enumerate(starts):
        here = {}
        for symbol, word in words.items():
            rest = word[len(start) :]
            if word.startswith(start) and rest:
                if len(rest) <= 8:
                    here[int(rest.ljust(8, "0"), 2)] = symbol
                else:
                    here[int(rest[:8], 2)] = 256 - starts.index(start + rest[:8])
        for at in range(256):
            last = here.get(at, last)
            table[row, at] = last
    for symbol, word in words.items():
        table[-1, symbol] = len(word)
    return table


def encode(weights: list[Tensor], counts: dict[int, int] | None = None) -> dict[str, Tensor]:
    """bf16 matrices -> the tensors of one stream by suffix. counts: frequencies for the tree."""
    bits = torch.cat([w.flatten() for w in weights]).view(torch.int16).int() & 0xFFFF
    exponent, signs = bits >> 7 & 255, bits >> 8 & 0x80 | bits & 0x7F
    codes = code_table(counts or dict(Counter(exponent.tolist())))
    length = torch.zeros(256, dtype=torch.int64)
    code = torch.zeros(256, dtype=torch.int64)
    for symbol, (n, value) in codes.items():
        if symbol >= 0:
            length[symbol], code[symbol] = n, value
    lengths, values = length[exponent], code[exponent]
    ends = lengths.cumsum(0)
    begins = ends - lengths
    total = int(ends[-1])
    stream = torch.zeros(-(-total // 8) * 8, dtype=torch.uint8)
    for bit in range(int(lengths.max())):
        has = lengths > bit
        stream[begins[has] + bit] = (values[has] >> (lengths[has] - 1 - bit) & 1).to(torch.uint8)
    n, value = codes[-1]
    mark = [value >> (n - 1 - i) & 1 for i in range(n)][: len(stream) - total]
    stream[total : total + len(mark)] = torch.tensor(mark, dtype=torch.uint8)
    eight = 2 ** torch.arange(7, -1, -1)
    encoded = (stream.view(-1, 8).long() * eight).sum(1).to(torch.uint8)

    pieces = -(-len(encoded) // (THREADS * 8))
    chunks = torch.arange(pieces * THREADS)
    first = torch.searchsorted(begins, chunks * CHUNK)  # the first code that starts in each
    there = first < len(begins)
    gap = torch.where(there, begins[first.clamp_max(len(begins) - 1)] - chunks * CHUNK, 0)
    gap = torch.where(gap < 32, gap, 0)
    packed = (gap.unsqueeze(1) >> torch.arange(4, -1, -1) & 1).view(-1, 8)
    positions = torch.cat([first[::THREADS], torch.tensor([len(begins)])])
    tensors = {
        ".encoded_exponent": encoded,
        ".sign_mantissa": signs.to(torch.uint8),
        ".luts": luts(codes),
        ".gaps": (packed * eight).sum(1).to(torch.uint8),
        ".output_positions": positions.to(torch.int32).view(torch.uint8),
    }
    if len(weights) > 1:
        ends = torch.tensor([w.numel() for w in weights]).cumsum(0)
        tensors[".split_positions"] = ends[:-1]
    return tensors
