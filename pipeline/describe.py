"""Describes a loaded diffusion model, for the info node and for bug reports."""

from __future__ import annotations

from collections import Counter

from ..errors import InkstoneError
from ..kernels.linear import packed_backend
from ..loaders.models.bundle import Bundle
from ..loaders.models.diffusion_model import DiffusionModel
from .memory_plan import PlanRequest, plan


def describe_model(model: DiffusionModel, request: PlanRequest) -> str:
    """Lines about file, family, formats with counts, backends, LoRAs, placement, plan."""
    c = model.network.config
    lines = [
        f"file: {model.path}",
        f"family: {model.family.name}, {c.layers} blocks, {c.heads} heads of {c.head_dim}",
        f"weights: {_formats(model)}; computed in {str(model.dtype).removeprefix('torch.')} on "
        f"{model.device}",
        *_backends(model),
        *(f"LoRA {f.adapter.lora.path.name}: {f.sentence()}" for f in model.adapters),
        f"in memory: {_placed(model)}",
    ]
    try:
        lines.append(plan(Bundle(model, None, None), request).sentence())
    except InkstoneError as error:
        lines.append(f"plan: {error}")
    return "\n".join(lines)


def _formats(model: DiffusionModel) -> str:
    counts = Counter(weight.format for weight in model.file.packed.values())
    if not counts:
        return model.weights_format
    return ", ".join(f"{n} x {name}" for name, n in counts.most_common())


def _backends(model: DiffusionModel) -> list[str]:
    """One line per backend that packed weights are multiplied by."""
    storages = (getattr(module, "storage", None) for module in model.network.modules())
    backends = dict.fromkeys(
        packed_backend(storage, model.device, model.dtype)
        for storage in storages
        if storage is not None
    )
    return [f"backend: {name} ({why})" for name, why in backends]


def _placed(model: DiffusionModel) -> str:
    if model.weights.placement is None:
        return "nothing yet: weights are loaded when they are used"
    placement = model.weights.placement
    return f"{placement.nbytes / 1e9:.2f} GB, {placement.words()}"
