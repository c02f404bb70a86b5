"""Quantizing rows of weights to GGUF blocks of any type that has an encoder here.

Memory is bounded: rows go in chunks that stay in the cache, whatever the size of the matrix.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from . import gguf_block_encoders, gguf_k_encoders
from .gguf_types import BlockType

CHUNK = 2**17  # weights at a time

ENCODE: dict[str, Callable[[Tensor, Tensor | None], Tensor]] = {
    "Q8_0": gguf_block_encoders.q8_0,
    "Q4_0": gguf_block_encoders.q4_0,
    "Q4_1": gguf_block_encoders.q4_1,
    "Q5_0": gguf_block_encoders.q5_0,
    "Q5_1": gguf_block_encoders.q5_1,
    "Q2_K": gguf_k_encoders.q2_k,
    "Q3_K": gguf_k_encoders.q3_k,
    "Q4_K": gguf_k_encoders.q4_k,
    "Q5_K": gguf_k_encoders.q5_k,
    "Q6_K": gguf_k_encoders.q6_k,
}


def _padded(rows: Tensor, multiple: int) -> Tensor:
    """float32 rows, with rows of zeros up to a multiple: see scale_search.py."""
    extra = -rows.shape[0] % multiple
    rows = rows.float()
    return torch.cat((rows, rows.new_zeros(extra, rows.shape[1]))) if extra else rows.contiguous()


def quantize_rows(rows: Tensor, kind: BlockType, importance: Tensor | None = None) -> Tensor:
    """Finite weights [r, columns] of any float type -> bytes [r, kind.row_bytes(columns)].

    `importance` [columns] > 0: mean square of the input that meets a column. Columns must be whole
    blocks. The same weights give the same bytes in chunks of any size, on any number of threads.
    """
    count, columns = rows.shape
    if kind.dtype is not None:
        return rows.to(kind.dtype).contiguous().view(torch.uint8)
    size = kind.row_bytes(columns)
    out = torch.empty(count, size, dtype=torch.uint8)
    multiple = 32 // math.gcd(32, columns // kind.block)
    step = max(1, CHUNK // columns // multiple) * multiple
    with torch.inference_mode():
        for at in range(0, count, step):
            part = out[at : at + step]
            blocks = ENCODE[kind.name](_padded(rows[at : at + step], multiple), importance)
            part.copy_(blocks.view(-1, size)[: part.shape[0]])
    return out
