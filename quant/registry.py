"""All finders in their order: which weights of a file are packed, in which format, how to load
them.

Formats are detected by marks (types, suffixes, metadata), never by a file's name. The more special
mark comes first; what a finder takes is not shown to the next. The mark of an unsupported format is
refused here by name: read as plain numbers it would give a grey picture and no error.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

from .bnb import find_bnb
from .comfy_quant import find_comfy_quant
from .dfloat11 import find_dfloat11
from .fp8 import find_fp8
from .gguf_storage import find_gguf, has_blocks
from .microscaling import find_modelopt
from .packed_layer import FLOATS, PackedParts
from .storage import PackedWeight, WeightSource
from .svdquant import find_svdquant

Finder = Callable[[WeightSource, dict[str, str]], dict[str, PackedWeight]]

# The end of a name that marks an unsupported format, and the format's usual name.
UNSUPPORTED = (
    (".weight._data", "quanto"),
    (".weight._scale", "quanto"),
    (".weight:_data", "torchao"),
    ("weight_qdata", "torchao"),
    (".svd_up", "SDNQ"),
    (".zero_point", "SDNQ"),
)
# The same for formats whose other tensors look like damaged ones of a known format: refused before
# any finder. The first match counts.
LOOK_ALIKES = (
    (".g_idx", "GPTQ"),
    (".qzeros", "AWQ"),
    (".weight_scale_inv", "fp8 with a scale per block (DeepSeek's, Qwen's own FP8 files)"),
    (".weight_packed", "compressed-tensors"),
    (".weight_zero_point", "compressed-tensors"),
    (".q_weight", "EXL2"),
    (".trellis", "EXL3"),
    (".W_q", "HQQ"),
    (".codebooks", "AQLM"),
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
    is the config.json next to it. Plain float weights are not listed. Raises InkstoneError for a
    marked weight without its scale, for shapes that disagree, and for unsupported formats.
    """
    rest = dict(table)
    _refuse_look_alikes(PackedParts(source, rest))
    weights: dict[str, PackedWeight] = {}
    for finder in FINDERS:
        if finder is find_dfloat11:
            finder = partial(find_dfloat11, config=config)
        new = finder(source, rest)
        weights |= new
        used = {part for weight in new.values() for part in weight.parts}
        rest = {ours: theirs for ours, theirs in rest.items() if ours not in used}
    _refuse(PackedParts(source, rest))
    return weights


def _refuse_look_alikes(parts: PackedParts) -> None:
    """Raise for a sound file in an unsupported format that a finder would call damaged."""
    for end, tool in LOOK_ALIKES:
        layer = next(iter(parts.layers(end)), None)
        if layer is not None:
            raise parts.fault(layer, f"its format, {tool}, is not supported", ADVICE)


def _refuse(parts: PackedParts) -> None:
    """Raise for marks of unsupported formats and for integers among the weights that are left."""
    for name in parts.table:
        for end, tool in UNSUPPORTED:
            if name.endswith(end):
                layer = name.removesuffix(end)
                raise parts.fault(layer, f"its format, {tool}, is not supported", ADVICE)
    for layer in parts.layers(".weight"):
        entry = parts.source.entries[parts.table[layer + ".weight"]]
        if has_blocks(entry) and entry.kind.packed:
            continue  # a kernel or vector of a GGUF file, whose reader gives floats of any type
        dtype = entry.dtype
        if dtype not in FLOATS and not str(dtype).startswith("torch.float8"):
            numbers = str(dtype).removeprefix("torch.")
            raise parts.fault(layer, f"its weight holds {numbers} without a known format", ADVICE)
