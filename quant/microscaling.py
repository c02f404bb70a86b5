"""Microscaled floats: mxfp8 (e4m3, a power of two per 32 weights) and nvfp4 (e2m1, an e4m3 scale
per 16 and a float for all).

Unusual: scales stay in the tiled order that tensor cores read (128 rows by 4 scales), so a GPU
kernel takes them as they are; rows are picked out of the tiles when a CPU needs them. Files of
ModelOpt have plain order and the other nibble first: they are converted to this layout at load.
"""

from __future__ import annotations

from functools import cache, partial

import torch
from torch import Tensor

from .chunked_storage import E2M1, ChunkedStorage, Rows, known_pairs, look_up_pairs, scale_groups
from .fp8 import E4M3, IGNORED, check_codes
from .packed_layer import BYTES, PackedParts
from .storage import PackedWeight, WeightSource

E8M0 = getattr(torch, "float8_e8m0fnu", torch.uint8)  # torch < 2.7 has no such type
_SCALE_TYPES = frozenset({E4M3, E8M0, torch.uint8})
_NAN = {"mxfp8": (0xFF, 0xFF), "nvfp4": (0x7F, 0x7F)}  # mask and value of a scale that is NaN


@cache
def _e4m3(device: torch.device) -> Tensor:
    """The 256 numbers of e4m3."""
    with torch.inference_mode(False):
        return torch.arange(256, dtype=torch.uint8, device=device).view(E4M3).float()


@cache
def _e8m0(device: torch.device) -> Tensor:
    """The 256 powers of two of e8m0."""
    with torch.inference_mode(False):
        return torch.tensor([2.0 ** (e - 127) for e in range(256)], device=device)


