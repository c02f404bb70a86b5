"""LoRAs on a model: the layers of each file that fit it, their strength, the branches of a run.

A model with LoRAs is a light copy that shares its network with the model without them. The branches
are attached to the network only while that copy runs, so two wires of a graph never interfere.
"""

from __future__ import annotations

import functools
import logging
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

import torch
from torch import nn

from ...errors import InkstoneError
from ...kernels import lora as kernels
from ...kernels.linear import Linear
from ...kernels.lora import BaseLayer, Branch, InFile
from ...kernels.modulation import Weights
from ...kernels.norm import RMSWeight
from ...sampling.lightning import Distilled
from ..arch.expected_tensors import Layout
from ..arch.key_maps_lora import model_family
from .file import Lora
from .layer import LoraLayer

log = logging.getLogger(__name__)

MAX_STRENGTH = 100.0  # either sign
ROLES = {"model": "diffusion model", "text": "text encoder"}
_RANGE = re.compile(r"\s*(\d+)\s*(?:-\s*(\d+)\s*)?:\s*([+-]?(?:\d+\.?\d*|\.\d+))\s*")
_BLOCK = re.compile(r"transformer_blocks\.(\d+)\.")


def parse_blocks(spec: str) -> tuple[tuple[int, int, float], ...]:
    """ "0-19:0.5,20-59:1.0" -> ((0, 19, 0.5), (20, 59, 1.0)): factors of the strength."""
    ranges = []
    for text in filter(str.strip, spec.split(",")):
        match = _RANGE.fullmatch(text)
        if match is None or int(match[1]) > int(match[2] or match[1]):
            raise InkstoneError(
                f"The block strengths {spec!r} are not valid at {text.strip()!r}: expected ranges "
                "of blocks with a factor each, such as 0-19:0.5,20-59:1.0."
            )
        ranges.append((int(match[1]), int(match[2] or match[1]), float(match[3])))
    return tuple(ranges)


@dataclass(frozen=True, eq=False)
class Adapter:
    """One file with its strength. `blocks` scales it per range of blocks, e.g.
    "0-19:0.5,20-59:1.0"; the last range that names a block counts, other blocks keep 1.
    """

    lora: Lora
    strength: float = 1.0
    blocks: str = ""

    def __post_init__(self) -> None:
        if not (math.isfinite(self.strength) and abs(self.strength) <= MAX_STRENGTH):
            raise InkstoneError(
                f"The strength of LoRA {self.lora.path.name} is {self.strength}: expected a number "
                f"from {-MAX_STRENGTH:g} to {MAX_STRENGTH:g}, usually 1."
            )
        parse_blocks(self.blocks)

    @functools.cached_property
    def ranges(self) -> tuple[tuple[int, int, float], ...]:
        """The block factors."""
        return parse_blocks(self.blocks)

    def strength_at(self, module: str) -> float:
        """The strength at a layer of ours; layers outside the blocks get the full one."""
        match, factor = _BLOCK.match(module), 1.0
        block = int(match[1]) if match else -1
        for first, last, value in self.ranges:
            if first <= block <= last:
                factor = value
        return self.strength * factor


@dataclass(frozen=True, eq=False)
class FittedAdapter:
    """An adapter on a model of known shapes: the layers that fit, and the names of the others."""

    adapter: Adapter
    layers: Mapping[str, LoraLayer]
    misses: tuple[str, ...]

    @property
    def distilled(self) -> Distilled | None:
        """Set where the LoRA is a distilled one and has an effect."""
        return self.adapter.lora.distilled if self.adapter.strength > 0 else None

    def sentence(self) -> str:
        """E.g. "720 of 720 modules, rank 64, alpha 64, strength 1"."""
        layers, a = self.layers.values(), self.adapter
        ranks = [x.rank for x in layers if x.rank]
        alphas = [x.alpha for x in layers if x.alpha is not None]
        kinds = sorted({x.kind for x in layers} - {"LoRA"})
        parts = [f"{len(layers)} of {len(layers) + len(self.misses)} modules"]
        parts += [" and ".join(kinds)] if kinds else []
        parts += [f"rank {_span(ranks)}"] if ranks else []
        parts += [f"alpha {_span(alphas)}"] if alphas else ["no alpha (factor 1)"] if ranks else []
        parts.append(f"strength {a.strength:g}" + (f", blocks {a.blocks}" if a.blocks else ""))
        return ", ".join(parts) + _missed(self.misses)


