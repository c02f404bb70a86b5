"""Matrices of a file that are several layers of a network, one below the other: their rows are cut
when they are read.

Plain ones are read row by row. Packed ones are read whole, once for all their parts, which are
views of it: a layer's parts are loaded and freed together, so nothing stays twice.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial

from ...errors import InkstoneError
from ...quant.storage import PackedWeight, Storage

Shapes = Mapping[str, tuple[int, ...]]  # our names -> shapes


@dataclass(frozen=True)
class RowPart:
    """A matrix that is some rows of a larger one in the file."""

    whole: str  # our name of that
    start: int
    stop: int


def row_parts(fused: Mapping[str, tuple[str, ...]], shapes: Shapes) -> dict[str, RowPart]:
    """Our name -> its rows, for the equal parts of every matrix that is there. fused: our name of a
    matrix -> those of its parts.
    """
    parts = {}
    for whole, names in fused.items():
        rows = next(iter(shapes.get(whole, ())), 0)
        if rows % len(names):
            raise InkstoneError(
                f"Tensor {whole} has {rows} rows, which are not {len(names)} equal parts. The file "
                "is damaged or of another model: download it again."
            )
        step = rows // len(names)
        for number, name in enumerate(names if rows else ()):
            parts[name] = RowPart(whole, number * step, (number + 1) * step)
    return parts


def cut_shapes(shapes: Shapes, parts: Mapping[str, RowPart]) -> Shapes:
    """The shapes with those of the parts in place of whole matrices."""
    wholes = {part.whole for part in parts.values()}
    return {name: shape for name, shape in shapes.items() if name not in wholes} | {
        name: (part.stop - part.start, *shapes[part.whole][1:]) for name, part in parts.items()
    }


def cut_packed(
    packed: Mapping[str, PackedWeight], parts: Mapping[str, RowPart]
) -> dict[str, PackedWeight]:
    """The packed weights with their parts in place of whole matrices."""
    wholes: dict[str, dict[str, RowPart]] = {}
    for name, part in parts.items():
        wholes.setdefault(part.whole, {})[name] = part
    cut = {name: weight for name, weight in packed.items() if name not in wholes}
    for whole, own in wholes.items():
        if whole in packed:
            cut |= _parts_of(packed[whole], own)
    return cut


def _parts_of(weight: PackedWeight, parts: Mapping[str, RowPart]) -> dict[str, PackedWeight]:
    once = _ReadOnce(weight, parts)
    return {
        name: replace(
            weight,
            name=name,
            shape=(part.stop - part.start, weight.shape[1]),
            nbytes=weight.nbytes * (part.stop - part.start) // weight.shape[0],
            load=partial(once.load, name),
        )
        for name, part in parts.items()
    }


class _ReadOnce:
    """Reads a packed matrix once for all its parts; a second reading of a part reads it again."""

    def __init__(self, weight: PackedWeight, parts: Mapping[str, RowPart]) -> None:
        self._weight, self._parts = weight, parts
        self._waiting: dict[str, Storage] = {}
        self._lock = threading.Lock()

    def load(self, name: str) -> Storage:
        with self._lock:
            if name not in self._waiting:
                whole = self._weight.load()
                self._waiting = {n: _rows(whole, part) for n, part in self._parts.items()}
            return self._waiting.pop(name)


def _rows(whole: Storage, part: RowPart) -> Storage:
    try:
        rows = whole.rows(part.start, part.stop)
    except NotImplementedError:
        raise InkstoneError(
            f"Tensor {part.whole} is in the format {whole.format}, whose rows cannot be cut into "
            "the layers of this model. Use a file of it with img_mlp.proj and img_mlp.gate_layer, "
            "or one in bf16, int8, fp8 or GGUF."
        ) from None
    rows.full_precision = whole.full_precision
    return rows
