"""Layers that name their format: `X.comfy_quant` (JSON as bytes) or `_quantization_metadata` of the
file, as ComfyUI writes them. A table maps the format's name to the function that reads it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from .fp8 import E4M3, E5M2, fp8_weight
from .int_quant import awq_weight, row_scaled_weight, w4a8_weight
from .microscaling import block_float_weight
from .packed_layer import PackedParts, in_full_precision
from .storage import PackedWeight, WeightSource

MARK = ".comfy_quant"
METADATA = "_quantization_metadata"
FULL = "full_precision_matrix_mult"
# (parts, layer, format, its settings, other tensors that belong to the layer) -> the weight
_Reader = Callable[[PackedParts, str, str, Mapping[str, object], tuple[str, ...]], PackedWeight]


def _fp8(
    parts: PackedParts, layer: str, format_name: str, conf: object, extra: tuple[str, ...]
) -> PackedWeight:
    kind = E5M2 if format_name == "float8_e5m2" else E4M3
    return fp8_weight(parts, layer, kind, ".weight_scale", extra)


def _block(
    parts: PackedParts, layer: str, format_name: str, conf: object, extra: tuple[str, ...]
) -> PackedWeight:
    return block_float_weight(parts, layer, format_name, extra)


FORMATS: dict[str, _Reader] = {
    "float8_e4m3fn": _fp8,
    "float8_e5m2": _fp8,
    "mxfp8": _block,
    "nvfp4": _block,
    "int8_tensorwise": row_scaled_weight,
    "convrot_w4a4": row_scaled_weight,
    "asym_w4a8_int8": w4a8_weight,
    "awq_w4a16": awq_weight,
}


def _flat(conf: Mapping[str, object]) -> dict[str, object]:
    """Settings with those of a nested `params` among them."""
    inner = conf.get("params")
    return {**(inner if isinstance(inner, dict) else {}), **conf}


def _by_metadata(parts: PackedParts) -> dict[str, dict[str, object]]:
    """Our layer -> its settings, from the file's metadata. Layers of other parts are left out."""
    text = parts.source.metadata.get(METADATA)
    if text is None:
        return {}
    layers = parts.json_object("(metadata)", METADATA, text).get("layers")
    if not isinstance(layers, dict):
        raise parts.fault("(metadata)", f"{METADATA} has no object `layers`")
    ours = {name.removesuffix(".weight"): name.removesuffix(".weight") for name in parts.table}
    theirs = {
        file.removesuffix(".weight"): name.removesuffix(".weight")
        for name, file in parts.table.items()
        if name.endswith(".weight")
    }
    settings: dict[str, dict[str, object]] = {}
    for name, conf in layers.items():
        layer = theirs.get(name) or ours.get(name)
        if layer is None:  # with a prefix that the names in the file lack
            layer = next((t for t in theirs.values() if name.endswith("." + t)), None)
        if layer is not None and layer + ".weight" in parts:
            settings[layer] = conf if isinstance(conf, dict) else {"format": conf}
    return settings


def find_comfy_quant(source: WeightSource, table: dict[str, str]) -> dict[str, PackedWeight]:
    """Every layer with settings of its own, whatever their format."""
    parts = PackedParts(source, table)
    layers = _by_metadata(parts)
    for layer in parts.layers(MARK):
        layers[layer] = parts.settings(layer, layer + MARK)
    weights = {}
    for layer, conf in layers.items():
        conf = _flat(conf)
        format_name = conf.get("format")
        if not isinstance(format_name, str) or format_name not in FORMATS:
            known = ", ".join(FORMATS)
            raise parts.fault(
                layer,
                f"its format is {str(format_name)[:60]!r}, this version reads {known}",
                "Use this model in one of these, or in bf16 or GGUF.",
            )
        extra = (layer + MARK,) if layer + MARK in parts else ()
        weight = FORMATS[format_name](parts, layer, format_name, conf, extra)
        weights[weight.name] = in_full_precision(weight) if conf.get(FULL) is True else weight
    return weights