def _span(values: Sequence[float]) -> str:
    """ "64", or "16-64" where they differ."""
    low, high = min(values), max(values)
    return f"{low:g}" if low == high else f"{low:g}-{high:g}"


def _missed(misses: tuple[str, ...]) -> str:
    if not misses:
        return ""
    more = " ..." if len(misses) > 5 else ""
    return f"; {len(misses)} not applied: {', '.join(misses[:5])}{more}"


def fit(adapter: Adapter, role: str, layout: Layout) -> FittedAdapter:
    """The layers of a file that fit a network with this layout (our tensor names -> shapes).

    Logs one line: how many modules fit, and which ones do not. InkstoneError when none fits.
    """
    lora, layers, misses = adapter.lora, {}, []
    if role == "model":
        _check_family(lora, layout)
    for name, layer in lora.layers(role).items():
        shape = layout.get(f"{name}.weight")
        if shape is None:
            misses.append(f"{name} (not in this model)")
        elif not _fits(layer, shape):
            misses.append(f"{name} (made for {_size(layer)}, here {list(shape)})")
        else:
            layers[name] = layer
    if role == "model" or not lora.model:
        misses += lora.unknown_modules
    fitted = FittedAdapter(adapter, layers, tuple(misses))
    if not layers:
        raise InkstoneError(_nothing(fitted, role))
    level = logging.WARNING if misses else logging.INFO
    log.log(level, "LoRA %s: %s", lora.path.name, fitted.sentence())
    return fitted


def _check_family(lora: Lora, layout: Layout) -> None:
    """Raises where a LoRA has modules of one family and the model those of another: their attention
    has the same names, and a part of a LoRA is none.
    """
    trained = model_family(lora.model)
    own = model_family(name.removesuffix(".weight") for name in layout)
    if trained and own and trained != own:
        raise InkstoneError(
            f"{lora.path}: 0 of {len(lora.model)} modules of this LoRA are applied: it was trained "
            f"for {trained}, the diffusion model is {own}. Choose a LoRA of this model."
        )


def _size(layer: LoraLayer) -> str:
    """The shape that a layer of a file was made for: "[32, 64]", or the length of a bias."""
    bias = layer.change.bias
    if layer.shape is None and bias is not None:
        return f"a bias of {bias.numel()}"
    return str(list(layer.shape or ()))


def _fits(layer: LoraLayer, shape: tuple[int, ...]) -> bool:
    bias = layer.change.bias
    return (layer.shape is None or layer.shape == shape) and (
        bias is None or bias.numel() == shape[0]
    )


def _nothing(fitted: FittedAdapter, role: str) -> str:
    lora, other = fitted.adapter.lora, "text" if role == "model" else "model"
    start = f"{lora.path}: 0 of {len(fitted.misses)} modules of this LoRA fit the {ROLES[role]}"
    if lora.layers(other) and not lora.layers(role):
        return f"{start}, it is only for the {ROLES[other]}. Connect it to that."
    return (
        f"{start} ({', '.join(fitted.misses[:5])}): it was trained for a model of another size or "
        "family. Choose a LoRA of this model."
    )


Changes = dict[str, list[tuple[float, kernels.Change]]]


def _changes(stack: Iterable[FittedAdapter]) -> Changes:
    """Layer -> (strength, change) of every adapter with an effect there."""
    changes: Changes = {}
    for fitted in stack:
        for name, layer in fitted.layers.items():
            strength = fitted.adapter.strength_at(name)
            if strength:
                changes.setdefault(name, []).append((strength, layer.change))
    return changes


