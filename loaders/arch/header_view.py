"""Read-only view of a weight file's header: names, shapes and storage formats.

Recognizers and loaders share one view per file. What it computes is kept, so names are mapped and
packed weights are searched once per load. With only a header, formats are known by marks in names;
with the open file, the finders of quant/ name them layer by layer, and shapes are those of the
plain matrices.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property

from ...errors import InkstoneError
from ...quant.gguf_types import TYPES
from ...quant.registry import find_packed
from ...quant.storage import PackedWeight
from ..formats.safetensors_header import TensorEntry
from ..formats.weight_reader import WeightReader
from .dims import Shapes
from .key_maps import KeyMap
from .marks import FORMAT_MARKS, STRIP

FLOATS = {"F64": "fp64", "F32": "fp32", "F16": "fp16", "BF16": "bf16"}
PACKED = frozenset(kind.name for kind in TYPES.values() if kind.packed)  # types of GGUF files
# Packed formats by their marks; which one a layer has, find_packed says where the file is open.
MARKED = frozenset({form for _, form in FORMAT_MARKS} - {"quanto"})
SUPPORTED = frozenset({*FLOATS.values(), "fp8 plain", *MARKED, *PACKED})


@dataclass(frozen=True)
class PackedMatrices:
    """The packed matrices of a file by our names, or why they cannot be read."""

    weights: Mapping[str, PackedWeight]
    fault: str = ""

    @cached_property
    def parts(self) -> frozenset[str]:
        """Our names of all tensors that belong to them."""
        return frozenset(part for weight in self.weights.values() for part in weight.parts)

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shapes of the plain matrices, and of biases that come with them."""
        shapes: dict[str, tuple[int, ...]] = {n: w.shape for n, w in self.weights.items()}
        biases = (weight for weight in self.weights.values() if weight.bias is not None)
        return shapes | {w.name.removesuffix("weight") + "bias": (w.shape[0],) for w in biases}


@dataclass(frozen=True)
class HeaderView:
    """A header, with the open file behind it where there is one."""

    entries: Mapping[str, TensorEntry]
    metadata: Mapping[str, str]
    config: Mapping[str, object]  # of the config.json next to the file, or empty
    source: WeightReader | None = None
    _names: dict[tuple[object, ...], KeyMap] = field(default_factory=dict, repr=False)
    # by the identity of a KeyMap, which is kept so that no other one gets its identity
    _packed: dict[int, tuple[KeyMap, PackedMatrices]] = field(default_factory=dict, repr=False)

    @cached_property
    def bare(self) -> Mapping[str, TensorEntry]:
        """Entries without the usual prefixes."""
        return {
            next((n[len(p) :] for p in STRIP if n.startswith(p)), n): entry
            for n, entry in self.entries.items()
        }

    def names(self, find: Callable[..., KeyMap], *numbers: int) -> KeyMap:
        """The file's names by a function of key_maps.py, called once: find(names, *numbers)."""
        key = (find, *numbers)
        if key not in self._names:
            self._names[key] = find(self.entries, *numbers)
        return self._names[key]

    def packed(self, names: KeyMap) -> PackedMatrices:
        """The packed matrices; none where only the header is there."""
        if self.source is None:
            return PackedMatrices({})
        if id(names) not in self._packed:
            self._packed[id(names)] = names, self._search(self.source, names)
        return self._packed[id(names)][1]

    def _search(self, source: WeightReader, names: KeyMap) -> PackedMatrices:
        try:
            return PackedMatrices(find_packed(source, names.table, self.config))
        except InkstoneError as error:
            return PackedMatrices({}, str(error).removeprefix(f"{source.path}: ").rstrip("."))

    def shapes(self, names: KeyMap) -> Shapes:
        """Shapes by our names, for packed matrices those of the plain ones."""
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


def formats_of(view: HeaderView, counts: Mapping[str, int] | None = None) -> tuple[str, ...]:
    """Storage formats in the file, quantized ones first, then plain dtypes by count.

    counts: packed matrices per format, as far as they were searched.
    """
    counts = counts or {}
    marks = {form for mark, form in FORMAT_MARKS if any(n.endswith(mark) for n in view.entries)}
    if "nvfp4" in marks:
        marks.discard("fp8 scaled by rows")
    if "_quantization_metadata" in view.metadata:
        marks.add("comfy_quant")
    if "comfy_quant" in marks:
        marks -= {"nvfp4", "fp8 scaled by rows", "fp8 scaled"}
    method = view.config.get("quantization_config", {})
    if isinstance(method, dict) and isinstance(method.get("quant_method"), str):
        method = method["quant_method"]
        marks |= {method} if not any(form.startswith(method) for form in marks) else set()
    kinds = Counter(entry.type_name for entry in view.entries.values())
    if not marks and any(kind.startswith("F8_") for kind in kinds):
        marks.add("fp8 plain")
    if not marks and kinds.keys() & {"F4", "U8", "I8"}:
        marks.add("an unknown integer format")
    common = [kind for kind, _ in kinds.most_common()]
    blocks = (kind for kind in common if kind in PACKED)
    exact = [form for form in counts if form not in PACKED]  # better than what marks say
    marked = (*exact, *sorted(marks - MARKED - {"fp8 plain"})) if exact else sorted(marks)
    return (*marked, *blocks, *(FLOATS[kind] for kind in common if kind in FLOATS))
