"""LoRAs on a model: what of each file fits it, with which strength, and the branches of a run.

A model with LoRAs is a light copy that shares its network with the model without them. The branches
stand on the network only while a run of that copy lasts, so two wires of a graph never meet.
"""

from __future__ import annotations

import functools
import logging
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from ...errors import InkstoneError
from ...kernels import lora as kernels
from ...kernels.linear import Linear
from ...kernels.lora import BaseLayer, Branch, InFile
from ...kernels.modulation import Weights
from ...sampling.lightning import Distilled
from ...sampling.schedule import LIGHTNING, Schedule
from ..arch.expected_tensors import Layout
from .file import Lora
from .layer import LoraLayer

log = logging.getLogger(__name__)

MOST = 100.0  # the largest strength, either sign
ROLES = {"model": "diffusion model", "text": "text encoder"}
_RANGE = re.compile(r"\s*(\d+)\s*(?:-\s*(\d+)\s*)?:\s*([+-]?(?:\d+\.?\d*|\.\d+))\s*")
_BLOCK = re.compile(r"transformer_blocks\.(\d+)\.")


def parse_blocks(spec: str) -> tuple[tuple[int, int, float], ...]:
    """ "0-19:0.5,20-59:1.0" -> ((0, 19, 0.5), (20, 59, 1.0)): factors of the strength."""
    ranges = []
    for text in filter(str.strip, spec.split(",")):
        found = _RANGE.fullmatch(text)
        first, last = (int(found[1]), int(found[2] or found[1])) if found else (1, 0)
        if first > last:
            raise InkstoneError(
                f"The block strengths {spec!r} cannot be read at {text.strip()!r}: expected ranges "
                "of blocks with a factor each, such as 0-19:0.5,20-59:1.0."
            )
        ranges.append((first, last, float(found[3])))
    return tuple(ranges)


@dataclass(frozen=True, eq=False)
class Adapter:
    """One file with the strength it is asked for. `blocks` scales it per range of blocks, e.g.
    "0-19:0.5,20-59:1.0"; the last range that names a block counts, blocks that none names keep 1.
    """

    lora: Lora
    strength: float = 1.0
    blocks: str = ""

    def __post_init__(self) -> None:
        if not (math.isfinite(self.strength) and abs(self.strength) <= MOST):
            raise InkstoneError(
                f"The strength of LoRA {self.lora.path.name} is {self.strength}: expected a number "
                f"from {-MOST:g} to {MOST:g}, usually 1."
            )
        parse_blocks(self.blocks)

    @functools.cached_property
    def ranges(self) -> tuple[tuple[int, int, float], ...]:
        """The block factors."""
        return parse_blocks(self.blocks)

    def strength_at(self, module: str) -> float:
        """The strength at a layer of ours; layers outside of the blocks have the whole one."""
        found = _BLOCK.match(module)
        factor = 1.0
        for first, last, value in self.ranges if found else ():
            if first <= int(found[1]) <= last:
                factor = value
        return self.strength * factor


@dataclass(frozen=True, eq=False)
class Fitted:
    """An adapter on a model of known shapes: the layers that fit, and what does not, in words."""

    adapter: Adapter
    layers: Mapping[str, LoraLayer]
    misses: tuple[str, ...]

    @property
    def distilled(self) -> Distilled | None:
        """Set where the LoRA is a distilled one and takes part."""
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


def fit(adapter: Adapter, role: str, layout: Layout) -> Fitted:
    """What of a file fits a network with this layout (our tensor names -> shapes).

    Logs one line: how many modules, or which ones miss. InkstoneError when none fits.
    """
    lora, good, misses = adapter.lora, {}, []
    for name, layer in lora.layers(role).items():
        wanted = layout.get(f"{name}.weight")
        if wanted is None:
            misses.append(f"{name} (not in this model)")
        elif not _fits(layer, wanted):
            misses.append(f"{name} (made for {list(layer.shape or ())}, here {list(wanted)})")
        else:
            good[name] = layer
    if role == "model" or not lora.model:
        misses += lora.strangers
    fitted = Fitted(adapter, good, tuple(misses))
    if not good:
        raise InkstoneError(_nothing(fitted, role))
    level = logging.WARNING if misses else logging.INFO
    log.log(level, "LoRA %s: %s", lora.path.name, fitted.sentence())
    return fitted


def _fits(layer: LoraLayer, wanted: tuple[int, ...]) -> bool:
    bias = layer.change.bias
    return (layer.shape is None or layer.shape == wanted) and (
        bias is None or bias.numel() == wanted[0]
    )


def _nothing(fitted: Fitted, role: str) -> str:
    lora, other = fitted.adapter.lora, "text" if role == "model" else "model"
    start = f"{lora.path}: 0 of {len(fitted.misses)} modules of this LoRA fit the {ROLES[role]}"
    if lora.layers(other) and not lora.layers(role):
        return f"{start}, it is for the {ROLES[other]} alone. Connect it to that."
    return (
        f"{start} ({', '.join(fitted.misses[:5])}): it was trained for a model of another size or "
        "family. Choose a LoRA of this model."
    )


