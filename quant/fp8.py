"""Weights in 8-bit floats: plain, with one scale for the matrix, or with one per row.

Unusual: on a CPU without the compiled library (native/) a code is looked up in a table of 256
numbers that already contains the scale, 5 times as fast as torch's conversion. Codes are held as
bytes, so that casting a network to another type leaves them alone. `scale_input` is for activations
and not needed to read weights.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor

from .native.unpack import available, unpack_fp8, usable
from .packed_layer import BYTES, FLOATS, PackedParts, in_full_precision
from .storage import ON_DEVICE, PackedWeight, Storage, WeightSource, matrix_shape

E4M3, E5M2 = torch.float8_e4m3fn, torch.float8_e5m2
FP8 = frozenset({E4M3, E5M2})
E4M3_MAX = 448.0
NAMES = {E4M3: "e4m3", E5M2: "e5m2"}
MARKER = "scaled_fp8"  # its own type is that of the codes; F32 means e4m3
SCALES = (".scale_weight", ".weight_scale")  # old and new name of the same thing
IGNORED = (".scale_input", ".input_scale")  # for activations, which we do not round
_AT_ONCE = 1 << 18  # weights whose codes are widened to indices at once
_FIRST_BAD = {E4M3: 0x7F, E5M2: 0x7C}  # the lowest code, without its sign, that is not finite


class Fp8Storage(Storage):
    """codes [N, K] of 8 bits; scale float32: () or [N, 1], or None for plain ones."""

    codes: Tensor
    scale: Tensor | None

    def __init__(self, codes: Tensor, kind: torch.dtype, scale: Tensor | None = None) -> None:
        super().__init__(matrix_shape(codes))
        self.kind = kind
        rows = scale is not None and scale.numel() > 1
        self.format = f"fp8 {NAMES[kind]} " + (
            "plain" if scale is None else "scaled by rows" if rows else "scaled"
        )
        self.register_buffer("codes", codes.view(torch.uint8))
        if scale is not None:
            scale = scale.float().reshape(-1, 1) if rows else scale.float().reshape(())
        self.register_buffer("scale", scale)
        self._table: Tensor | None = None

    def compiled(self, dtype: torch.dtype) -> bool:
        return available(dtype, self.codes.numel())

    def rows_into(self, start: int, out: Tensor) -> Tensor:
        at_once = _AT_ONCE if self.device.type == "cpu" else ON_DEVICE
        step = len(out) if usable(self.codes, out) else max(1, at_once // self.shape[1])
        for at in range(0, len(out), step):
            part = out[at : at + step]
            rows = slice(start + at, start + at + len(part))
            self._scaled(self.codes[rows], self._scale_of(rows), part)
        return out

    def gather(self, index: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        out = torch.empty(len(index), self.shape[1], dtype=dtype, device=self.device)
        return self._scaled(self.codes[index], self._scale_of(index), out)

    def rows(self, start: int, stop: int) -> Fp8Storage:
        part = slice(start, stop)
        scale = self.scale[part] if self.scale is not None and self.scale.dim() else self.scale
        return Fp8Storage(self.codes[part], self.kind, scale)

    def _scale_of(self, rows: slice | Tensor) -> Tensor | None:
        return self.scale[rows].float() if self.scale is not None and self.scale.dim() else None

    def _scaled(self, codes: Tensor, by_row: Tensor | None, out: Tensor) -> Tensor:
        """codes [n, K] as floats, times by_row [n, 1] or the one scale, into out [n, K]."""
        if usable(codes, out):
            mantissa = 3 if self.kind == E4M3 else 2
            return unpack_fp8(codes, self.scale if by_row is None else by_row, mantissa, out)
        if codes.device.type != "cpu":
            floats = codes.view(self.kind).float()
            factor = self.scale if by_row is None else by_row
            return out.copy_(floats if factor is None else floats * factor)
        table = self._number_table(out.dtype if by_row is None else torch.float32)
        numbers = table.index_select(0, codes.reshape(-1).int()).view(codes.shape)
        return out.copy_(numbers if by_row is None else numbers.mul_(by_row))

    def _number_table(self, dtype: torch.dtype) -> Tensor:
        """The 256 numbers, times the scale if there is one for all, rounded to dtype."""
        if self._table is None or self._table.dtype != dtype or self._table.device != self.device:
            codes = torch.arange(256, dtype=torch.uint8, device=self.device).view(self.kind).float()
            if self.scale is not None and not self.scale.dim():
                codes = codes * self.scale.float()
            self._table = codes.to(dtype)
        return self._table


def check_codes(
    parts: PackedParts, layer: str, name: str, codes: Tensor, kind: torch.dtype
) -> None:
    """Raise where a code is NaN or infinite."""
    flat = codes.view(torch.uint8).reshape(-1)
    for at in range(0, len(flat), 1 << 20):
        magnitudes = flat[at : at + (1 << 20)] & 0x7F
        if int(magnitudes.max()) >= _FIRST_BAD[kind]:
            bad = magnitudes >= _FIRST_BAD[kind]
            first = at + int(bad.nonzero()[0])
            row, column = divmod(first, codes.shape[-1])
            value = "all NaN" if bool(bad.all()) else "NaN or infinite"
            raise parts.fault(
                layer, f"tensor {name} ({NAMES[kind]}) is {value} from row {row}, column {column}"
            )


def load_fp8(parts: PackedParts, layer: str, kind: torch.dtype, scale: str | None) -> Fp8Storage:
    """Read a layer whose names are already checked."""
    name = layer + ".weight"
    factor = parts.floats(layer, scale) if scale else None
    codes = parts.read(name)
    check_codes(parts, layer, name, codes, kind)
    return Fp8Storage(codes, kind, factor)


def fp8_weight(
    parts: PackedParts,
    layer: str,
    kind: torch.dtype,
    scale: str | None,
    extra: tuple[str, ...] = (),
) -> PackedWeight:
    """A layer in fp8; `scale` is a suffix, `extra` the other tensors that belong to it."""
    weight = parts.matrix(layer, FP8 | BYTES)
    shape = parts.matrix_shape(weight)
    format_name, part_names = f"fp8 {NAMES[kind]} plain", [weight]
    if scale:
        factor = parts.need(layer, scale)
        rows = parts.shape(factor) not in ((), (1,), (1, 1))
        parts.need(layer, scale, (shape[0],) if rows else ())
        format_name = f"fp8 {NAMES[kind]} scaled" + (" by rows" if rows else "")
        part_names.append(factor)
    part_names += parts.present(layer, IGNORED)
    scales = shape[0] if format_name.endswith("rows") else 1 if scale else 0
    return PackedWeight(
        name=weight,
        shape=shape,
        format=format_name,
        nbytes=parts.nbytes(weight) + 4 * scales,
        parts=(*part_names, *extra),
        load=partial(load_fp8, parts, layer, kind, layer + scale if scale else None),
    )


def _marked_kind(parts: PackedParts) -> tuple[torch.dtype | None, bool]:
    """The type of the codes by the marker of a scaled file, and whether it asks for products in
    full precision (by having two elements)."""
    entries, sample = parts.source.entries, next(iter(parts.table.values()), "")
    markers = (n for n in entries if n.rpartition(".")[2] == MARKER)
    # in a bundle the marker of another part does not apply to this one
    marker = next((n for n in markers if sample.startswith(n.removesuffix(MARKER))), None)
    if marker is None:
        return None, False
    kind = entries[marker].dtype
    return kind if kind in FP8 else E4M3, math.prod(entries[marker].shape) == 2


def _candidates(
    parts: PackedParts, marked: torch.dtype | None
) -> Iterator[tuple[str, torch.dtype]]:
    """Layers whose weight is a matrix in fp8, or bytes with an fp8 scale (older files)."""
    for layer in parts.layers(".weight"):
        name = layer + ".weight"
        if len(parts.shape(name)) != 2:
            continue
        kind = parts.dtype(name)
        if kind in FP8:
            yield layer, kind
        elif kind == torch.uint8 and layer + ".scale_weight" in parts:
            yield layer, marked or E4M3


def find_fp8(source: WeightSource, table: dict[str, str]) -> dict[str, PackedWeight]:
    """Plain and scaled fp8 matrices by our names; `find_comfy_quant` took its layers before."""
    parts = PackedParts(source, table)
    marked, full = _marked_kind(parts)
    marker = tuple(n for n in table if n.rpartition(".")[2] == MARKER)
    scaled = marked is not None or any(n.endswith(SCALES) for n in table)
    weights: dict[str, PackedWeight] = {}
    for layer, kind in _candidates(parts, marked):
        scale = next((s for s in SCALES if layer + s in table), None)
        if scale is None and scaled:
            raise parts.fault(
                layer, f"its weight is in scaled fp8, but its scale {layer}.scale_weight is missing"
            )
        weight = fp8_weight(parts, layer, kind, scale, marker)
        weights[weight.name] = in_full_precision(weight) if full else weight
        marker = ()
    for layer in (layer for s in SCALES for layer in parts.layers(s)):
        if layer + ".weight" in table and parts.dtype(layer + ".weight") in FLOATS:
            raise parts.fault(layer, "it has an fp8 scale, but its weight is in plain floats")
    return weights


def fp8_scale(largest: float) -> float:
    """The scale of a matrix whose largest magnitude this is; 1 for a matrix of zeros."""
    scale = float(torch.tensor(largest, dtype=torch.float32) / E4M3_MAX)
    return scale if scale > 0 else 1.0


def quantize_fp8(rows: Tensor, scale: float) -> Tensor:
    """Weights [r, columns] -> bytes of the same shape. The largest weight becomes 448."""
    codes = (rows.float() / scale).clamp_(-E4M3_MAX, E4M3_MAX).to(E4M3)
    return codes.view(torch.uint8)
