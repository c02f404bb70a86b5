"""The second form of weights that products of few tokens use, next to the layers that own them.

`FewTokenForms` is a network of its own, so that its memory is placed, counted and freed like that
of every network; `used` lends its weights to the layers for the time of an answer. Products of more
tokens, and layers without a form in memory, go the usual way.
"""

from __future__ import annotations

import platform
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache

import torch
from torch import nn

from ..quant.few_tokens import FewTokenStorage, HalfStorage, NibbleStorage
from ..quant.storage import Storage
from .block_streaming import BlockStream
from .linear import Linear


class FewTokenForm(nn.Module):
    """The form of one weight; `weight` on the meta device is its empty slot."""

    def __init__(self, shape: tuple[int, int]) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(shape, device="meta"), requires_grad=False)
        self.register_module("storage", None)

    def hold(self, storage: Storage | None) -> None:
        """Sets the form; None frees it."""
        self._parameters["weight"] = None
        self.storage = storage

    @property
    def form(self) -> FewTokenStorage | None:
        """The form, where it is in memory."""
        return self.storage if isinstance(self.storage, NibbleStorage | HalfStorage) else None


class FewTokenForms(nn.Module):
    """Forms of the weights of layers."""

    def __init__(self, layers: Mapping[str, Linear]) -> None:
        super().__init__()
        self.names, self._layers = tuple(layers), tuple(layers.values())
        self.forms = nn.ModuleList(
            FewTokenForm((linear.out_features, linear.in_features)) for linear in self._layers
        )
        self.stream: BlockStream | None = None

    @contextmanager
    def used(self) -> Iterator[None]:
        """Within the block the layers multiply few tokens by their forms."""
        try:
            for layer, form in zip(self._layers, self.forms):
                assert isinstance(form, FewTokenForm)
                layer.few = None if form.form is None else form.form.product
            yield
        finally:
            for layer in self._layers:
                layer.few = None


@cache
def few_tokens_reason(device: torch.device, dtype: torch.dtype) -> str:
    """ "" where forms are of use; otherwise why not."""
    if device.type != "cpu":
        return f"{device.type} multiplies packed weights itself"
    if dtype != torch.bfloat16:
        return f"computed in {str(dtype).removeprefix('torch.')}, forms are for bfloat16"
    if platform.machine().lower() not in ("x86_64", "amd64"):
        return f"{platform.machine()} is not x86"
    try:
        codes = torch._convert_weight_to_int4pack_for_cpu(torch.full((64, 32), 9).int(), 1)
        scales = torch.tensor([2.0, 1.0], dtype=dtype).expand(1, 64, 2).contiguous()
        x = torch.ones(1, 32, dtype=dtype)
        same = bool((torch._weight_int4pack_mm_for_cpu(x, codes, 32, scales) == 96).all())
    except (AttributeError, NotImplementedError, RuntimeError) as error:
        return f"this torch has no 4-bit product ({type(error).__name__})"
    return "" if same else "torch's 4-bit product failed its check"
