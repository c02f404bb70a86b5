"""DFloat11: lossless bfloat16 in 70 % of the bytes. Exponents are a Huffman stream, signs and
mantissas are stored next to it.

Unusual: several matrices of a block share one stream in the file, none in memory. A matrix takes
the pieces of 4096 stream bytes in which its elements lie (the file has the first element of each
piece), so rows are decoded alone, in memory as well. The count of every piece is checked.
"""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import NamedTuple

import torch
from torch import Tensor

from ..errors import InkstoneError
from . import huffman
from .dfloat11_shapes import matrix_shape
from .packed_layer import DOWNLOAD_AGAIN, PackedParts
from .storage import PackedWeight, Storage, WeightSource

THREADS, CHUNK_BYTES = 512, 8  # chunks of a piece, bytes of a chunk: the only published numbers
PIECE = THREADS * CHUNK_BYTES
GAP_BYTES = THREADS * 5 // 8  # of a piece: 5 bits for every chunk
AT_ONCE = 32  # pieces decoded at once: some 400,000 weights
STREAM = (".encoded_exponent", ".sign_mantissa", ".luts", ".output_positions", ".gaps")

# Order of matrices in a block's stream, where no config.json says it (that of both published ones).
ORDER: dict[str, Sequence[str]] = {
    r"transformer_blocks\.\d+": (
        "img_mod.1",
        "attn.to_q",
        "attn.to_k",
        "attn.to_v",
        "attn.add_k_proj",
        "attn.add_v_proj",
        "attn.add_q_proj",
        "attn.to_out.0",
        "attn.to_add_out",
        "img_mlp.net.0.proj",
        "img_mlp.net.2",
        "txt_mod.1",
        "txt_mlp.net.0.proj",
        "txt_mlp.net.2",
    )
}
# all that patterns may consist of: others could take exponential time
_MOST_NUMBERS = 4  # of a pattern: each multiplies the time that a long name takes
_PATTERN = re.compile(r"(?:[\w-]|\\\.|\\d\+)*")


class Raw(NamedTuple):
    """The bytes of a matrix, all uint8."""

    encoded: Tensor  # whole pieces of the stream and 8 bytes more, zeros behind its end
    gaps: Tensor  # 5 bits for each chunk of these pieces
    signs: Tensor  # [N * K] sign and mantissa
    luts: Tensor  # [rows + 1, 256]


