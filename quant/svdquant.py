"""SVDQuant as nunchaku stores it: 4-bit weights of an input divided by `smooth`, plus a branch of
low rank; W = W4 / smooth + U D. Modulation has 4 bits with minimums and no branch.

Unusual: everything lies in the order in which tensor cores load it. It is turned into rows at load
(tables of axes below; bytes move, no number changes). Queries, keys and values are one matrix in
the file: each of ours takes its third of the bytes. Two biases hold more than a bias, see there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
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

# (sizes of the axes in memory, 0 = as many as there are; their order by rows, then columns)
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

    def __init__(self, form: str, held: Mapping[str, Tensor]) -> None:
        codes = held["codes"]
        super().__init__((len(codes), codes.shape[1] * 2))
        self.format = form
        for name in ("codes", "scale", "rows_scale", "smooth", "up", "down"):
            self.register_buffer(name, held.get(name))

    def fill(self, rows: Rows, out: Tensor) -> None:
        self.fill_smoothed(rows, out)
        out.addmm_(self.up[rows].float(), self.down.float())

    def fill_smoothed(self, rows: Rows, out: Tensor) -> None:
        """The rows without the branch of low rank."""
        four = self.scale.dtype == torch.uint8
        look_up_pairs(known_pairs(E2M1 if four else INT4, False, out.device), self.codes[rows], out)
        scale = self.scale[rows]
        scale_groups(out, (scale.view(E4M3) if four else scale).float())
        if self.rows_scale is not None:
            out.mul_(self.rows_scale[rows] if self.rows_scale.dim() else self.rows_scale)
        out.div_(self.smooth.float())

    @property
    def _step(self) -> int:
        return 512  # rows: `down` is made float32 once for each piece


@dataclass(frozen=True)
class _Layer:
    """A matrix of the file, or the third of one: rows start .. start + rows of `layer`."""

    parts: PackedParts
    layer: str
    start: int
    rows: int

    def vector(self, suffix: str) -> Tensor:
        """A tiled vector over rows -> float32 [rows]."""
        found = self._cut(suffix, 1, self.rows).float()
        if not bool(found.isfinite().all()):
            raise self.parts.fault(self.layer, f"tensor {self.layer}{suffix} has NaN or infinity")
        return untile("vector", found, self.rows // _ROWS, (self.rows,))

    def _cut(self, suffix: str, width: int, *shape: int) -> Tensor:
        """Rows of a part with so many numbers a row, as they lie in memory."""
        name = self.layer + suffix
        kind = self.parts.dtype(name)
        size = width * kind.itemsize
        raw = self.parts.cut(name, self.start * size, (self.start + self.rows) * size)
        return raw.view(kind).view(shape)

    def load(self) -> SvdqStorage:
        parts, layer, rows = self.parts, self.layer, self.rows
        columns, rank = parts.shape(layer + ".proj_down")
        four = parts.dtype(layer + ".wscales") == E4M3
        group, kind = (16, "fp4") if four else (64, "int4")
        codes = self._cut(".qweight", columns // 2, rows * columns // 2).view(torch.uint8)
        scale = self._cut(".wscales", columns // group, rows * columns // group)
        parts.floats(layer, layer + ".wscales")
        smooth = parts.floats(layer, layer + ".smooth_factor")
        if not bool(smooth.all()):
            raise parts.fault(layer, f"tensor {layer}.smooth_factor has a zero")
        parts.floats(layer, layer + ".proj_down")
        parts.floats(layer, layer + ".proj_up")
        up = self._cut(".proj_up", rank, rows * rank)
        down = parts.read(layer + ".proj_down")
        smooth = parts.read(layer + ".smooth_factor")
        scale = untile(f"scale {kind}", scale, rows // _ROWS, (rows, columns // group))
        held = {
            "codes": untile("codes", codes, rows // _ROWS, (rows, columns // 2)),
            "scale": scale.contiguous().view(torch.uint8) if four else scale,
            "smooth": untile("vector", smooth, columns // _ROWS, (columns,)),
            "up": untile("up", up, rows // 16, (rows, rank)),
            "down": untile("down", down, columns // 16, (rank, columns)),
        }
        if layer + ".wcscales" in parts:
            held["rows_scale"] = self.vector(".wcscales").reshape(-1, 1)
        elif layer + ".wtscale" in parts:
            held["rows_scale"] = parts.floats(layer, layer + ".wtscale").reshape(())
        return SvdqStorage(f"SVDQuant {kind}", held)

    def bias(self) -> Tensor:
        """The plain bias [rows]: of layers behind a shifted GELU, what the shift adds is in it."""
        bias = self.vector(".bias")
        int4 = self.parts.dtype(self.layer + ".wscales") != E4M3
        if int4 and self.layer.endswith(SHIFTED):
            storage = self.load()
            work = torch.empty(storage.shape)
            storage.fill_smoothed(slice(0, self.rows), work)
            bias += SHIFT * work.sum(1)
        return bias


def _branch_found(parts: PackedParts, layer: str) -> dict[str, PackedWeight]:
    """A matrix with a branch of low rank, under one of our names or three."""
    weight = parts.matrix(layer, {torch.int8, torch.uint8}, MARK)
    rows, columns = parts.shape(weight)[0], parts.shape(weight)[1] * 2
    down = parts.matrix(layer, _HALVES, ".proj_down")
    rank = parts.shape(down)[1]
    scale = parts.need(layer, ".wscales", dtypes=_HALVES | {E4M3})
    four = parts.dtype(scale) == E4M3
    fused = next((ours for end, ours in FUSED.items() if layer.endswith(end)), None)
    heights = _ROWS * len(fused or (1,))
    if rows % heights or columns % _ROWS or rank % 16:
        raise parts.fault(
            layer,
            f"{rows} rows, {columns} columns and rank {rank} are no multiples "
            f"of {heights}, {_ROWS} and 16",
        )
    parts.need(layer, ".wscales", (columns // (16 if four else 64), rows), _HALVES | {E4M3})
    parts.need(layer, ".proj_down", (columns, rank), _HALVES)
    used = [
        weight,
        scale,
        down,
        parts.need(layer, ".proj_up", (rows, rank), _HALVES),
        parts.need(layer, ".smooth_factor", (columns,), _HALVES),
    ]
    optional = ((".bias", (rows,)), (".wcscales", (rows,)), (".wtscale", ()))
    used += [parts.need(layer, s, shape) for s, shape in optional if layer + s in parts]
    used += parts.present(layer, (".smooth_factor_orig",))
    names = [layer]
    if fused:
        end = next(end for end in FUSED if layer.endswith(end))
        names = [layer.removesuffix(end) + ours for ours in fused]
    third = rows // len(names)
    size = parts.nbytes(down, layer + ".smooth_factor")
    size += parts.nbytes(weight, scale, layer + ".proj_up") // len(names)
    size += 4 * third if layer + ".wcscales" in parts else 4 * (layer + ".wtscale" in parts)
    found = {}
    for at, name in enumerate(names):
        one = _Layer(parts, layer, at * third, third)
        found[name + ".weight"] = PackedWeight(
            name + ".weight",
            (third, columns),
            "SVDQuant " + ("fp4" if four else "int4"),
            size,
            tuple(used),
            one.load,
            one.bias if layer + ".bias" in parts else None,
        )
    return found


def _by_part(rows: Tensor) -> Tensor:
    """Rows 6 * channel + part -> rows part * channels + channel."""
    return rows.unflatten(0, (-1, PARTS_OF_MODULATION)).transpose(0, 1).flatten(0, 1)


def _modulation_found(parts: PackedParts, layer: str) -> PackedWeight:
    """Modulation: codes, scales and minimums for 64 columns, rows interleaved."""
    weight = parts.matrix(layer, {torch.int32}, MARK)
    rows, columns = parts.shape(weight)[0] * 4, parts.shape(weight)[1] * 2
    if columns % 64 or rows % PARTS_OF_MODULATION:
        raise parts.fault(
            layer,
            f"{rows} rows and {columns} columns are no multiples of {PARTS_OF_MODULATION} and 64",
        )
    grid = (columns // 64, rows)
    scale, zero = (parts.need(layer, s, grid, _HALVES) for s in (".wscales", ".wzeros"))

    def load() -> GroupScaledStorage:
        for name in (scale, zero):
            parts.floats(layer, name)
        both = [_by_part(parts.read(name).reshape(grid).t()) for name in (scale, zero)]
        return GroupScaledStorage(
            "AWQ int4", _by_part(_words_to_rows(parts.read(weight), rows, columns)), *both, middle=0
        )

    def bias() -> Tensor:
        plain = _by_part(parts.floats(layer, layer + ".bias")).view(PARTS_OF_MODULATION, -1)
        plain[list(_ONE_MORE)] -= 1
        return plain.flatten()

    used = (weight, scale, zero)
    size = parts.nbytes(*used)
    has_bias: Callable[[], Tensor] | None = None
    if layer + ".bias" in parts:
        used, has_bias = (*used, parts.need(layer, ".bias", (rows,), FLOATS)), bias
    return PackedWeight(layer + ".weight", (rows, columns), "AWQ int4", size, used, load, has_bias)


def _words_to_rows(words: Tensor, rows: int, columns: int) -> Tensor:
    """int32 [N/4, K/2] -> bytes [N, K/2] of two codes each, low first.

    A 16-bit word j of 32 columns holds the codes of columns j, 8 + j, 16 + j and 24 + j.
    """
    words = words.contiguous().view(torch.uint8).view(rows // 4, columns // 64, 4, 2, 8, 2)
    codes = torch.stack([words & 15, words >> 4], -1)  # [.., j, byte, nibble]: part 2 byte + nibble
    codes = codes.permute(0, 2, 1, 3, 5, 6, 4).reshape(rows, columns)
    return codes[:, 0::2] | codes[:, 1::2] << 4


def find_svdquant(source: WeightSource, table: dict[str, str]) -> dict[str, PackedWeight]:
    """Every matrix of a nunchaku file that has 4 bits."""
    parts = PackedParts(source, table)
    found: dict[str, PackedWeight] = {}
    for layer in parts.layers(MARK):
        if layer + ".wzeros" in parts and layer.endswith(MODULATION):
            found[layer + ".weight"] = _modulation_found(parts, layer)
        else:
            found |= _branch_found(parts, layer)
    return found
