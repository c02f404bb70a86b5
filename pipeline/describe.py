"""Describes a loaded diffusion model, for the info node and for bug reports."""

from __future__ import annotations

from collections import Counter

from ..errors import InkstoneError
from ..kernels.linear import packed_backend
from ..loaders.memory.residency import Residency, residencies
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
        f"{model.device}{', products of its blocks in int8' * model.network.int8}",
        *_backends(model),
        *(f"LoRA {f.adapter.lora.path.name}: {f.sentence()}" for f in model.adapters),
        *_in_memory(model),
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


def _in_memory(model: DiffusionModel) -> list[str]:
    """Where the weights of this model and of the others on its device are now."""
    weights = model.weights
    lines = [f"in memory: {_placed(weights)}"]
    others = [r for r in residencies() if r is not weights and r.device == weights.device]
    present = [f"{r.name} {_placed(r)}" for r in others if r.reserved]
    return lines + ([f"also in memory: {'; '.join(sorted(present))}"] if present else [])


def _placed(weights: Residency) -> str:
    if weights.placement is None:
        return "nothing yet: weights are loaded when they are used"
    now, whole = weights.in_memory / 1e9, weights.reserved / 1e9
    size = f"{whole:.2f} GB" if now == whole else f"{now:.2f} of {whole:.2f} GB so far"
    return f"{size}, {weights.placement.words()}"
