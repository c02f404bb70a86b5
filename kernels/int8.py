"""Products of int8 on a CPU that has instructions for them (VNNI): half the time of bfloat16's.

Both sides are rounded: each token of the input by its largest number, each row of the weight by its
own (quant/int8_rows.py). Weights are rounded from float32 piece by piece at each product, which
takes a tenth of its time and no memory; those that a file has in int8 are taken as they are, and
for ConvRot the input is turned instead. Sums of codes are exact, so that pieces change nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ..quant.int8_rows import Int8Rows, dequantize, empty_rows, quantize
from ..quant.storage import Storage
from .spread import Buffers, spread, threads

# from which it is faster (Zen 5, of bfloat16's time: 128 tokens 1.0, 256 tokens 0.8, 1024 0.6)
TOKENS = 192
_ROWS = 256  # rows of the weight in a piece of work
_AT_ONCE = 1 << 18  # weights unpacked at a time: 1 MB in float32
_CHUNK = 1024  # tokens of a product: its sums stay in the cache


class _Room(NamedTuple):
    """Scratch of a thread: codes of a piece, floats [n,K] before they are rounded, sums int32."""

    rows: Int8Rows
    floats: Tensor
    sums: Tensor


Source = Callable[[int, int, _Room], Int8Rows]
"""(first row, end, scratch) -> these rows of a weight."""


def takes_int8(x: Tensor) -> bool:
    """True for inputs [...,N,K] of enough tokens. Those of one row of a batch count, so that a
    batch equals singles."""
    return x.dim() > 1 and x.shape[-2] >= TOKENS and x.device.type == "cpu"


def int8_products(
    xs: Sequence[Tensor], weight: Tensor | Storage, bias: Tensor | None, gelu: bool
) -> list[Tensor]:
    """x [...,K] of each, weight [N,K], bias [N] -> x W^T + b [...,N], then GELU (tanh form) if
    `gelu`. Without gradients."""
    rows, columns = weight.shape
    source, rotated, workers = _source(weight)
    inputs = [_quantized(x.reshape(-1, columns), rotated) for x in xs]
    outs = [x.new_empty(*x.shape[:-1], rows) for x in xs]
    pairs = [(codes, out.view(-1, rows)) for codes, out in zip(inputs, outs)]
    bias = None if bias is None else bias.float()
    rooms = Buffers(lambda: _room(columns))

    def multiply(index: int) -> None:
        part = slice(index * _ROWS, min((index + 1) * _ROWS, rows))
        own_bias = None if bias is None else bias[part]
        with rooms.one() as room:
            own = source(part.start, part.stop, room)
            for x, out in pairs:
                for at in range(0, len(out), _CHUNK):
                    some = slice(at, at + _CHUNK)
                    sums = _sums(x.codes[some], own.codes, room.sums)
                    dequantize(sums, (x.scales[some], own.scales), own_bias, gelu, out[some, part])

    spread(multiply, math.ceil(rows / _ROWS), workers)
    return outs


def _sums(x: Tensor, weight: Tensor, room: Tensor) -> Tensor:
    """Codes [n,K] and [N,K] -> int32 [n,N], in `room`."""
    sums = room[: len(x) * len(weight)].view(len(x), len(weight))
    return torch._int_mm(x, weight.t(), out=sums)


def _room(columns: int) -> _Room:
    floats = torch.empty(max(1, _AT_ONCE // columns), columns)
    sums = torch.empty(_CHUNK * _ROWS, dtype=torch.int32)
    return _Room(empty_rows(_ROWS, columns), floats, sums)


def _source(weight: Tensor | Storage) -> tuple[Source, int, int]:
    """How the weight's rows become codes, the ConvRot group by which inputs are turned, and the
    threads that unpack pieces side by side."""
    own = weight.int8_rows() if isinstance(weight, Storage) else None
    if own is not None:
        codes, scales, rotated = own
        return (lambda a, b, _: Int8Rows(codes[a:b], scales[a:b])), rotated, threads()

    def rounded(start: int, stop: int, room: _Room) -> Int8Rows:
        step, (codes, scales, _) = len(room.floats), room.rows
        rows = Int8Rows(codes[: stop - start], scales[: stop - start])
        for at in range(start, stop, step):
            end = min(at + step, stop)
            part = slice(at - start, end - start)
            if isinstance(weight, Tensor):
                floats = weight[at:end]
            else:
                floats = weight.rows_into(at, room.floats[: end - at])
            quantize(floats, Int8Rows(rows.codes[part], rows.scales[part]))
        return rows

    alone = isinstance(weight, Tensor) or weight.compiled(torch.float32)
    return rounded, 0, threads() if alone else 1


def _quantized(x: Tensor, rotated: int) -> Int8Rows:
    """Codes of an input [n,K]."""
    out = empty_rows(*x.shape)
    step = max(1, _AT_ONCE // x.shape[1])

    def some(index: int) -> None:
        part = slice(index * step, (index + 1) * step)
        quantize(x[part], Int8Rows(out.codes[part], out.scales[part]), rotated)

    spread(some, math.ceil(len(x) / step))
    return out


def int8_bytes(inputs: int, columns: int) -> int:
    """Bytes that products in int8 need besides a network's activations. inputs: numbers of the
    largest input; columns: of the widest weight."""
    room = _ROWS * columns + 4 * (_AT_ONCE + _CHUNK * _ROWS)
    return inputs + threads() * room
