"""All finders in their order: which weights of a file are packed, in which format, how to load
them.

Formats are told by marks (types, suffixes, metadata), never by a file's name. The more special mark
comes first; what a finder takes is not shown to the next. A mark that nobody knows is refused here
by name: read as plain numbers it would give a grey picture and no error.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

from .bnb import find_bnb
from .comfy_quant import find_comfy_quant
from .dfloat11 import find_dfloat11
from .fp8 import find_fp8
from .gguf_storage import find_gguf
from .microscaling import find_modelopt
from .packed_layer import FLOATS, PackedParts
from .storage import PackedWeight, WeightSource
from .svdquant import find_svdquant

Finder = Callable[[WeightSource, dict[str, str]], dict[str, PackedWeight]]

# End of a name that marks a format that we refuse, and how people call it.
REFUSED = (
    (".weight._data", "quanto"),
    (".weight._scale", "quanto"),
    (".weight:_data", "torchao"),
    ("weight_qdata", "torchao"),
    (".svd_up", "SDNQ"),
    (".zero_point", "SDNQ"),
)
ADVICE = "Use this model in bf16, fp8, GGUF or another format that `inkstone inspect` reads."


FINDERS: tuple[Finder, ...] = (
    find_gguf,
    find_svdquant,
    find_dfloat11,
    find_bnb,
    find_comfy_quant,
    find_modelopt,
    find_fp8,
)


def find_packed(
    source: WeightSource, table: Mapping[str, str], config: Mapping[str, object] | None = None
) -> dict[str, PackedWeight]:
    """Our weight name -> how it is packed, for every packed matrix of a file.

    `table` maps our names (auxiliary tensors: our layer and their suffix) to the file's, `config`
    is the config.json beside it. Plain float weights are not listed. Raises a sentence for a marked
    weight without its scale, shapes that disagree, and formats that nobody here reads.
    """
    rest = dict(table)
    found: dict[str, PackedWeight] = {}
    for finder in FINDERS:
        if finder is find_dfloat11:
            finder = partial(find_dfloat11, config=config)
        new = finder(source, rest)
        found |= new
        used = {part for one in new.values() for part in one.parts}
        rest = {ours: theirs for ours, theirs in rest.items() if ours not in used}
    _refuse(PackedParts(source, rest))
    return found


def _refuse(parts: PackedParts) -> None:
    """Raises for marks of other formats and for integers among the weights that are left."""
    for name in parts.table:
        for end, form in REFUSED:
            if name.endswith(end):
                raise parts.fault(name.removesuffix(end), f"it is in the format of {form}", ADVICE)
    for layer in parts.layers(".weight"):
        entry = parts.source.entries[parts.table[layer + ".weight"]]
        if getattr(entry, "kind", None) is not None and entry.kind.packed:
            continue  # a kernel or vector of a GGUF file, whose reader gives floats of any type
        kind = entry.dtype
        if kind not in FLOATS and not str(kind).startswith("torch.float8"):
            words = f"its weight holds {str(kind).removeprefix('torch.')} without a known format"
            raise parts.fault(layer, words, ADVICE)
