"""LoRAs that core's loader put on a bridged model, as an adapter of ours: LoRA, LoKr, LoHa, and
DoRA on any of them.

Core hands over the tensors of each layer in a tuple, in an order of each class (read in 0.3.64 and
0.33). They go through the same checks as those of a file. Core divides the rows of a DoRA by the
lengths of the plain weights; here they are those of the changed ones, as DoRA defines it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from ...errors import InkstoneError
from ...loaders.arch.key_maps import FUSED_ROWS
from ...loaders.formats.safetensors_header import TensorEntry
from ...loaders.formats.weight_reader import WeightReader
from ...loaders.lora.adapters import Adapter
from ...loaders.lora.alpha import AlphaMetadata
from ...loaders.lora.file import Lora
from ...loaders.lora.layer import LayerReader, LoraLayer

Patches = Mapping[str | tuple[str, ...], object]  # core: a key, or key and part -> its change
START = "diffusion_model."
_NAME = Path("LoRA of a core node")
# core's class -> the parts of its tuple, by loaders/arch/key_maps_lora.PARTS; "" = none of ours
_PARTS = {
    "LoRAAdapter": ("up", "down", "alpha", "", "magnitude", ""),
    "LoKrAdapter": (
        *("lokr_w1", "lokr_w2", "alpha", "lokr_w1_a", "lokr_w1_b", "lokr_w2_a", "lokr_w2_b"),
        *("", "magnitude"),
    ),
    "LoHaAdapter": (
        *("hada_w1_a", "hada_w1_b", "alpha", "hada_w2_a", "hada_w2_b", "", "", "magnitude"),
    ),
}
_FEWEST = 2  # the parts without which there is no change


class _InMemory(WeightReader):
    """Tensors of one layer, as a file has them."""

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        self.path, self.metadata, self._tensors = _NAME, {}, tensors
        self.entries = {n: TensorEntry(t.dtype, tuple(t.shape), 0, 0) for n, t in tensors.items()}

    def _read_into(self, name: str, out: Tensor) -> None:
        with torch.no_grad():
            out.copy_(self._tensors[name])

    def close(self) -> None:
        """Nothing is open."""


def adapter_of(patches: Patches, strength: float, weight_scale: float) -> Adapter | None:
    """Core's LoRA patches as an adapter of ours; None if there are none. Raises InkstoneError for
    what is no side branch.
    """
    layers: dict[str, LoraLayer] = {}
    for key, patch in patches.items():
        name = key if isinstance(key, str) else key[0]
        tensors = _tensors(patch) if isinstance(key, str) else None
        if tensors is None:
            raise InkstoneError(
                f"A core LoRA node changes {name} by {type(patch).__name__}: packed weights take "
                "only LoRA, LoKr, LoHa and DoRA of whole layers here. Connect Inkstone Load LoRA "
                "before the bridge, it also reads plain differences."
            )
        ours = _unfused(name.removeprefix(START).removesuffix(".weight"))
        parts = {part: part for part in tensors}
        reader = LayerReader(_InMemory(tensors), parts, AlphaMetadata(), ours[0])
        layers |= zip(ours, reader.layers(len(ours)), strict=True)
    if weight_scale != 1.0 and layers:
        raise InkstoneError(
            f"A node scales the weights of the model by {weight_scale:g}: packed weights cannot "
            "be changed. Remove that node."
        )
    return Adapter(Lora(_NAME, layers, {}), strength) if layers else None


def _tensors(patch: object) -> dict[str, Tensor] | None:
    """The tensors of a patch by part; None where it is of another class, or has one that is none of
    ours.
    """
    parts = _PARTS.get(type(patch).__name__, ())
    given = tuple(getattr(patch, "weights", ()))
    if not _FEWEST <= len(given) <= len(parts):
        return None
    tensors = {}
    for part, value in zip(parts, given):
        if value is not None:
            tensors[part] = value if isinstance(value, Tensor) else torch.tensor(float(value))
    return None if "" in tensors else tensors


def _unfused(layer: str) -> tuple[str, ...]:
    """The layers of ours that a LoRA's layer is."""
    for fused, parts in FUSED_ROWS.items():
        if layer.endswith(f".{fused}"):
            return tuple(layer.removesuffix(fused) + part for part in parts)
    return (layer,)
