"""The second form of a network's packed weights, with which answers are written token by token.

It is made from the packed weights when there is room for it in addition to everything else, and
leaves like any other weights. Where there is none, tokens are written with the packed weights, more
slowly.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import nn

from ...kernels.few_tokens import FewTokenForm, FewTokenForms, few_tokens_reason
from ...kernels.linear import Linear
from ...quant.few_tokens import few_token_form, form_bytes
from ...quant.storage import PackedWeight, Storage
from ..memory.param_slots import ParamSlot
from ..memory.residency import FreeMemory, Residency, free_after_asking


@dataclass(frozen=True)
class FormOptions:
    """Where and in which type a network computes."""

    dtype: torch.dtype
    device: torch.device
    free: FreeMemory = free_after_asking


@dataclass(frozen=True)
class LoadedForms:
    """The forms of a network and their memory."""

    network: FewTokenForms
    weights: Residency = field(repr=False)


def forms_of(
    network: nn.Module, packed: Mapping[str, PackedWeight], options: FormOptions
) -> LoadedForms | None:
    """The forms of the layers whose weights are packed, nothing read; None where they are of no
    use."""
    layers = {
        name: layer
        for name, layer in network.named_modules()
        if isinstance(layer, Linear) and f"{name}.weight" in packed
    }
    if not layers or few_tokens_reason(options.device, options.dtype):
        return None
    forms = FewTokenForms(layers)
    slots = [
        _slot(form, layer, packed[f"{name}.weight"])
        for (name, layer), form in zip(layers.items(), forms.forms)
    ]
    weights = Residency(forms, slots, options.device, nn.ModuleList())
    weights.free = options.free
    return LoadedForms(forms, weights)


def _slot(form: nn.Module, layer: Linear, weight: PackedWeight) -> ParamSlot:
    assert isinstance(form, FewTokenForm)
    return ParamSlot(
        module=form,
        leaf="weight",
        nbytes=form_bytes(weight),
        read=partial(few_token_form, partial(_storage, layer, weight)),
        blank=form.weight,
    )


def _storage(layer: Linear, weight: PackedWeight) -> Storage:
    """The packed weight: that of the layer where it is in memory, so that none is there twice."""
    held = layer.storage
    return held if isinstance(held, Storage) else weight.load()
