"""Encodes the tensors of a quantized file in chunks of rows, on as many threads as torch has.

Each thread has one thread of torch's own: chunks are small, and torch's threads would wait for each
other after every operation.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..kernels.interrupt import beat, waited
from ..loaders.formats.gguf import GGUFFile
from ..loaders.formats.imatrix import Importance
from ..quant.fp8 import fp8_scale, quantize_fp8
from ..quant.gguf_quantizer import quantize_rows
from ..quant.gguf_types import BlockType
from .quantize_layout import Piece
from .quantize_request import BadWeights
from .weight_rows import Matrices, Rows

CHUNK = 1 << 20  # weights that a thread encodes at a time
LARGEST = 65504.0  # of f16, in which scales are stored

Encode = Callable[[Tensor], Tensor]  # float rows -> bytes
Data = Iterator[tuple[int, memoryview]]  # (place in the file, bytes)


@contextmanager
def encoder_threads() -> Iterator[int]:
    """Sets torch to one thread; gives the number that it had, for threads that encode."""
    count = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield count
    finally:
        torch.set_num_threads(count)


@dataclass
class PieceEncoder:
    """The data of pieces, one after the other."""

    model: Matrices
    importance: Importance | None
    threads: int = 1
    missing: list[str] = field(default_factory=list)  # matrices without importance

    def __post_init__(self) -> None:
        several = self.threads > 1
        self._pool = ThreadPoolExecutor(self.threads, "inkstone-quantize") if several else None

    def __enter__(self) -> PieceEncoder:
        return self

    def __exit__(self, *_: object) -> None:
        if self._pool is not None:
            self._pool.shutdown()

    def data(self, piece: Piece) -> Data:
        """(place, bytes) of all that belongs to one piece."""
        if not piece.name or not math.prod(piece.shape):
            return
        if len(piece.shape) != 2:
            values = self.model.whole(piece.name).view(1, -1)
            values = self._finite(piece.name, values, 0, math.inf)
            yield piece.begin, _bytes(values.to(piece.dtype))
            return
        unchanged = self._unchanged(piece)
        if unchanged is not None:
            yield piece.begin, _bytes(unchanged)
            return
        rows = self.model.rows(piece.name)
        if piece.scale_at is not None:
            yield from self._fp8(piece, rows, piece.scale_at)
            return
        blocks, dtype = piece.blocks, piece.dtype
        if blocks is not None:
            chunks = self._chunks(piece, rows, self._block_encoder(piece, blocks), LARGEST)
        else:
            assert dtype is not None, "neither blocks nor fp8 codes: plain numbers"
            chunks = self._chunks(piece, rows, lambda x: x.to(dtype), torch.finfo(dtype).max)
        yield from _placed(chunks, piece.begin)

    def _unchanged(self, piece: Piece) -> Tensor | None:
        """The bytes of the source where they are of the requested type already."""
        source = self.model.source
        parts = self.model.parts(piece.name)
        if self.importance is not None or any(p not in self.model.packed for p in parts):
            return None
        if not isinstance(source, GGUFFile):
            return None
        names = [self.model.names[part] for part in parts]
        entries = [source.entries[name] for name in names]
        if any(entry.kind is not piece.type or entry.factor != 1 for entry in entries):
            return None
        raw = [source.raw(name) for name in names]
        return raw[0] if len(raw) == 1 else torch.cat(raw)

    def _block_encoder(self, piece: Piece, blocks: BlockType) -> Encode:
        weight = None
        if self.importance is not None:
            weight = self.importance.of((piece.saved_as, piece.name), piece.shape[1])
            if weight is None:
                self.missing.append(piece.saved_as)
        return lambda x: quantize_rows(x, blocks, weight)

    def _fp8(self, piece: Piece, rows: Rows, scale_at: int) -> Data:
        """Two passes: the largest weight, then the codes."""
        peaks = self._chunks(piece, rows, lambda x: x.abs().amax(), math.inf)
        scale = fp8_scale(max(float(peak) for peak in peaks))
        yield scale_at, _bytes(torch.tensor(scale, dtype=torch.float32))
        codes = self._chunks(piece, rows, lambda x: quantize_fp8(x, scale), math.inf)
        yield from _placed(codes, piece.begin)

    def _chunks(self, piece: Piece, rows: Rows, encode: Encode, limit: float) -> Iterator[Tensor]:
        """Results for chunks of rows, in order; at most two chunks per thread are under way."""
        count, columns = piece.shape
        step = max(32, CHUNK // columns // 32 * 32)

        def work(start: int) -> Tensor:
            chunk = rows(start, min(start + step, count))
            return encode(self._finite(piece.name, chunk, start, limit))

        starts = list(range(0, count, step))
        if self._pool is None:
            for start in starts:
                beat()
                yield work(start)
            return
        ahead = 2 * self.threads
        futures = [self._pool.submit(work, start) for start in starts[:ahead]]
        for number in range(len(starts)):
            beat()
            result = waited(futures.pop(0))
            if number + ahead < len(starts):
                futures.append(self._pool.submit(work, starts[number + ahead]))
            yield result

    def _finite(self, name: str, rows: Tensor, start: int, limit: float) -> Tensor:
        """The rows, or an error that names the first one with a number that cannot be stored."""
        peak = float(rows.abs().amax())
        if peak <= limit and math.isfinite(peak):
            return rows
        good = (rows.abs() <= limit) & rows.isfinite()
        row, column = (int(n) for n in (~good).nonzero()[0])
        value = float(rows[row, column])
        raise BadWeights(
            f"{self.model.source.path}: tensor {name} holds {value} in row {start + row}, "
            f"column {column}: "
            + (
                "not a finite number. The file is damaged: download it again."
                if not math.isfinite(value)
                else f"more than {limit:g}, which this type cannot store. Use bf16 for this model."
            )
        )


def _placed(chunks: Iterator[Tensor], begin: int) -> Data:
    """Chunks with their places, one after the other."""
    at = begin
    for chunk in chunks:
        view = _bytes(chunk)
        yield at, view
        at += len(view)


def _bytes(tensor: Tensor) -> memoryview:
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data
