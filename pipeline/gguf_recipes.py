"""The block type of each tensor in a GGUF file: the published mixes, as a table.

Sizes of files made by this table are those of the published ones to the byte. Source of the rules:
the converter of ComfyUI-GGUF, which takes llama.cpp's and raises the first and the last block of
small types. Types that rows do not fit are replaced as llama.cpp does it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from ..errors import InkstoneError
from ..quant.gguf_types import BY_NAME, BlockType


@dataclass(frozen=True)
class Mix:
    """One row of the table; a class that is not named has the base type."""

    file_type: int  # general.file_type
    base: str
    v: str = ""  # values of attention
    down: str = ""  # second matrix of an MLP
    edge: str = ""  # everything in the first and the last block, before all else
    first: tuple[int, str] = (0, "")  # (n, type) of the first n values in alphabetical order


MIXES: dict[str, Mix] = {
    "Q2_K": Mix(10, "Q2_K", v="Q3_K", edge="Q4_K"),
    "Q3_K_S": Mix(11, "Q3_K", edge="Q4_K"),
    "Q3_K_M": Mix(12, "Q3_K", v="Q4_K", down="Q4_K", edge="Q4_K", first=(2, "Q5_K")),
    "Q4_0": Mix(2, "Q4_0", down="Q4_1"),
    "Q4_1": Mix(3, "Q4_1"),
    "Q4_K_S": Mix(14, "Q4_K", down="Q5_K", first=(4, "Q5_K")),
    "Q4_K_M": Mix(15, "Q4_K", v="Q6_K", down="Q6_K", edge="Q5_K"),
    "Q5_0": Mix(8, "Q5_0", down="Q5_1"),
    "Q5_1": Mix(9, "Q5_1"),
    "Q5_K_S": Mix(16, "Q5_K"),
    "Q5_K_M": Mix(17, "Q5_K", v="Q6_K", down="Q6_K", edge="Q6_K"),
    "Q6_K": Mix(18, "Q6_K"),
    "Q8_0": Mix(7, "Q8_0"),
    "F16": Mix(1, "F16"),
    "BF16": Mix(32, "BF16"),
}

# For rows that are no multiple of 256, then of 32: the next type with at least as many bits.
FALLBACK = {
    "Q2_K": "Q4_0",
    "Q3_K": "Q4_0",
    "Q4_K": "Q5_0",
    "Q5_K": "Q5_1",
    "Q6_K": "Q8_0",
    "Q4_0": "F16",
    "Q4_1": "F16",
    "Q5_0": "F16",
    "Q5_1": "F16",
    "Q8_0": "F16",
}

# Our names. Only matrices inside blocks are quantized (and the table of tokens, and the head).
_BLOCK = re.compile(r"(?:transformer_blocks|layers)\.(\d+)\..*\.weight")
_V = re.compile(r".*\.(?:to_v|add_v_proj|v_proj)\.weight")
_DOWN = re.compile(r".*\.(?:(?:img|txt)_mlp\.net\.2|img_mlp\.out|mlp\.down_proj)\.weight")
_TOKENS, _HEAD = "embed_tokens.weight", "lm_head.weight"
_HEAD_TYPE = "Q6_K"  # or the base, where that has more bits
KEPT = "BF16"  # matrices outside of blocks
VECTORS = "F32"


def mix_named(name: str) -> Mix:
    """A row of the table, by its name in any case."""
    mix = MIXES.get(name.upper())
    if mix is None:
        raise InkstoneError(f"There is no type {name!r}: expected one of {', '.join(MIXES)}.")
    return mix


def is_matrix(name: str, shape: tuple[int, ...]) -> bool:
    """True for tensors that are quantized."""
    return len(shape) == 2 and (bool(_BLOCK.fullmatch(name)) or name in (_TOKENS, _HEAD))


def _type_in(mix: Mix, name: str, last: int, first: set[str]) -> str:
    """The type that a mix has for a matrix; last: number of the last block."""
    block = _BLOCK.fullmatch(name)
    if name == _HEAD:
        return max(_HEAD_TYPE, mix.base, key=lambda kind: BY_NAME[kind].bits)
    if block is None:
        return mix.base
    if mix.edge and int(block[1]) in (0, last):
        return mix.edge
    if name in first:
        return mix.first[1]
    if _V.fullmatch(name):
        return mix.v or mix.base
    return mix.down or mix.base if _DOWN.fullmatch(name) else mix.base


def _fitting(name: str, columns: int) -> str:
    while columns % BY_NAME[name].block:
        name = FALLBACK[name]
    return name


def types_of(
    shapes: Mapping[str, tuple[int, ...]], mix: Mix
) -> tuple[dict[str, BlockType], dict[tuple[str, str], int]]:
    """(type of every tensor by our names, counts of types that another had to replace)."""
    blocks = [int(m[1]) for name in shapes if (m := _BLOCK.fullmatch(name))]
    first = set(sorted(filter(_V.fullmatch, shapes))[: mix.first[0]])
    types: dict[str, BlockType] = {}
    replacements: dict[tuple[str, str], int] = {}
    for name, shape in shapes.items():
        kind = VECTORS if len(shape) < 2 else KEPT
        if is_matrix(name, shape):
            ideal = _type_in(mix, name, max(blocks, default=0), first)
            kind = _fitting(ideal, shape[-1])
            if kind != ideal:
                replacements[ideal, kind] = replacements.get((ideal, kind), 0) + 1
        types[name] = BY_NAME[kind]
    return types, replacements


def replacement_lines(replacements: Mapping[tuple[str, str], int]) -> Iterable[str]:
    """A line for each kind of replacement."""
    for (ideal, kind), count in replacements.items():
        yield (
            f"{count} matrices have rows that are no multiple of {BY_NAME[ideal].block}: they "
            f"become {kind} instead of {ideal}"
        )
