"""A weight file as the recognizers look at it: names, shapes, and in which formats it is stored.

With only a header, formats are told by marks in names. With the file itself, the finders of quant/
say it layer by layer, and shapes are those of the plain matrices.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

from ...errors import InkstoneError
from ...quant.gguf_types import TYPES
from ...quant.registry import find_packed
from ...quant.storage import PackedWeight, WeightSource
from ..formats.safetensors_header import TensorEntry
from . import key_maps
from .dims import Shapes

FLOATS = {"F64": "fp64", "F32": "fp32", "F16": "fp16", "BF16": "bf16"}
PACKED = frozenset(kind.name for kind in TYPES.values() if kind.packed)  # types of GGUF files
# Packed formats by their marks; what a layer really has, find_packed says where a file is at hand.
MARKED = frozenset({form for _, form in key_maps.FORMAT_MARKS} - {"quanto"})
SUPPORTED = frozenset({*FLOATS.values(), "fp8 plain", *MARKED, *PACKED})


@dataclass(frozen=True)
class Packed:
    """Packed matrices by our names, or why they cannot be read."""

    found: Mapping[str, PackedWeight]
    fault: str = ""

    @cached_property
    def parts(self) -> frozenset[str]:
        """Our names of all tensors that belong to them."""
        return frozenset(part for one in self.found.values() for part in one.parts)

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Of the plain matrices, and of biases that come with them."""
        shapes: dict[str, tuple[int, ...]] = {n: one.shape for n, one in self.found.items()}
        biases = (one for one in self.found.values() if one.bias is not None)
        return shapes | {
            one.name.removesuffix("weight") + "bias": (one.shape[0],) for one in biases
        }


@dataclass(frozen=True)
class HeaderView:
    """A header as the recognizers look at it."""

    entries: Mapping[str, TensorEntry]
    metadata: Mapping[str, str]
    config: Mapping[str, object]  # of the config.json beside the file, or empty
    bare: Mapping[str, TensorEntry]  # entries without the usual prefixes
    source: WeightSource | None = (
        None  # the file itself, for the few bytes that say how it is packed
    )
    _packed: dict[tuple[str, str], Packed] = field(default_factory=dict)

    def packed(self, names: key_maps.KeyMap) -> Packed:
        """Its packed matrices; none where only the header is at hand."""
        key = names.layout, names.prefix
        if self.source is None:
            return Packed({})
        if key not in self._packed:
            try:
                found = Packed(find_packed(self.source, names.table, self.config))
            except InkstoneError as error:
                said = str(error).removeprefix(f"{self.source.path}: ").rstrip(".")
                found = Packed({}, said)
            self._packed[key] = found
        return self._packed[key]

    def shapes(self, names: key_maps.KeyMap) -> Shapes:
        """Shapes by our names, of packed matrices those of the plain ones."""
        packed = self.packed(names)
        return {
            ours: self.entries[file].shape
            for ours, file in names.table.items()
            if ours not in packed.parts
        } | packed.shapes

    def has(self, *names: str) -> bool:
        return all(name in self.bare for name in names)

    def starts(self, start: str) -> bool:
        return any(name.startswith(start) for name in self.bare)


def formats_of(seen: HeaderView, packed: Mapping[str, int] | None = None) -> tuple[str, ...]:
    """Storage formats in the file, quantized ones first, then plain dtypes by count.

    packed: matrices per format, as far as they were looked at.
    """
    packed = packed or {}
    ends = {
        form for mark, form in key_maps.FORMAT_MARKS if any(n.endswith(mark) for n in seen.entries)
    }
    if "nvfp4" in ends:
        ends.discard("fp8 scaled by rows")
    if "_quantization_metadata" in seen.metadata:
        ends.add("comfy_quant")
    if "comfy_quant" in ends:
        ends -= {"nvfp4", "fp8 scaled by rows", "fp8 scaled"}
    method = seen.config.get("quantization_config", {})
    if isinstance(method, dict) and isinstance(method.get("quant_method"), str):
        method = method["quant_method"]
        ends |= {method} if not any(form.startswith(method) for form in ends) else set()
    kinds = Counter(entry.type_name for entry in seen.entries.values())
    if not ends and any(kind.startswith("F8_") for kind in kinds):
        ends.add("fp8 plain")
    if not ends and kinds.keys() & {"F4", "U8", "I8"}:
        ends.add("an unknown integer format")
    common = [kind for kind, _ in kinds.most_common()]
    blocks = (kind for kind in common if kind in PACKED)
    exact = [form for form in packed if form not in PACKED]  # better than what marks say
    marked = (*exact, *sorted(ends - MARKED - {"fp8 plain"})) if exact else sorted(ends)
    return (*marked, *blocks, *(FLOATS[kind] for kind in common if kind in FLOATS))