class DFloat11Storage(Storage):
    """A matrix whose elements are start .. start + N * K of a stream; positions: first elements of
    the stream's pieces that `raw` holds, and the end. `stream_bytes`: how many of `raw.encoded` are
    not padding; `where`: file and layer, for errors."""

    format = "DFloat11"
    encoded: Tensor
    gaps: Tensor
    signs: Tensor
    luts: Tensor

    def __init__(
        self,
        shape: tuple[int, int],
        start: int,
        positions: list[int],
        raw: Raw,
        stream_bytes: int,
        where: str = "",
    ) -> None:
        super().__init__(shape)
        self.start, self.positions, self.where = start, positions, where
        self.chunks = -(-stream_bytes // CHUNK_BYTES)
        for name, tensor in raw._asdict().items():
            self.register_buffer(name, tensor)

    def rows_into(self, start: int, out: Tensor) -> Tensor:
        columns = self.shape[1]
        at, end = start * columns, (start + len(out)) * columns
        flat = out.view(-1) if out.is_contiguous() else out.new_empty(out.numel())
        begin = at
        while begin < end:
            first = bisect_right(self.positions, self.start + begin) - 1
            last = min(first + AT_ONCE, len(self.positions) - 1)
            stop = min(end, self.positions[last] - self.start)
            exponent = self._decode(first, last)[self.start + begin - self.positions[first] :]
            target = flat[begin - at : stop - at]
            self._join(exponent[: stop - begin], self.signs[begin:stop], target)
            begin = stop
        return out if out.is_contiguous() else out.copy_(flat.view(out.shape))

    def rows(self, start: int, stop: int) -> DFloat11Storage:
        columns = self.shape[1]
        at, end = start * columns, stop * columns
        first = bisect_right(self.positions, self.start + at) - 1
        last = bisect_left(self.positions, self.start + end)
        raw = Raw(
            self.encoded[first * PIECE : last * PIECE + CHUNK_BYTES],
            self.gaps[first * GAP_BYTES : last * GAP_BYTES],
            self.signs[at:end],
            self.luts,
        )
        positions, behind = self.positions[first : last + 1], self.chunks * CHUNK_BYTES
        shape, begin = (stop - start, columns), self.start + at
        return DFloat11Storage(shape, begin, positions, raw, behind - first * PIECE, self.where)

    def _decode(self, first: int, last: int) -> Tensor:
        """Exponents of pieces first .. last - 1."""
        stream = self.encoded[first * PIECE : last * PIECE + CHUNK_BYTES]
        gaps = _gaps(self.gaps[first * GAP_BYTES : last * GAP_BYTES])
        tables = huffman.tables(self._luts_key, self.device)
        exponents, owned = huffman.decode(stream, gaps, tables)
        owned[max(0, self.chunks - first * THREADS) :] = 0  # codes of zeros behind the end
        counts = owned.view(last - first, THREADS).sum(1).tolist()
        for piece, count in enumerate(counts, first):
            expected = self.positions[piece + 1] - self.positions[piece]
            if count != expected and (piece + 2 < len(self.positions) or count < expected):
                raise InkstoneError(
                    f"{self.where}: piece {piece} of its stream has {count} numbers, expected "
                    f"{expected}. {DOWNLOAD_AGAIN}"
                )
        return exponents

    @cached_property
    def _luts_key(self) -> bytes:
        return bytes(self.luts.flatten().tolist())

    def _join(self, exponent: Tensor, signs: Tensor, out: Tensor) -> None:
        bits = exponent.to(torch.int16) << 7
        signs = signs.to(torch.int16)
        bits |= (signs & 0x80) << 8
        bits |= signs & 0x7F
        out.copy_(bits.view(torch.bfloat16))


def _gaps(packed: Tensor) -> Tensor:
    """Numbers of 5 bits, the highest bit first: eight in five bytes."""
    b = packed.view(-1, 5).to(torch.int64)
    word = b[:, 0] << 32 | b[:, 1] << 24 | b[:, 2] << 16 | b[:, 3] << 8 | b[:, 4]
    shifts = torch.arange(35, -1, -5, device=packed.device)
    return (word.unsqueeze(1) >> shifts & 31).flatten()


@dataclass(frozen=True)
class _Stream:
    """One stream of a file: its layer (a block or a single matrix) and where its pieces start."""

    parts: PackedParts
    layer: str
    positions: list[int]
    part_names: tuple[str, ...]

    def name(self, suffix: str) -> str:
        return self.layer + suffix

    @property
    def elements(self) -> int:
        return self.positions[-1]


def _open(parts: PackedParts, layer: str) -> _Stream:
    """Check the tensors of a stream against each other. Reads only where pieces start."""
    part_names = [parts.need(layer, suffix, dtypes={torch.uint8}) for suffix in STREAM]
    sizes = {suffix: parts.nbytes(layer + suffix) for suffix in STREAM}
    pieces = -(-sizes[".encoded_exponent"] // PIECE)
    for suffix, expected in ((".output_positions", 4 * pieces + 4), (".gaps", pieces * GAP_BYTES)):
        if not pieces or sizes[suffix] != expected:
            raise parts.fault(
                layer,
                f"tensor {layer}{suffix} has {sizes[suffix]} bytes, expected {expected} for "
                f"{sizes['.encoded_exponent']} bytes of stream: it is truncated or of another "
                "version",
            )
    raw = parts.read(layer + ".output_positions").flatten()
    positions = (raw.view(torch.int32).to(torch.int64) & 0xFFFFFFFF).tolist()
    if positions[0] != 0 or positions[-1] != sizes[".sign_mantissa"]:
        raise parts.fault(
            layer,
            f"its stream has {positions[0]} .. {positions[-1]} elements, expected 0 .. "
            f"{sizes['.sign_mantissa']}",
        )
    if any(not a < b <= a + PIECE * 8 for a, b in zip(positions, positions[1:])):
        raise parts.fault(
            layer, f"tensor {layer}.output_positions does not increase by 1 .. {PIECE * 8} a piece"
        )
    return _Stream(parts, layer, positions, tuple(part_names))


def _members(stream: _Stream, patterns: Mapping[str, Sequence[str]]) -> Sequence[str]:
    """Layers whose matrices are in a stream, in its order."""
    parts, layer = stream.parts, stream.layer
    theirs = parts.table[layer + STREAM[0]].removesuffix(STREAM[0])
    for pattern, names in patterns.items():
        if not _PATTERN.fullmatch(pattern) or pattern.count(r"\d+") > _MOST_NUMBERS:
            raise parts.fault(
                layer, f"the pattern {pattern[:60]!r} in config.json is not supported"
            )
        if re.fullmatch(pattern, theirs) or re.fullmatch(pattern, layer):
            return [f"{layer}.{name}" for name in names] or [layer]
    if layer + ".split_positions" in parts:
        raise _nobody_says(stream)
    return [layer]


def _nobody_says(stream: _Stream) -> InkstoneError:
    return stream.parts.fault(
        stream.layer,
        "several matrices share its stream and nothing says which",
        "Put the publisher's config.json into the same folder.",
    )


def _bounds(
    stream: _Stream, members: Sequence[str], patterns: Mapping[str, Sequence[str]]
) -> list[int]:
    """First elements of a stream's matrices, and the end."""
    parts, layer = stream.parts, stream.layer
    inner = []
    if len(members) > 1:
        name = parts.need(layer, ".split_positions", dtypes={torch.int64})
        inner = parts.read(name).flatten().tolist()
    bounds = [0, *inner, stream.elements]
    biased = any(f"{member}.bias" in parts for member in members)
    if patterns is ORDER and len(members) > 1 and not biased:
        raise _nobody_says(stream)  # it is of another network than those of this order
    if len(inner) + 1 != len(members) or any(a >= b for a, b in zip(bounds, bounds[1:])):
        raise parts.fault(
            layer,
            f"its split_positions {inner[:20]} do not cut {stream.elements} elements into "
            f"{len(members)} matrices",
        )
    return bounds


def _load(stream: _Stream, shape: tuple[int, int], start: int) -> DFloat11Storage:
    parts = stream.parts
    luts = parts.read(stream.name(".luts"))
    problem = huffman.fault(luts)
    if problem:
        raise parts.fault(stream.layer, f"its Huffman tables are damaged: {problem}")
    end = start + shape[0] * shape[1]
    first, last = _pieces(stream, start, end)
    raw = Raw(
        _padded(stream, ".encoded_exponent", first * PIECE, last * PIECE + CHUNK_BYTES),
        _padded(stream, ".gaps", first * GAP_BYTES, last * GAP_BYTES),
        parts.cut(stream.name(".sign_mantissa"), start, end),
        luts,
    )
    where = f"{parts.source.path}: layer {stream.layer}"
    stream_bytes = parts.nbytes(stream.name(".encoded_exponent")) - first * PIECE
    positions = stream.positions[first : last + 1]
    return DFloat11Storage(shape, start, positions, raw, stream_bytes, where)


def _padded(stream: _Stream, suffix: str, start: int, stop: int) -> Tensor:
    """Bytes of a part, zeros where they lie behind its end."""
    end = min(stop, stream.parts.nbytes(stream.name(suffix)))
    padded = torch.zeros(stop - start, dtype=torch.uint8)
    padded[: end - start] = stream.parts.cut(stream.name(suffix), start, end)
    return padded


def _pieces(stream: _Stream, start: int, end: int) -> tuple[int, int]:
    """The pieces of a stream that hold elements start .. end - 1."""
    return bisect_right(stream.positions, start) - 1, bisect_left(stream.positions, end)


def find_dfloat11(
    source: WeightSource, table: dict[str, str], config: Mapping[str, object] | None = None
) -> dict[str, PackedWeight]:
    """Every matrix in a DFloat11 stream; `config` is the config.json next to the file."""
    parts = PackedParts(source, table)
    layers = parts.layers(STREAM[0])
    patterns = _patterns(parts, (config or {}).get("dfloat11_config", {})) if layers else ORDER
    weights: dict[str, PackedWeight] = {}
    for layer in layers:
        stream = _open(parts, layer)
        members = _members(stream, patterns)
        bounds = _bounds(stream, members, patterns)
        part_names = stream.part_names + parts.present(layer, (".split_positions",))
        for member, start, end in zip(members, bounds, bounds[1:]):
            shape = matrix_shape(parts, member, end - start)
            first, last = _pieces(stream, start, end)
            size = (last - first) * (PIECE + GAP_BYTES) + CHUNK_BYTES + end - start
            size += parts.nbytes(layer + ".luts")
            weights[member + ".weight"] = PackedWeight(
                name=member + ".weight",
                shape=shape,
                format=DFloat11Storage.format,
                nbytes=size,
                parts=part_names,
                load=partial(_load, stream, shape, start),
            )
    return weights


def _patterns(parts: PackedParts, settings: object) -> Mapping[str, Sequence[str]]:
    """Pattern of a stream's layer -> the matrices in it, from dfloat11_config in config.json."""
    known = {"threads_per_block": [THREADS], "bytes_per_thread": CHUNK_BYTES}
    if not isinstance(settings, dict):
        raise _config_fault(parts, f"is {type(settings).__name__}, expected an object")
    got = {key: settings.get(key, value) for key, value in known.items()}
    if got != known:
        raise _config_fault(parts, f"has {got}, expected {known}")
    patterns = settings.get("pattern_dict", ORDER)
    if not isinstance(patterns, dict) or not all(
        isinstance(names, list | tuple) and all(isinstance(n, str) for n in names)
        for names in patterns.values()
    ):
        raise _config_fault(parts, "has another pattern_dict than an object of lists of names")
    return patterns


def _config_fault(parts: PackedParts, problem: str) -> InkstoneError:
    return parts.fault(
        "(all)",
        f"dfloat11_config in config.json {problem}",
        "Use the publisher's config.json, or the model in bf16.",
    )
