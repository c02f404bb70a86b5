"""Writes a small network as GGUF, all of it in memory: matrices in blocks, vectors in float16.

`inkstone quantize` does this for files of any size, one tensor at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from ..files.atomic import replacement
from ..loaders.formats.gguf_writer import Value, gguf_layout
from ..quant.gguf_quantizer import quantize_rows
from ..quant.gguf_types import BY_NAME

VECTORS = "F16"


def save_gguf(
    path: Path,
    tensors: Mapping[str, Tensor],
    type_of: Callable[[str], str],
    metadata: Mapping[str, Value],
) -> None:
    """Writes tensors under their names, matrices in the type that `type_of` returns for the name.

    The file appears whole or not at all.
    """
    kinds = {n: BY_NAME[type_of(n) if t.ndim > 1 else VECTORS] for n, t in tensors.items()}
    shapes = {name: (tuple(tensor.shape), kinds[name]) for name, tensor in tensors.items()}
    head, slots, size = gguf_layout(dict(metadata), shapes)
    data = bytearray(size)
    data[: len(head)] = head
    for slot, tensor in zip(slots, tensors.values()):
        x = tensor.detach().float()
        x = x.to(slot.kind.dtype) if slot.kind.dtype else quantize_rows(x, slot.kind)
        data[slot.begin : slot.begin + slot.nbytes] = x.contiguous().view(torch.uint8).numpy().data
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacement(path) as file:
        file.write(data)
