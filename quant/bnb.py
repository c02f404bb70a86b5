"""bitsandbytes as diffusers and transformers save it: nf4 and fp4 with a maximum for every 64
weights (these rounded to 8 bits once more, if "nested"), and int8 with one per row.

Unusual: a 4-bit matrix lies flattened, and its blocks need not end where rows do.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor

from .chunked_storage import ChunkedStorage, Rows, look_up_pairs, pair_table, scale_groups
from .packed_layer import PackedParts
from .storage import PackedWeight, WeightSource

_KINDS = ("nf4", "fp4")
_STATE = ".weight.quant_state.bitsandbytes__"
_FLOAT, _BYTE = {torch.float32}, {torch.uint8}
_NESTED_BLOCK = 256


class BnbStorage(ChunkedStorage):
    """codes uint8 [N, K/2], high nibble first; levels float32 [16]; largest [blocks] float32, or
    uint8 with nested_levels [256], nested_largest (one per 256 blocks) and offset."""

    def __init__(
        self,
        form: str,
        shape: tuple[int, int],
        block: int,
        held: Mapping[str, Tensor],
        offset: float = 0.0,
    ) -> None:
        super().__init__(shape)
        self.format, self.block, self.offset = form, block, offset
        self.register_buffer("codes", held["codes"].view(shape[0], shape[1] // 2))
        for name in ("levels", "largest", "nested_levels", "nested_largest"):
            self.register_buffer(name, held.get(name))
        self._pairs: Tensor | None = None

    def fill(self, rows: Rows, out: Tensor) -> None:
        if self._pairs is None or self._pairs.device != out.device:
            self._pairs = pair_table(self.levels, high_first=True)
        look_up_pairs(self._pairs, self.codes[rows], out)
        columns = self.shape[1]
        if isinstance(rows, slice):
            rows = torch.arange(rows.start, rows.stop, device=out.device)
        if columns % self.block:  # blocks run over the ends of rows
            every = torch.arange(columns, device=out.device)
            out.mul_(self._largest((rows.unsqueeze(1) * columns + every) // self.block))
        else:
            groups = torch.arange(columns // self.block, device=out.device)
            scale_groups(out, self._largest(rows.unsqueeze(1) * len(groups) + groups))

    def _largest(self, blocks: Tensor) -> Tensor:
        """The largest magnitudes of these blocks."""
        found = self.largest[blocks]
        if self.nested_levels is None:
            return found
        outer = self.nested_largest[blocks // _NESTED_BLOCK]
        return self.nested_levels[found.int()] * outer + self.offset


class BnbInt8Storage(ChunkedStorage):
    """codes int8 [N, K]; largest float32 [N, 1] stands for 127."""

    format = "bitsandbytes int8"

    def __init__(self, codes: Tensor, largest: Tensor) -> None:
        super().__init__(tuple(codes.shape))
        self.register_buffer("codes", codes)
        self.register_buffer("largest", largest.reshape(-1, 1))

    def fill(self, rows: Rows, out: Tensor) -> None:
        out.copy_(self.codes[rows]).mul_(self.largest[rows]).div_(127)


def _whole(parts: PackedParts, layer: str, state: Mapping[str, Any], key: str) -> int:
    value = state.get(key)
    if type(value) is not int or not 0 < value <= 1 << 20:
        raise parts.fault(layer, f"its {key} is {value!r}, expected a whole number above 0")
    return value


def _shape(parts: PackedParts, layer: str, state: Mapping[str, Any]) -> tuple[int, int]:
    shape = state.get("shape")
    sound = isinstance(shape, list) and len(shape) == 2
    if not sound or not all(type(n) is int and 0 < n < 1 << 32 for n in shape) or shape[1] % 2:
        raise parts.fault(layer, f"its shape is {str(shape)[:60]}, expected [rows, even columns]")
    return tuple(shape)


def _four_bit(parts: PackedParts, layer: str, kind: str) -> PackedWeight:
    mark = layer + _STATE + kind
    state = parts.settings(layer, mark)
    if state.get("quant_type") != kind:
        raise parts.fault(layer, f"its quant_type is {state.get('quant_type')!r}, expected {kind}")
    shape, block = _shape(parts, layer, state), _whole(parts, layer, state, "blocksize")
    count = shape[0] * shape[1]
    blocks = -(-count // block)
    nested = layer + ".weight.nested_absmax" in parts
    used = {
        "codes": parts.need(layer, ".weight", (count // 2,), _BYTE),
        "levels": parts.need(layer, ".weight.quant_map", (16,), _FLOAT),
        "largest": parts.need(layer, ".weight.absmax", (blocks,), _BYTE if nested else _FLOAT),
    }
    offset = 0.0
    if nested:
        if _whole(parts, layer, state, "nested_blocksize") != _NESTED_BLOCK:
            raise parts.fault(
                layer,
                f"its nested_blocksize is {state['nested_blocksize']}, expected {_NESTED_BLOCK}",
            )
        outer = -(-blocks // _NESTED_BLOCK)
        used["nested_largest"] = parts.need(layer, ".weight.nested_absmax", (outer,), _FLOAT)
        used["nested_levels"] = parts.need(layer, ".weight.nested_quant_map", (256,), _FLOAT)
        offset = state.get("nested_offset")
        if type(offset) not in (int, float) or not abs(offset) < 1e30:
            raise parts.fault(layer, f"its nested_offset is {offset!r}, expected a finite number")
    form = f"bitsandbytes {kind}"

    def load() -> BnbStorage:
        held = {key: _sound(parts, layer, name) for key, name in used.items()}
        return BnbStorage(form, shape, block, held, float(offset))

    size = parts.nbytes(*used.values())
    return PackedWeight(layer + ".weight", shape, form, size, (*used.values(), mark), load)


def _sound(parts: PackedParts, layer: str, name: str) -> Tensor:
    """A part as it is, floats of it finite."""
    if parts.dtype(name) == torch.uint8:
        return parts.read(name)
    return parts.floats(layer, name).flatten()


def _load_int8(parts: PackedParts, layer: str) -> BnbInt8Storage:
    form = layer + ".weight_format"
    if form in parts and bool(parts.read(form).any()):
        raise parts.fault(
            layer,
            "its int8 weight is in the order of a tensor core (weight_format is not 0)",
            "Save the model again with a current version of bitsandbytes.",
        )
    largest = parts.floats(layer, layer + ".SCB")
    return BnbInt8Storage(parts.read(layer + ".weight"), largest)


def _eight_bit(parts: PackedParts, layer: str) -> PackedWeight:
    weight = parts.matrix(layer, {torch.int8})
    shape = parts.shape(weight)
    used = (weight, parts.need(layer, ".SCB", (shape[0],)))
    extra = parts.present(layer, (".weight_format",))
    size = parts.nbytes(weight) + 4 * shape[0]
    load = partial(_load_int8, parts, layer)
    return PackedWeight(weight, shape, BnbInt8Storage.format, size, used + extra, load)


def find_bnb(source: WeightSource, table: dict[str, str]) -> dict[str, PackedWeight]:
    """Every matrix that bitsandbytes packed."""
    parts = PackedParts(source, table)
    found = [
        _four_bit(parts, layer, kind) for kind in _KINDS for layer in parts.layers(_STATE + kind)
    ]
    found += [_eight_bit(parts, layer) for layer in parts.layers(".SCB")]
    for name in table:
        if name.endswith(".weight.absmax") and not any(name in one.parts for one in found):
            layer = name.removesuffix(".weight.absmax")
            raise parts.fault(layer, f"{layer}{_STATE}nf4 (or fp4) is missing")
    return {one.name: one for one in found}
