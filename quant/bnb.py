"""bitsandbytes as diffusers and transformers save it: nf4 and fp4 with a maximum for every 64
weights (rounded to 8 bits in turn if "nested"), and int8 with one per row.

Unusual: a 4-bit matrix is stored flat, and its blocks need not end where rows do.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import torch
from torch import Tensor

from .chunked_storage import ChunkedStorage, Rows, look_up_pairs, pair_table, scale_groups
from .packed_layer import PackedParts
from .storage import PackedWeight, WeightSource, matrix_shape

_KINDS = ("nf4", "fp4")
_STATE = ".weight.quant_state.bitsandbytes__"
_FLOAT, _BYTE = {torch.float32}, {torch.uint8}
_NESTED_BLOCK = 256


class BnbStorage(ChunkedStorage):
    """codes uint8 [N, K/2], high nibble first; levels float32 [16]; largest [blocks] float32, or
    uint8 with nested_levels [256], nested_largest (one per 256 blocks) and offset."""

    codes: Tensor
    levels: Tensor
    largest: Tensor
    nested_levels: Tensor | None
    nested_largest: Tensor | None

    def __init__(
        self,
        format_name: str,
        shape: tuple[int, int],
        block: int,
        tensors: Mapping[str, Tensor],
        offset: float = 0.0,
        first: int = 0,
    ) -> None:
        """first: the row of `largest` that row 0 of the codes has, where they are cut."""
        super().__init__(shape)
        self.format, self.block, self.offset, self.first = format_name, block, offset, first
        self.register_buffer("codes", tensors["codes"].view(shape[0], shape[1] // 2))
        for name in ("levels", "largest", "nested_levels", "nested_largest"):
            self.register_buffer(name, tensors.get(name))
        self._pairs: Tensor | None = None

    def fill(self, rows: Rows, out: Tensor) -> None:
        if self._pairs is None or self._pairs.device != out.device:
            self._pairs = pair_table(self.levels, high_first=True)
        look_up_pairs(self._pairs, self.codes[rows], out)
        columns = self.shape[1]
        if isinstance(rows, slice):
            rows = torch.arange(rows.start, rows.stop, device=out.device)
        rows = rows + self.first
        if columns % self.block:  # blocks run over the ends of rows
            every = torch.arange(columns, device=out.device)
            out.mul_(self._largest((rows.unsqueeze(1) * columns + every) // self.block))
        else:
            groups = torch.arange(columns // self.block, device=out.device)
            scale_groups(out, self._largest(rows.unsqueeze(1) * len(groups) + groups))

    def rows(self, start: int, stop: int) -> BnbStorage:
        tensors = {name: t for name, t in self.named_buffers() if name != "codes"}
        tensors["codes"] = self.codes[start:stop]
        shape = stop - start, self.shape[1]
        first = self.first + start
        return BnbStorage(self.format, shape, self.block, tensors, self.offset, first)

    def _largest(self, blocks: Tensor) -> Tensor:
        """The largest magnitudes of these blocks."""
        largest = self.largest[blocks]
        if self.nested_levels is None or self.nested_largest is None:
            return largest
        outer = self.nested_largest[blocks // _NESTED_BLOCK]
        return self.nested_levels[largest.int()] * outer + self.offset


class BnbInt8Storage(ChunkedStorage):
    """codes int8 [N, K]; largest float32 [N, 1] is what code 127 means."""

    format = "bitsandbytes int8"
    codes: Tensor
    largest: Tensor

    def __init__(self, codes: Tensor, largest: Tensor) -> None:
        super().__init__(matrix_shape(codes))
        self.register_buffer("codes", codes)
        self.register_buffer("largest", largest.reshape(-1, 1))

    def fill(self, rows: Rows, out: Tensor) -> None:
        out.copy_(self.codes[rows]).mul_(self.largest[rows]).div_(127)

    def rows(self, start: int, stop: int) -> BnbInt8Storage:
        return BnbInt8Storage(self.codes[start:stop], self.largest[start:stop])


def _shape(parts: PackedParts, layer: str, state: Mapping[str, object]) -> tuple[int, int]:
    shape = state.get("shape")
    if isinstance(shape, list) and len(shape) == 2:
        rows, columns = shape
        whole = type(rows) is type(columns) is int
        if whole and 0 < rows < 1 << 32 and 0 < columns < 1 << 32 and columns % 2 == 0:
            return rows, columns
    raise parts.fault(layer, f"its shape is {str(shape)[:60]}, expected [rows, even columns]")


def _nested_offset(parts: PackedParts, layer: str, state: Mapping[str, object]) -> float:
    """The number that is added to the maxima of nested blocks."""
    size = parts.whole_number(layer, state, "nested_blocksize")
    if size != _NESTED_BLOCK:
        raise parts.fault(layer, f"its nested_blocksize is {size}, expected {_NESTED_BLOCK}")
    offset = state.get("nested_offset")
    if isinstance(offset, int | float) and not isinstance(offset, bool) and abs(offset) < 1e30:
        return float(offset)
    raise parts.fault(layer, f"its nested_offset is {offset!r}, expected a finite number")


def _four_bit(parts: PackedParts, layer: str, kind: str) -> PackedWeight:
    mark = layer + _STATE + kind
    state = parts.settings(layer, mark)
    if state.get("quant_type") != kind:
        raise parts.fault(layer, f"its quant_type is {state.get('quant_type')!r}, expected {kind}")
    shape, block = _shape(parts, layer, state), parts.whole_number(layer, state, "blocksize")
    count = shape[0] * shape[1]
    blocks = -(-count // block)
    nested = layer + ".weight.nested_absmax" in parts
    part_names = {
        "codes": parts.need(layer, ".weight", (count // 2,), _BYTE),
        "levels": parts.need(layer, ".weight.quant_map", (16,), _FLOAT),
        "largest": parts.need(layer, ".weight.absmax", (blocks,), _BYTE if nested else _FLOAT),
    }
    offset = _nested_offset(parts, layer, state) if nested else 0.0
    if nested:
        outer = -(-blocks // _NESTED_BLOCK)
        part_names["nested_largest"] = parts.need(layer, ".weight.nested_absmax", (outer,), _FLOAT)
        part_names["nested_levels"] = parts.need(layer, ".weight.nested_quant_map", (256,), _FLOAT)
    format_name = f"bitsandbytes {kind}"

    def load() -> BnbStorage:
        tensors = {key: _checked(parts, layer, name) for key, name in part_names.items()}
        return BnbStorage(format_name, shape, block, tensors, offset)

    return PackedWeight(
        name=layer + ".weight",
        shape=shape,
        format=format_name,
        nbytes=parts.nbytes(*part_names.values()),
        parts=(*part_names.values(), mark),
        load=load,
    )


def _checked(parts: PackedParts, layer: str, name: str) -> Tensor:
    """A part as it is; floats must be finite."""
    if parts.dtype(name) == torch.uint8:
        return parts.read(name)
    return parts.floats(layer, name).flatten()


def _load_int8(parts: PackedParts, layer: str) -> BnbInt8Storage:
    order = layer + ".weight_format"
    if order in parts and bool(parts.read(order).any()):
        raise parts.fault(
            layer,
            "its int8 weight is in the order of a tensor core (weight_format is not 0), expected "
            "rows",
            "Save the model again with a current version of bitsandbytes.",
        )
    largest = parts.floats(layer, layer + ".SCB")
    return BnbInt8Storage(parts.read(layer + ".weight"), largest)


def _eight_bit(parts: PackedParts, layer: str) -> PackedWeight:
    weight = parts.matrix(layer, {torch.int8})
    shape = parts.matrix_shape(weight)
    part_names = (weight, parts.need(layer, ".SCB", (shape[0],)))
    return PackedWeight(
        name=weight,
        shape=shape,
        format=BnbInt8Storage.format,
        nbytes=parts.nbytes(weight) + 4 * shape[0],
        parts=part_names + parts.present(layer, (".weight_format",)),
        load=partial(_load_int8, parts, layer),
    )


def find_bnb(source: WeightSource, table: dict[str, str]) -> dict[str, PackedWeight]:
    """Every matrix that bitsandbytes packed."""
    parts = PackedParts(source, table)
    weights = [
        _four_bit(parts, layer, kind) for kind in _KINDS for layer in parts.layers(_STATE + kind)
    ]
    weights += [_eight_bit(parts, layer) for layer in parts.layers(".SCB")]
    for name in table:
        if name.endswith(".weight.absmax") and not any(name in w.parts for w in weights):
            layer = name.removesuffix(".weight.absmax")
            raise parts.fault(layer, f"{layer}{_STATE}nf4 (or fp4) is missing")
    return {weight.name: weight for weight in weights}
