"""SVDQuant as nunchaku stores it: 4-bit weights of an input divided by `smooth`, plus a branch of
low rank; W = W4 / smooth + U D. Modulation has 4 bits with minimums and no branch.

Unusual: everything is stored in the order in which tensor cores load it. It is permuted to rows at
load (tables of axes below; bytes move, no number changes). Queries, keys and values are one matrix
in the file: each of ours takes its third of the bytes. Two biases hold more than a bias (`SHIFT`
and `_ONE_MORE`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from .chunked_storage import (
    E2M1,
    INT4,
    ChunkedStorage,
    Rows,
    known_pairs,
    look_up_pairs,
    scale_groups,
)
from .fp8 import E4M3
from .int_quant import GroupScaledStorage
from .packed_layer import FLOATS, PackedParts
from .storage import PackedWeight, WeightSource

_HALVES = frozenset({torch.bfloat16, torch.float16})
_ROWS = 128  # of a tile, outermost in memory: thirds of a fused matrix are runs of bytes
SHIFT = 0.171875  # added to the GELU before int4 files round it without a sign
MARK = ".qweight"

# Fused matrix -> ours, from the top.
FUSED = {
    "attn.to_qkv": ("attn.to_q", "attn.to_k", "attn.to_v"),
    "attn.add_qkv_proj": ("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj"),
}
SHIFTED = ("_mlp.net.2",)  # layers behind a GELU
MODULATION = ("img_mod.1", "txt_mod.1")
PARTS_OF_MODULATION = 6  # shift, scale, gate, twice: interleaved in the file, one by one in ours
_ONE_MORE = (1, 4)  # the scales among them have 1 added to their bias

# (sizes of the axes in memory, 0 = given by the caller; their order by rows, then columns)
_TILES: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = {
    "codes": ((0, -1, 8, 8, 4, 2, 2, 4), (0, 2, 5, 3, 1, 6, 4, 7)),  # a e b d g c f byte
    "scale int4": ((0, -1, 8, 4, 2, 2), (0, 2, 4, 3, 5, 1)),  # a group b d c e
    "scale fp4": ((0, -1, 8, 4, 4, 4), (0, 4, 3, 2, 1, 5)),  # a group/4 d c b group%4
    "vector": ((0, 8, 4, 2, 2), (0, 1, 3, 2, 4)),  # a b d c e
    "down": ((0, -1, 8, 4, 2, 2, 2), (1, 4, 2, 0, 5, 3, 6)),  # q p d g c f e -> p c d q f g e
    "up": ((0, -1, 8, 4, 2, 2, 2), (0, 4, 2, 1, 5, 3, 6)),  # q p d g c f e -> q c d p f g e
}


def untile(kind: str, tiles: Tensor, outer: int, shape: tuple[int, ...]) -> Tensor:
    """A tensor in memory order -> `shape`, rows first. outer: size of the first axis in memory."""
    sizes, order = _TILES[kind]
    return tiles.view(outer, *sizes[1:]).permute(order).reshape(shape)


class SvdqStorage(ChunkedStorage):
    """codes uint8 [N, K/2], low first; scale [N, K/64] in 16 bits, or e4m3 as uint8 [N, K/16];
    rows_scale float32 () or [N, 1], or None; smooth [K]; up [N, R], down [R, K] in 16 bits."""

    codes: Tensor
    scale: Tensor
    rows_scale: Tensor | None
    smooth: Tensor
    up: Tensor
    down: Tensor

    def __init__(self, format_name: str, tensors: Mapping[str, Tensor]) -> None:
        codes = tensors["codes"]
        super().__init__((len(codes), codes.shape[1] * 2))
        self.format = format_name
        for name in ("codes", "scale", "rows_scale", "smooth", "up", "down"):
            self.register_buffer(name, tensors.get(name))

    def fill(self, rows: Rows, out: Tensor) -> None:
        self.fill_smoothed(rows, out)
        out.addmm_(self.up[rows].float(), self.down.float())

    def rows(self, start: int, stop: int) -> SvdqStorage:
        tensors = dict(self.named_buffers())
        for name in ("codes", "scale", "rows_scale", "up"):
            if name in tensors and tensors[name].dim():
                tensors[name] = tensors[name][start:stop]
        return SvdqStorage(self.format, tensors)

    def fill_smoothed(self, rows: Rows, out: Tensor) -> None:
        """The rows without the branch of low rank."""
        fp4 = self.scale.dtype == torch.uint8
        look_up_pairs(known_pairs(E2M1 if fp4 else INT4, False, out.device), self.codes[rows], out)
        scale = self.scale[rows]
        scale_groups(out, (scale.view(E4M3) if fp4 else scale).float())
        if self.rows_scale is not None:
            out.mul_(self.rows_scale[rows] if self.rows_scale.dim() else self.rows_scale)
        out.div_(self.smooth.float())

    @property
    def _step(self) -> int:
        return 512  # rows: `down` is made float32 once for each chunk


@dataclass(frozen=True)
class _Layer:
    """A matrix of the file, or the third of one: rows start .. start + rows of `layer`."""

    parts: PackedParts
    layer: str
    start: int
    rows: int

    def vector(self, suffix: str) -> Tensor:
        """A tiled vector over rows -> float32 [rows]."""
        tiles = self._cut(suffix, 1, self.rows).float()
        if not bool(tiles.isfinite().all()):
            raise self.parts.fault(self.layer, f"tensor {self.layer}{suffix} has NaN or infinity")
        return untile("vector", tiles, self.rows // _ROWS, (self.rows,))

    def _cut(self, suffix: str, width: int, *shape: int) -> Tensor:
        """Our rows of a part with `width` numbers a row, as they lie in memory."""
        name = self.layer + suffix
        kind = self.parts.dtype(name)
        size = width * kind.itemsize
        raw = self.parts.cut(name, self.start * size, (self.start + self.rows) * size)
        return raw.view(kind).view(shape)

    def _check(self) -> None:
        """Raise where a scale or a branch has numbers that are not finite, or a divisor is 0."""
        parts, layer = self.parts, self.layer
        parts.floats(layer, layer + ".wscales")
        if not bool(parts.floats(layer, layer + ".smooth_factor").all()):
            raise parts.fault(layer, f"tensor {layer}.smooth_factor has a zero")
        parts.floats(layer, layer + ".proj_down")
        parts.floats(layer, layer + ".proj_up")

    def load(self) -> SvdqStorage:
        parts, layer, rows = self.parts, self.layer, self.rows
        self._check()
        columns, rank = parts.shape(layer + ".proj_down")
        fp4 = parts.dtype(layer + ".wscales") == E4M3
        group, kind = (16, "fp4") if fp4 else (64, "int4")
        codes = self._cut(".qweight", columns // 2, rows * columns // 2).view(torch.uint8)
        scale = self._cut(".wscales", columns // group, rows * columns // group)
        up = self._cut(".proj_up", rank, rows * rank)
        down = parts.read(layer + ".proj_down")
        smooth = parts.read(layer + ".smooth_factor")
        scale = untile(f"scale {kind}", scale, rows // _ROWS, (rows, columns // group))
        tensors = {
            "codes": untile("codes", codes, rows // _ROWS, (rows, columns // 2)),
            "scale": scale.contiguous().view(torch.uint8) if fp4 else scale,
            "smooth": untile("vector", smooth, columns // _ROWS, (columns,)),
            "up": untile("up", up, rows // 16, (rows, rank)),
            "down": untile("down", down, columns // 16, (rank, columns)),
        }
        if layer + ".wcscales" in parts:
            tensors["rows_scale"] = self.vector(".wcscales").reshape(-1, 1)
        elif layer + ".wtscale" in parts:
            tensors["rows_scale"] = parts.floats(layer, layer + ".wtscale").reshape(())
        return SvdqStorage(f"SVDQuant {kind}", tensors)

    def bias(self) -> Tensor:
        """The plain bias [rows]: behind a shifted GELU it includes what the shift adds."""
        bias = self.vector(".bias")
        int4 = self.parts.dtype(self.layer + ".wscales") != E4M3
        if int4 and self.layer.endswith(SHIFTED):
            storage = self.load()
            work = torch.empty(storage.shape)
            storage.fill_smoothed(slice(0, self.rows), work)
            bias += SHIFT * work.sum(1)
        return bias


def _our_names(layer: str) -> list[str]:
    """Our layers that a matrix of the file holds, from the top: one, or three."""
    for end, names in FUSED.items():
        if layer.endswith(end):
            return [layer.removesuffix(end) + name for name in names]
    return [layer]


def _branch_parts(parts: PackedParts, layer: str, count: int) -> tuple[str, ...]:
    """The checked tensors of a matrix with a branch of low rank that holds `count` of ours."""
    weight = parts.matrix(layer, {torch.int8, torch.uint8}, MARK)
    rows, columns = parts.shape(weight)[0], parts.shape(weight)[1] * 2
    down = parts.matrix(layer, _HALVES, ".proj_down")
    rank = parts.shape(down)[1]
    scale = parts.need(layer, ".wscales", dtypes=_HALVES | {E4M3})
    group = 16 if parts.dtype(scale) == E4M3 else 64
    if rows % (_ROWS * count) or columns % _ROWS or rank % 16:
        raise parts.fault(
            layer,
            f"it has {rows} rows, {columns} columns and rank {rank}, expected multiples of "
            f"{_ROWS * count}, {_ROWS} and 16",
        )
    parts.need(layer, ".wscales", (columns // group, rows), _HALVES | {E4M3})
    parts.need(layer, ".proj_down", (columns, rank), _HALVES)
    part_names = [
        weight,
        scale,
        down,
        parts.need(layer, ".proj_up", (rows, rank), _HALVES),
        parts.need(layer, ".smooth_factor", (columns,), _HALVES),
    ]
    optional: tuple[tuple[str, tuple[int, ...]], ...]
    optional = ((".bias", (rows,)), (".wcscales", (rows,)), (".wtscale", ()))
    part_names += [parts.need(layer, s, shape) for s, shape in optional if layer + s in parts]
    return (*part_names, *parts.present(layer, (".smooth_factor_orig",)))


def _branch_weights(parts: PackedParts, layer: str) -> dict[str, PackedWeight]:
    """A matrix with a branch of low rank, under one of our names or three."""
    names = _our_names(layer)
    part_names = _branch_parts(parts, layer, len(names))
    weight, scale, down = part_names[:3]
    columns, third = parts.shape(weight)[1] * 2, parts.shape(weight)[0] // len(names)
    size = parts.nbytes(down, layer + ".smooth_factor")
    size += parts.nbytes(weight, scale, layer + ".proj_up") // len(names)
    size += 4 * third if layer + ".wcscales" in parts else 4 * (layer + ".wtscale" in parts)
    weights = {}
    for at, name in enumerate(names):
        rows = _Layer(parts, layer, at * third, third)
        weights[name + ".weight"] = PackedWeight(
            name=name + ".weight",
            shape=(third, columns),
            format="SVDQuant " + ("fp4" if parts.dtype(scale) == E4M3 else "int4"),
            nbytes=size,
            parts=part_names,
            load=rows.load,
            bias=rows.bias if layer + ".bias" in parts else None,
        )
    return weights


def _by_part(rows: Tensor) -> Tensor:
    """Rows 6 * channel + part -> rows part * channels + channel."""
    return rows.unflatten(0, (-1, PARTS_OF_MODULATION)).transpose(0, 1).flatten(0, 1)


def _modulation_weight(parts: PackedParts, layer: str) -> PackedWeight:
    """Modulation: codes, scales and minimums for 64 columns, rows interleaved."""
    weight = parts.matrix(layer, {torch.int32}, MARK)
    rows, columns = parts.shape(weight)[0] * 4, parts.shape(weight)[1] * 2
    if columns % 64 or rows % PARTS_OF_MODULATION:
        raise parts.fault(
            layer,
            f"it has {rows} rows and {columns} columns, expected multiples of "
            f"{PARTS_OF_MODULATION} and 64",
        )
    grid = (columns // 64, rows)
    scale, zero = (parts.need(layer, s, grid, _HALVES) for s in (".wscales", ".wzeros"))

    def load() -> GroupScaledStorage:
        for name in (scale, zero):
            parts.floats(layer, name)
        codes = _by_part(_words_to_rows(parts.read(weight), rows, columns))
        scales, zeros = (_by_part(parts.read(n).reshape(grid).t()) for n in (scale, zero))
        return GroupScaledStorage("AWQ int4", codes, scales, zeros, middle=0)

    def bias() -> Tensor:
        plain = _by_part(parts.floats(layer, layer + ".bias")).view(PARTS_OF_MODULATION, -1)
        plain[list(_ONE_MORE)] -= 1
        return plain.flatten()

    biased = layer + ".bias" in parts
    part_names = [weight, scale, zero]
    if biased:
        part_names.append(parts.need(layer, ".bias", (rows,), FLOATS))
    return PackedWeight(
        name=layer + ".weight",
        shape=(rows, columns),
        format="AWQ int4",
        nbytes=parts.nbytes(weight, scale, zero),
        parts=tuple(part_names),
        load=load,
        bias=bias if biased else None,
    )


def _words_to_rows(words: Tensor, rows: int, columns: int) -> Tensor:
    """int32 [N/4, K/2] -> bytes [N, K/2] of two codes each, low first.

    A 16-bit word j of 32 columns holds the codes of columns j, 8 + j, 16 + j and 24 + j.
    """
    words = words.contiguous().view(torch.uint8).view(rows // 4, columns // 64, 4, 2, 8, 2)
    codes = torch.stack([words & 15, words >> 4], -1)  # [.., j, byte, nibble]: part 2 byte + nibble
    codes = codes.permute(0, 2, 1, 3, 5, 6, 4).reshape(rows, columns)
    return codes[:, 0::2] | codes[:, 1::2] << 4


def find_svdquant(source: WeightSource, table: dict[str, str]) -> dict[str, PackedWeight]:
    """Every 4-bit matrix of a nunchaku file."""
    parts = PackedParts(source, table)
    weights: dict[str, PackedWeight] = {}
    for layer in parts.layers(MARK):
        if layer + ".wzeros" in parts and layer.endswith(MODULATION):
            weights[layer + ".weight"] = _modulation_weight(parts, layer)
        else:
            weights |= _branch_weights(parts, layer)
    return weights