def tiled(scale: Tensor) -> Tensor:
    """Scales [R, C] in plain order -> tiles, padded with zeros to [128 a, 4 b]."""
    rows, columns = scale.shape
    a, b = -(-rows // 128), -(-columns // 4)
    full = scale.new_zeros(a * 128, b * 4)
    full[:rows, :columns] = scale
    return full.view(a, 4, 32, b, 4).permute(0, 3, 2, 1, 4).reshape(a * 128, b * 4)


class BlockFloatStorage(ChunkedStorage):
    """codes uint8 [N, K] (mxfp8) or [N, K/2] (nvfp4, high nibble first); scale uint8, tiled;
    whole float32 () of nvfp4; columns float32 [K] that the input is multiplied by, or None."""

    codes: Tensor
    scale: Tensor
    whole: Tensor | None
    columns: Tensor | None

    def __init__(
        self,
        format_name: str,
        codes: Tensor,
        scale: Tensor,
        rows: int,
        whole: Tensor | None = None,
        columns: Tensor | None = None,
    ) -> None:
        nvfp4 = format_name == "nvfp4"
        super().__init__((rows, codes.shape[1] * (2 if nvfp4 else 1)))
        self.format, self.group = format_name, 16 if nvfp4 else 32
        self.register_buffer("codes", codes.view(torch.uint8))
        self.register_buffer("scale", scale.view(torch.uint8))
        self.register_buffer("whole", whole)
        self.register_buffer("columns", columns)

    def fill(self, rows: Rows, out: Tensor) -> None:
        if self.format == "nvfp4":
            look_up_pairs(known_pairs(E2M1, True, out.device), self.codes[rows], out)
        else:
            codes = self.codes[rows].reshape(-1).int()  # looked up: faster than a conversion
            torch.index_select(_e4m3(out.device), 0, codes, out=out.view(-1))
        scale_groups(out, self._scale_of(rows))
        if self.columns is not None:
            out.mul_(self.columns)

    def rows(self, start: int, stop: int) -> BlockFloatStorage:
        if start % 128 == 0:  # whole tiles
            scale = self.scale[start : -(-stop // 128) * 128]
        else:
            scale = tiled(self._codes_of(slice(start, stop)))
        codes, n = self.codes[start:stop], stop - start
        return BlockFloatStorage(self.format, codes, scale, n, self.whole, self.columns)

    def _codes_of(self, rows: Rows) -> Tensor:
        """Scales of these rows [n, K / group] as bytes."""
        if isinstance(rows, slice):
            rows = torch.arange(rows.start, rows.stop, device=self.scale.device)
        tiles = self.scale.view(len(self.scale) // 128, -1, 32, 4, 4)
        codes = tiles[rows // 128, :, rows % 32, rows % 128 // 32]  # [n, b, 4]
        return codes.reshape(len(rows), -1)[:, : self.shape[1] // self.group]

    def _scale_of(self, rows: Rows) -> Tensor:
        """Scales of these rows [n, K / group] as float32."""
        codes = self._codes_of(rows)
        numbers = _e4m3 if self.format == "nvfp4" else _e8m0
        scale = numbers(codes.device)[codes.int()]
        return scale if self.whole is None else scale * self.whole


def _load(
    parts: PackedParts, layer: str, format_name: str, rows: int, plain_order: bool
) -> BlockFloatStorage:
    codes = parts.read(layer + ".weight").view(torch.uint8)
    scale = parts.read(layer + ".weight_scale").view(torch.uint8)
    mask, value = _NAN[format_name]
    bad = (scale & mask) == value
    if bool(bad.any()):
        at = bad.nonzero()[0].tolist()
        raise parts.fault(layer, f"tensor {layer}.weight_scale is NaN at {at}")
    if format_name == "mxfp8":
        check_codes(parts, layer, layer + ".weight", codes, E4M3)
    if plain_order:
        codes, scale = codes << 4 | codes >> 4, tiled(scale)
    extra = {
        key: parts.floats(layer, layer + suffix)
        for key, suffix in (("whole", ".weight_scale_2"), ("columns", ".pre_quant_scale"))
        if layer + suffix in parts
    }
    if "whole" in extra:
        extra["whole"] = extra["whole"].reshape(())
    return BlockFloatStorage(format_name, codes, scale, rows, **extra)


def _true_rows(parts: PackedParts, layer: str, stored: int, step: int) -> int:
    """Rows without the padding to a multiple of `step`, known from the bias."""
    if layer + ".bias" not in parts:
        return stored
    rows = parts.rows_of_bias(layer)
    if -(-rows // step) * step != stored and rows != stored:
        raise parts.fault(layer, f"its weight has {stored} rows, its bias {rows}")
    return rows


def block_float_weight(
    parts: PackedParts,
    layer: str,
    format_name: str,
    extra: tuple[str, ...] = (),
    plain_order: bool = False,
) -> PackedWeight:
    """A layer in mxfp8 or nvfp4; `extra` are the other tensors that belong to it."""
    nv = format_name == "nvfp4"
    weight = parts.matrix(layer, BYTES if nv else BYTES | {E4M3})
    stored, width = parts.matrix_shape(weight)
    columns, group, step = (2 * width, 16, 16) if nv else (width, 32, 32)
    if columns % group:
        raise parts.fault(
            layer, f"it has {columns} columns, {format_name} needs a multiple of {group}"
        )
    grid = (stored, columns // group)
    padded = (-(-grid[0] // 128) * 128, -(-grid[1] // 4) * 4)
    scale = parts.need(layer, ".weight_scale", grid if plain_order else padded, dtypes=_SCALE_TYPES)
    part_names = [weight, scale]
    if nv:
        part_names.append(parts.need(layer, ".weight_scale_2", ()))
    size = parts.nbytes(weight) + padded[0] * padded[1] + 4 * nv
    if layer + ".pre_quant_scale" in parts:
        part_names.append(parts.need(layer, ".pre_quant_scale", (columns,)))
        size += 4 * columns
    rows = _true_rows(parts, layer, stored, step)
    return PackedWeight(
        name=weight,
        shape=(rows, columns),
        format=format_name,
        nbytes=size,
        parts=(*part_names, *parts.present(layer, IGNORED), *extra),
        load=partial(_load, parts, layer, format_name, rows, plain_order),
    )


def find_modelopt(source: WeightSource, table: dict[str, str]) -> dict[str, PackedWeight]:
    """nvfp4 as ModelOpt writes it: two scales and no other mark, low nibble first, plain order."""
    parts = PackedParts(source, table)
    return {
        layer + ".weight": block_float_weight(parts, layer, "nvfp4", plain_order=True)
        for layer in parts.layers(".weight_scale_2")
    }
