"""Products with weights that are not trained: gradients go to the inputs only.

torch's own linear would keep a weight for the backward pass, which a packed one has not: here the
layer is kept, and its weight is unpacked again when the gradient arrives. Neither x nor y is kept.
So where a block is computed again for its gradients (`again`), the values of its last product are
not needed, and it is left out.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor

from ..quant.storage import Storage
from .spread import spread

_PIECE = 1 << 20  # weights that a thread unpacks at a time
_again: ContextVar[bool] = ContextVar("inkstone_again", default=False)

Products = Callable[[Sequence[Tensor]], list[Tensor]]


class Weighted(Protocol):
    """A layer with a weight [N,K], packed or not."""

    @property
    def weight(self) -> Tensor: ...

    @property
    def bias(self) -> Tensor | None: ...

    @property
    def storage(self) -> Storage | None: ...

    @property
    def ends_block(self) -> bool:
        """Its values reach nothing but the block's output."""

    @property
    def out_features(self) -> int: ...


def passes_gradients(layer: Weighted, xs: Sequence[Tensor]) -> bool:
    """True where gradients go through a layer to an x, and its own weight is not trained."""
    if not torch.is_grad_enabled() or not any(x.requires_grad for x in xs):
        return False
    own = (layer.bias, None if layer.storage is not None else layer.weight)
    return not any(weight is not None and weight.requires_grad for weight in own)


class _Buffers:
    """A backward pass: its buffer for unpacked weights, whose pages would cost more to get anew for
    each than unpacking does."""

    def __init__(self) -> None:
        self._buffer: Tensor | None = None

    def of(self, rows: int, width: int, dtype: torch.dtype) -> Tensor:
        """[rows, width] on the CPU, with numbers of earlier ones."""
        buffer, count = self._buffer, rows * width
        if buffer is None or buffer.dtype != dtype or buffer.numel() < count:
            self._buffer = buffer = torch.empty(count, dtype=dtype)
        return buffer[:count].view(rows, width)


_buffers: ContextVar[_Buffers | None] = ContextVar("inkstone_buffers", default=None)


@contextmanager
def again() -> Iterator[None]:
    """Within the block another one is computed for its gradients, and nobody reads its output."""
    token = _again.set(True)
    try:
        yield
    finally:
        _again.reset(token)


@contextmanager
def backward_pass() -> Iterator[None]:
    """Within the block one network's gradients are computed, in this thread."""
    token = _buffers.set(_Buffers())
    try:
        yield
    finally:
        _buffers.reset(token)


class _Frozen(torch.autograd.Function):
    """y = W x + b of several x at once, and dx = W^T dy."""

    @staticmethod
    def forward(ctx: Any, layer: Weighted, products: Products, *xs: Tensor) -> tuple[Tensor, ...]:
        ctx.layer = layer
        ctx.set_materialize_grads(False)
        return tuple(products(xs))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        given = next((grad for grad in grads if grad is not None), None)
        if given is None:
            return None, None, *grads
        weight = _unpacked(ctx.layer, given.dtype)
        back = [None if grad is None else torch.matmul(grad, weight) for grad in grads]
        return None, None, *back


def _unpacked(layer: Weighted, dtype: torch.dtype) -> Tensor:
    """The weight [N,K] in this type; on a CPU pieces of it are unpacked on all threads."""
    storage = layer.storage
    if storage is None:
        return layer.weight.to(dtype)
    device = next(storage.buffers()).device
    if device.type != "cpu" or not storage.compiled(dtype):
        return storage.dequantize(dtype)
    rows, width = storage.shape
    buffers = _buffers.get()
    out = (
        torch.empty(rows, width, dtype=dtype) if buffers is None else buffers.of(rows, width, dtype)
    )
    step = max(1, _PIECE // width)

    def unpack(index: int) -> None:
        storage.rows_into(index * step, out[index * step : (index + 1) * step])

    spread(unpack, math.ceil(rows / step))
    return out


def frozen_products(layer: Weighted, products: Products, xs: Sequence[Tensor]) -> list[Tensor]:
    """products(xs), through which gradients flow to each x [...,K] but to no weight.

    layer: its weight must be in place when the gradient arrives, as it is now.
    """
    if layer.ends_block and _again.get():
        products = partial(_unread, layer.out_features)
    return list(_Frozen.apply(layer, products, *xs))


def _unread(width: int, xs: Sequence[Tensor]) -> list[Tensor]:
    """Products whose values nobody reads."""
    return [x.new_zeros(()).expand(*x.shape[:-1], width) for x in xs]
