"""Denoising with controls of every kind: what the Denoise node calls.

A control that runs next to the model goes into the request; an in-context control is a LoRA on the
model plus a map among its tokens. Callers hand over both kinds and cannot forget either.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from ..sampling.request import NO_HOOKS, Control, Hooks, Request
from ..sampling.sampler import denoise
from .in_context import InContext, apply_in_context_loras

if TYPE_CHECKING:
    from torch import Tensor

    from ..loaders.models.diffusion_model import DiffusionModel


def denoise_with_controls(
    model: DiffusionModel,
    positive: Tensor,
    negative: Tensor | None,
    request: Request,
    controls: Sequence[Control | InContext],
    hooks: Hooks = NO_HOOKS,
) -> Tensor:
    """`sampling.sampler.denoise` for a request without controls, and its controls."""
    adapted, branches, context = apply_in_context_loras(model, controls)
    complete = replace(request, controls=branches, context=context)
    return denoise(adapted, positive, negative, complete, hooks)