Changes = dict[str, list[tuple[float, kernels.Change]]]


def _changes(stack: Iterable[Fitted]) -> Changes:
    """Layer -> (strength, change) of every adapter that takes part there."""
    found: Changes = {}
    for fitted in stack:
        for name, layer in fitted.layers.items():
            strength = fitted.adapter.strength_at(name)
            if strength:
                found.setdefault(name, []).append((strength, layer.change))
    return found


def branches(
    stack: Sequence[Fitted], network: nn.Module, device: torch.device, dtype: torch.dtype
) -> dict[str, Branch]:
    """Layer of the network -> its branch. Layers it does not hold (modulation; in the last block
    what never reaches the picture) are left out.
    """
    held = {n: m for n, m in network.named_modules() if isinstance(m, Linear)} if stack else {}
    return {
        name: kernels.branch_of(changes, BaseLayer(held[name]), device, dtype)
        for name, changes in _changes(stack).items()
        if name in held
    }


class TableBranches:
    """The branches of layers that only the modulation table reads, made when it asks for them."""

    def __init__(self, stack: Sequence[Fitted], names: Iterable[str]) -> None:
        names = set(names)
        self.changes = {n: c for n, c in _changes(stack).items() if n in names}
        self.key = tuple(  # equal keys: equal tables
            (f.adapter.lora.serial, f.adapter.strength, f.adapter.blocks)
            for f in stack
            if self.changes.keys() & f.layers.keys()
        )

    def at(self, weights: Weights, device: torch.device) -> Mapping[str, Branch]:
        """Branches in float32, as the table is computed."""
        return {
            name: kernels.branch_of(changes, InFile(weights, name), device, torch.float32)
            for name, changes in self.changes.items()
        }


def copied_bytes(stack: Sequence[Fitted], device: torch.device, dtype: torch.dtype) -> int:
    """Bytes that the branches of a run take beside what the files themselves hold."""
    return sum(
        kernels.copied_bytes([change for _, change in found], device, dtype)
        for found in _changes(stack).values()
    )


def schedule_with(stack: Sequence[Fitted], own: Schedule, usual: Schedule) -> Schedule:
    """A distilled LoRA brings its schedule, as a merged model's folder does.

    own: the schedule of the model as loaded; usual: that of its family.
    """
    distilled = [f for f in stack if f.distilled]
    if not distilled:
        return own
    if own == LIGHTNING != usual:
        log.warning(
            "the model is a merged Lightning one by its own scheduler: LoRA %s, distilled too, was "
            "not made to go on top",
            distilled[-1].adapter.lora.path.name,
        )
    if len(distilled) > 1:
        log.warning(
            "%d distilled LoRAs at once (%s): each was made to work alone",
            len(distilled),
            ", ".join(f.adapter.lora.path.name for f in distilled),
        )
    if own != LIGHTNING:
        log.info(
            "LoRA %s is %s (%s): the model's own schedule is Lightning's now",
            distilled[-1].adapter.lora.path.name,
            distilled[-1].distilled.words(),
            distilled[-1].distilled.why,
        )
    return LIGHTNING


def warn_of_fp8(stack: Sequence[Fitted], weights_format: str) -> None:
    """Plain-cast fp8 moves the weights that a distilled LoRA was fitted to: a grid pattern."""
    plain = "float8" in weights_format or re.search(r"fp8 \w+ plain", weights_format)
    if plain and any(f.distilled for f in stack):
        log.warning(
            "a distilled LoRA on unscaled fp8 weights (%s) gives a grid pattern: use a scaled fp8, "
            "GGUF or bf16 file of the model",
            weights_format,
        )


def dress(model: Any, text_encoder: Any, adapters: Sequence[Adapter]) -> tuple[Any, Any, list[str]]:
    """(model, text encoder or None, one line per LoRA): each file goes to what it is for."""
    for_model = [a for a in adapters if a.lora.model or not a.lora.text]
    for_text = [a for a in adapters if a.lora.text]
    dressed = model.with_loras(for_model) if for_model else model
    lines = [_line(f) for f in dressed.adapters[len(model.adapters) :]]
    if text_encoder is None:
        lines += [
            f"{a.lora.path.name}: {len(a.lora.text)} text encoder modules not applied: connect the "
            "text encoder"
            for a in for_text
        ]
        for line in lines[len(lines) - len(for_text) :]:
            log.warning("LoRA %s", line)
        return dressed, None, lines
    text = text_encoder.with_loras(for_text) if for_text else text_encoder
    lines += [f"{_line(f)} (text encoder)" for f in text.adapters[len(text_encoder.adapters) :]]
    return dressed, text, lines


def _line(fitted: Fitted) -> str:
    return f"{fitted.adapter.lora.path.name}: {fitted.sentence()}"