def branches(
    stack: Sequence[FittedAdapter], network: nn.Module, device: torch.device, dtype: torch.dtype
) -> dict[str, Branch]:
    """Layer or norm of the network -> its branch. Those that it does not have (modulation; in
    the last block those that never reach the image) are left out.
    """
    layers = dict(network.named_modules()) if stack else {}

    def base(name: str) -> BaseLayer | None:
        layer = layers[name]
        return BaseLayer(layer) if isinstance(layer, Linear) else None

    changes = {
        n: c for n, c in _changes(stack).items() if isinstance(layers.get(n), Linear | RMSWeight)
    }
    return _branches(changes, base, device, dtype)


def _branches(
    changes: Changes,
    base: Callable[[str], kernels.Base | None],
    device: torch.device,
    dtype: torch.dtype,
) -> dict[str, Branch]:
    branches: dict[str, Branch] = {}
    for name, layer_changes in changes.items():
        branch = kernels.branch_of(layer_changes, base(name), device, dtype)
        if branch is not None:
            branches[name] = branch
    return branches


class TableBranches:
    """The branches of layers that only the modulation table reads, created on demand."""

    def __init__(self, stack: Sequence[FittedAdapter], keys: Iterable[str]) -> None:
        """keys: names of the tensors that the table reads."""
        self._keys = set(keys)
        names = {key.rpartition(".")[0] for key in self._keys}
        self.changes = {n: c for n, c in _changes(stack).items() if n in names}
        self.key = tuple(  # equal keys: equal tables
            (f.adapter.lora.serial, f.adapter.strength, f.adapter.blocks)
            for f in stack
            if self.changes.keys() & f.layers.keys()
        )

    def at(self, weights: Weights, device: torch.device) -> Mapping[str, Branch]:
        """Branches in float32, as the table is computed."""

        def base(name: str) -> InFile:
            return InFile(weights, name, f"{name}.bias" in self._keys)

        return _branches(self.changes, base, device, torch.float32)


def copied_bytes(stack: Sequence[FittedAdapter], device: torch.device, dtype: torch.dtype) -> int:
    """Bytes that the branches of a run take in addition to the tensors of the files."""
    return sum(
        kernels.copied_bytes([change for _, change in changes], device, dtype)
        for changes in _changes(stack).values()
    )


class Adaptable(Protocol):
    """A model that takes LoRAs."""

    @property
    def adapters(self) -> tuple[FittedAdapter, ...]:
        """The adapters that it has."""

    def with_loras(self: Self, adapters: Sequence[Adapter]) -> Self:
        """A light copy with these too."""


Self = TypeVar("Self")
Model = TypeVar("Model", bound=Adaptable)
Encoder = TypeVar("Encoder", bound=Adaptable)


def apply_loras(
    model: Model, text_encoder: Encoder | None, adapters: Sequence[Adapter]
) -> tuple[Model, Encoder | None, list[str]]:
    """(model, text encoder or None, one line per LoRA): each file is applied where it belongs."""
    for_model = [a for a in adapters if a.lora.model or not a.lora.text]
    for_text = [a for a in adapters if a.lora.text]
    adapted = model.with_loras(for_model) if for_model else model
    lines = [_line(f) for f in adapted.adapters[len(model.adapters) :]]
    if text_encoder is None:
        missing = [
            f"{a.lora.path.name}: {len(a.lora.text)} text encoder modules not applied: connect the "
            "text encoder"
            for a in for_text
        ]
        for line in missing:
            log.warning("LoRA %s", line)
        return adapted, None, lines + missing
    text = text_encoder.with_loras(for_text) if for_text else text_encoder
    lines += [f"{_line(f)} (text encoder)" for f in text.adapters[len(text_encoder.adapters) :]]
    return adapted, text, lines


def _line(fitted: FittedAdapter) -> str:
    return f"{fitted.adapter.lora.path.name}: {fitted.sentence()}"
