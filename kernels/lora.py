"""LoRA beside a linear layer: y = W x + s dW x, whatever W is stored as.

`Change` is all that one file does to a layer (its dW is a `Delta`, see lora_delta.py); `branch_of`
joins the changes of several LoRAs into the one `Branch` of a run, with the plain ones concatenated
into a single pair of products. Base weights are never touched, so leaving a LoRA out leaves no
trace.

DoRA files come in two conventions, told apart by the shape of the magnitudes: one per output row,
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

from ..quant.storage import Storage
from .linear import Linear, packed_product, product
from .lora_delta import Delta, LowRank, tensors_of

Branch = Callable[[Tensor, Tensor], Tensor]
"""(x [...,K], y [...,N]) -> y [...,N]; y may be changed in place where no gradient is wanted."""


class Base(Protocol):
    """The layer that a branch stands beside; DoRA alone asks for it, while the layer works."""

    @property
    def bias(self) -> Tensor | None:
        """[N]."""

    def dequantize(self) -> Tensor:
        """The plain weight [N,K], float32."""

    def product(self, x: Tensor) -> Tensor:
        """x [...,K] -> W x [...,N], without the bias."""


@dataclass(frozen=True, eq=False)
class Change:
    """All that one file does to one linear layer, at strength 1."""

    delta: Delta | None = None
    magnitude: Tensor | None = None  # DoRA: [N], [N,1] or [1,K]
    bias: Tensor | None = None  # [N], added to the layer's: `.diff_b`
    _gains: weakref.WeakKeyDictionary = field(default_factory=weakref.WeakKeyDictionary, repr=False)

    def gain(self, base: Base) -> Tensor:
        """DoRA's magnitude / norm of W + dW, float32 [N] or [1,K]. Kept as long as the layer is:
        it costs one unpacking of the weight.
        """
        key = getattr(base, "linear", None)
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
    """A layer of a network as the base of a branch. It is asked only while the layer works: its
    weights may come and go.
    """

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
    """A layer that no network holds (modulation): its weights are read by name when asked for."""

    weights: Callable[[str], Tensor | Storage]
    name: str

    @property
    def bias(self) -> Tensor | None:
        return self.weights(f"{self.name}.bias").float()

    def dequantize(self) -> Tensor:
        weight = self.weights(f"{self.name}.weight")
        return weight.dequantize() if isinstance(weight, Storage) else weight.float()

    def product(self, x: Tensor) -> Tensor:
        return F.linear(x, self.dequantize())


class _Stacked:
    """The plain LoRAs of a layer: y += up (scales * down x), one pair of products for all."""

    def __init__(
        self, parts: Sequence[tuple[float, LowRank]], device: torch.device, dtype: torch.dtype
    ) -> None:
        ready = [(strength * lora.scale, lora.to(device, dtype)) for strength, lora in parts]
        downs, ups = [lora.down for _, lora in ready], [lora.up for _, lora in ready]
        self.down = downs[0] if len(ready) == 1 else torch.cat(downs)  # [R,K]
        self.up = ups[0] if len(ready) == 1 else torch.cat(ups, dim=1)  # [N,R]
        self.scales = torch.cat(  # float32: in half types a strength itself would be rounded
            [torch.full((len(lora.down),), scale, device=device) for scale, lora in ready]
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

    def __init__(self, strength: float, change: Change, ready: Delta, base: Base) -> None:
        self.strength, self.change, self.ready, self.base = strength, change, ready, base

    def __call__(self, x: Tensor, y: Tensor) -> Tensor:
        gain = self.change.gain(self.base)
        if gain.dim() == 2:  # per column: W' x = (W + dW) (gain * x)
            turned = self.base.product(x * (gain[0] - 1).to(x.dtype))
            return (turned + self.ready.apply(x * gain[0].to(x.dtype))) * self.strength
        plain = y if self.base.bias is None else y - self.base.bias.to(y.dtype)
        turned = plain * (gain - 1).to(y.dtype)
        return (turned + self.ready.apply(x) * gain.to(y.dtype)) * self.strength


class _Shifted:
    """What is added to the bias, strength included."""

    def __init__(self, bias: Tensor) -> None:
        self.bias = bias

    def __call__(self, x: Tensor, y: Tensor) -> Tensor:
        return self.bias.to(y.dtype)


class _Side:
    """Several parts as one branch; each part is computed beside the layer's own y."""

    def __init__(self, parts: Sequence[Branch], stacked: _Stacked | None) -> None:
        self.parts, self.stacked = tuple(parts), stacked

    def __call__(self, x: Tensor, y: Tensor) -> Tensor:
        more = [part(x, y) for part in self.parts]
        if self.stacked is not None:
            y = self.stacked(x, y)
        for term in more:
            y = y + term
        return y


def branch_of(
    changes: Sequence[tuple[float, Change]], base: Base, device: torch.device, dtype: torch.dtype
) -> Branch | None:
    """One branch for (strength, change) of every LoRA on a layer; None where no strength is left.

    LoRAs add up: each is taken relative to the layer itself, DoRA too.
    """
    live = [(s, change) for s, change in changes if s]
    parts: list[Branch] = []
    plain: list[tuple[float, LowRank]] = []
    for strength, change in live:
        if change.magnitude is not None:
            ready = change.delta.to(device, dtype)
            parts.append(_Decomposed(strength, change, ready, base))
        elif isinstance(change.delta, LowRank):
            plain.append((strength, change.delta))
        elif change.delta is not None:
            parts.append(_Added(strength, change.delta.to(device, dtype)))
    biases = [s * c.bias.to(device, torch.float32) for s, c in live if c.bias is not None]
    if biases:
        parts.append(_Shifted(torch.stack(biases).sum(0)))
    stacked = _Stacked(plain, device, dtype) if plain else None
    return _Side(parts, stacked) if parts else stacked


def copied_bytes(changes: Sequence[Change], device: torch.device, dtype: torch.dtype) -> int:
    """Bytes that the branch of one layer takes beside what the LoRAs themselves hold."""
    return sum(
        t.numel() * dtype.itemsize
        for change in changes
        for t in (*tensors_of(change.delta), change.magnitude, change.bias)
        if t is not None and (len(changes) > 1 or t.dtype != dtype or t.device != device)
    )


@contextmanager
def attached(network: nn.Module, branches: Mapping[str, Branch]) -> Iterator[None]:
    """Within the block the named layers have these branches; after it, whatever happens, not.

    Runs of one network that have LoRAs must not overlap in time (ComfyUI has one worker).
    """
    layers = [(network.get_submodule(name), branch) for name, branch in branches.items()]
    before = [(layer, layer.branches) for layer, _ in layers]
    try:
        for layer, branch in layers:
            layer.branches = (*layer.branches, branch)
        yield
    finally:
        for layer, kept in before:
            layer.branches = kept
