"""Which layers a LoRA is trained on, and with what rank."""

from __future__ import annotations

import fnmatch
import re
import sys
from collections.abc import Mapping, Sequence

from torch import nn

from ...errors import CallError
from ...kernels.linear import Linear

ALL = ("attention", "mlp")  # attention and MLP of all streams
_GROUPS = {"attention": ("*.attn.*",), "mlp": ("*mlp.*",)}
_BLOCK = re.compile(r"transformer_blocks\.(\d+)\.")
_RANGE = re.compile(r"(\d+)(?:-(\d+))?")


def layers_of(network: nn.Module) -> dict[str, Linear]:
    """Every linear layer of the network, by its published name."""
    return {name: m for name, m in network.named_modules() if isinstance(m, Linear)}


def choose(
    network: nn.Module, patterns: Sequence[str], rank: int, ranks: Mapping[str, int]
) -> dict[str, int]:
    """Layer name -> rank. patterns: `attention`, `mlp`, or names with * and ?; without any, these
    two. ranks: other ranks for some, by ranges of blocks ("0-19") or patterns; the last that fits
    a layer counts, 0 = it is not trained. Raises CallError where something fits no layer.
    """
    names = list(layers_of(network))
    chosen: dict[str, int] = {}
    for pattern in patterns or ALL:
        fitting = _fitting(pattern, names)
        if not fitting:
            raise _nothing("targets", pattern, names)
        chosen |= dict.fromkeys(fitting, rank)
    for pattern, own in ranks.items():
        fitting = [name for name in _fitting(pattern, names) if name in chosen]
        if not fitting:
            raise _nothing("ranks", pattern, list(chosen))
        chosen |= dict.fromkeys(fitting, own)
    trained = {name: chosen[name] for name in names if chosen.get(name)}
    if not trained:
        raise CallError("All layers have rank 0: expected a rank of at least 1 for some.")
    return trained


def blocks_beyond(network: nn.Module, pattern: str) -> int | None:
    """The model's last block, where the pattern is a range of blocks that ends behind it."""
    span = _RANGE.fullmatch(pattern.strip())
    last = max((int(m[1]) for name in layers_of(network) if (m := _BLOCK.match(name))), default=-1)
    return last if span is not None and int(span[2] or span[1]) > last else None


def _fitting(pattern: str, names: Sequence[str]) -> list[str]:
    span = _RANGE.fullmatch(pattern.strip())
    if span is not None:
        first, last = int(span[1]), int(span[2] or span[1])
        blocks = {name: int(m[1]) for name in names if (m := _BLOCK.match(name))}
        return [name for name, block in blocks.items() if first <= block <= last]
    inside = [name for name in names if _BLOCK.match(name)] if pattern in _GROUPS else names
    globs = _GROUPS.get(pattern, (pattern, f"*.{pattern}"))
    return [name for name in inside if any(fnmatch.fnmatchcase(name, glob) for glob in globs)]


def _nothing(option: str, pattern: str, names: Sequence[str]) -> CallError:
    kinds = dict.fromkeys(re.sub(r"\.\d+\.", ".*.", name, count=1) for name in names)
    if "_mod" in pattern or "modulation" in pattern:
        why = "modulation layers see only the timestep and are not trained"
    else:
        why = f"expected {', '.join(ALL)}, a range of blocks, or one of {', '.join(kinds)}"
    return CallError(f"{option}: no layer is named {pattern!r}: {why}.")


def first_block(names: Sequence[str]) -> int:
    """The first block that is trained: 0 where a layer in front of all blocks is."""
    blocks = [_BLOCK.match(name) for name in names if name != "proj_out"]
    return min((int(block[1]) if block else 0 for block in blocks), default=sys.maxsize)
