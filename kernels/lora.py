"""LoRA as a side branch of a linear layer: y = W x + s dW x, whatever the storage of W.

`Change` is all that one file does to a layer (its dW is a `Delta`, see lora_delta.py); `branch_of`
joins the changes of several LoRAs into the one `Branch` of a run, with the plain ones concatenated
into a single pair of products. Base weights are never changed, so removing a LoRA leaves no trace.

DoRA files come in two conventions, detected by the shape of the magnitudes: one per output row,
[N] or [N,1], over the norms of the rows of W + dW (PEFT, LyCORIS with wd_on_out), or one per input
column, [1,K], over the norms of its columns (the LyCORIS default). Both are exact here; ComfyUI
divides the first by the norms of W alone.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .linear import Linear, packed_product, product
from .lora_delta import Delta, LowRank, tensors_of
from .modulation import Weights, plain
from .norm import RMSWeight

Branch = Callable[[Tensor, Tensor], Tensor]
"""(x [...,K], y [...,N]) -> y [...,N]; without gradients y may be changed in place."""


class Base(Protocol):
    """The layer that a branch belongs to. Only DoRA reads it, while the layer runs."""

    @property
    def bias(self) -> Tensor | None:
        """[N]."""

    def dequantize(self) -> Tensor:
        """The plain weight [N,K], float32."""

    def product(self, x: Tensor) -> Tensor:
        """x [...,K] -> W x [...,N], without the bias."""


@dataclass(frozen=True, eq=False)
class Change:
    """All that one file does to one linear layer or norm, at strength 1."""

    delta: Delta | None = None
    magnitude: Tensor | None = None  # DoRA: [N], [N,1] or [1,K]
    bias: Tensor | None = None  # [N], added to the layer's: `.diff_b`; to a norm's weight: `.diff`
    _gains: weakref.WeakKeyDictionary[Linear, Tensor] = field(
        default_factory=weakref.WeakKeyDictionary, repr=False
    )

    def gain(self, base: Base) -> Tensor:
        """DoRA's magnitude / norm of W + dW, float32 [N] or [1,K]. Cached as long as the layer
        lives: it costs one unpacking of the weight.
        """
        assert self.delta is not None and self.magnitude is not None, "only DoRA has a gain"
        key = base.linear if isinstance(base, BaseLayer) else None
        if key is not None and key in self._gains:
            return self._gains[key]
        weight = base.dequantize()
        whole = weight + self.delta.dense().to(weight.device)
        by_column = self.magnitude.dim() == 2 and self.magnitude.shape[0] == 1 < whole.shape[0]
        norm = whole.norm(dim=0, keepdim=True) if by_column else whole.norm(dim=1)
        size = self.magnitude.to(weight.device, torch.float32).reshape(norm.shape)
        gain = torch.where(norm > 0, size / norm, torch.ones_like(norm))
        if key is not None:
            self._gains[key] = gain
        return gain


@dataclass(frozen=True, eq=False)
class BaseLayer:
    """A layer of a network as the base of a branch. Only valid while the layer runs: its weights
    may be evicted in between."""

    linear: Linear

    @property
    def bias(self) -> Tensor | None:
        return self.linear.bias

    def dequantize(self) -> Tensor:
        return self.linear.dequantize()

    def product(self, x: Tensor) -> Tensor:
        if self.linear.storage is None:
            return product(x, self.linear.weight)
        return packed_product(x, self.linear.storage)


@dataclass(frozen=True, eq=False)
class InFile:
    """A layer that is part of no network (modulation): its weights are read lazily by name."""

    weights: Weights
    name: str
    biased: bool = True

    @property
    def bias(self) -> Tensor | None:
        return plain(self.weights, f"{self.name}.bias") if self.biased else None

    def dequantize(self) -> Tensor:
        return plain(self.weights, f"{self.name}.weight")

    def product(self, x: Tensor) -> Tensor:
        return F.linear(x, self.dequantize())


class _Stacked:
    """The plain LoRAs of a layer: y += up (scales * down x), one pair of products for all."""

    def __init__(
        self, parts: Sequence[tuple[float, LowRank]], device: torch.device, dtype: torch.dtype
    ) -> None:
        loras = [(strength * lora.scale, lora.to(device, dtype)) for strength, lora in parts]
        downs, ups = [lora.down for _, lora in loras], [lora.up for _, lora in loras]
        self.down = downs[0] if len(loras) == 1 else torch.cat(downs)  # [R,K]
        self.up = ups[0] if len(loras) == 1 else torch.cat(ups, dim=1)  # [N,R]
        self.scales = torch.cat(  # float32: in half types a strength itself would be rounded
            [torch.full((len(lora.down),), scale, device=device) for scale, lora in loras]
        )

    def __call__(self, x: Tensor, y: Tensor) -> Tensor:
        h = (product(x, self.down) * self.scales).to(y.dtype)  # [...,R]
        if torch.is_grad_enabled() or not y.is_contiguous():
            return y + F.linear(h, self.up)
        y.view(-1, y.shape[-1]).addmm_(h.view(-1, h.shape[-1]), self.up.T)
        return y


class _Added:
    """strength * dW x, of any kind of delta."""

    def __init__(self, strength: float, delta: Delta) -> None:
        self.strength, self.delta = strength, delta

    def __call__(self, x: Tensor, y: Tensor) -> Tensor:
        return self.delta.apply(x) * self.strength


class _Decomposed:
    """DoRA: strength * (W' - W) x, where W' = W + dW with its rows or columns set to a length."""

    def __init__(self, strength: float, change: Change, delta: Delta, base: Base) -> None:
        self.strength, self.change, self.delta, self.base = strength, change, delta, base

    def __call__(self, x: Tensor, y: Tensor) -> Tensor:
        gain = self.change.gain(self.base)
        if gain.dim() == 2:  # per column: W' x = (W + dW) (gain * x)
            scaled = self.base.product(x * (gain[0] - 1).to(x.dtype))
            return (scaled + self.delta.apply(x * gain[0].to(x.dtype))) * self.strength
        without_bias = y if self.base.bias is None else y - self.base.bias.to(y.dtype)
        scaled = without_bias * (gain - 1).to(y.dtype)
        return (scaled + self.delta.apply(x) * gain.to(y.dtype)) * self.strength


class _Shifted:
    """The sum of all changes of the bias, strength included."""

    def __init__(self, bias: Tensor) -> None:
        self.bias = bias

    def __call__(self, x: Tensor, y: Tensor) -> Tensor:
        return self.bias.to(y.dtype)


class _Side:
    """Several parts as one branch; each part is computed from the layer's own y."""

    def __init__(self, parts: Sequence[Branch], stacked: _Stacked | None) -> None:
        self.parts, self.stacked = tuple(parts), stacked

    def __call__(self, x: Tensor, y: Tensor) -> Tensor:
        terms = [part(x, y) for part in self.parts]
        if self.stacked is not None:
            y = self.stacked(x, y)
        for term in terms:
            y = y + term
        return y


def branch_of(
    changes: Sequence[tuple[float, Change]],
    base: Base | None,
    device: torch.device,
    dtype: torch.dtype,
) -> Branch | None:
    """One branch for (strength, change) of every LoRA on a layer; None where all strengths are 0.
    base: None for a norm, whose weight [N] is y.

    LoRAs add up: each is relative to the layer itself, DoRA too.
    """
    active = [(strength, change) for strength, change in changes if strength]
    parts: list[Branch] = []
    low_rank: list[tuple[float, LowRank]] = []
    for strength, change in active:
        if change.magnitude is not None:
            assert change.delta is not None and base is not None, "a magnitude scales a delta"
            parts.append(_Decomposed(strength, change, change.delta.to(device, dtype), base))
        elif isinstance(change.delta, LowRank):
            low_rank.append((strength, change.delta))
        elif change.delta is not None:
            parts.append(_Added(strength, change.delta.to(device, dtype)))
    biases = [s * c.bias.to(device, torch.float32) for s, c in active if c.bias is not None]
    if biases:
        parts.append(_Shifted(torch.stack(biases).sum(0)))
    stacked = _Stacked(low_rank, device, dtype) if low_rank else None
    return _Side(parts, stacked) if parts else stacked


def copied_bytes(changes: Sequence[Change], device: torch.device, dtype: torch.dtype) -> int:
    """Bytes that the branch of one layer takes in addition to the LoRAs' own tensors."""
    return sum(
        t.numel() * dtype.itemsize
        for change in changes
        for t in (*tensors_of(change.delta), change.magnitude, change.bias)
        if t is not None and (len(changes) > 1 or t.dtype != dtype or t.device != device)
    )


@contextmanager
def attached(network: nn.Module, branches: Mapping[str, Branch]) -> Iterator[None]:
    """Within the block the named layers and norms have these branches; they are removed on every
    way out.

    Runs of one network that have LoRAs must not overlap in time (ComfyUI has one worker).
    """
    layers: list[tuple[Linear | RMSWeight, Branch]] = []
    for name, branch in branches.items():
        layer = network.get_submodule(name)
        assert isinstance(layer, Linear | RMSWeight), f"{name} is no linear layer or norm"
        layers.append((layer, branch))
    before = [(layer, layer.branches) for layer, _ in layers]
    try:
        for layer, branch in layers:
            layer.branches = (*layer.branches, branch)
        yield
    finally:
        for layer, original in before:
            layer.branches = original
