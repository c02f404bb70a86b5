"""Stand-ins for ComfyUI's nodes of latents and conditioning."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...host.api import io
from ..node_types import Value
from .factory import by_name, conditioning_output, latent_output, node, number, side

if TYPE_CHECKING:
    from torch import Tensor

Latent = dict[str, Value]  # {"samples": [B,C,H,W], and what other nodes add}
Conditioning = list[tuple["Tensor", dict[str, Value]]]


def empty_latent(width: int, height: int, batch_size: int = 1) -> Latent:
    """Zero latents [B,4,H/8,W/8]; a model of 16 channels accepts them as its own."""
    import torch

    return {"samples": torch.zeros(batch_size, 4, height // 8, width // 8)}


def empty_sd3_latent(width: int, height: int, batch_size: int = 1) -> Latent:
    """Zero latents [B,16,H/8,W/8]."""
    import torch

    return {"samples": torch.zeros(batch_size, 16, height // 8, width // 8)}


def repeat_latent(samples: Latent, amount: int) -> Latent:
    """Repeat the batch, with its noise masks and numbers."""
    import torch

    latent, count = dict(samples), len(samples["samples"])

    def times(value: Tensor) -> Tensor:
        return value.repeat(amount, *[1] * (value.ndim - 1))

    latent["samples"] = times(samples["samples"])
    mask = samples.get("noise_mask")
    if mask is not None and len(mask) > 1:
        latent["noise_mask"] = times(mask[torch.arange(count) % len(mask)])
    if "batch_index" in samples:
        numbers = samples["batch_index"]
        step = max(numbers) - min(numbers) + 1
        latent["batch_index"] = [n + step * k for k in range(amount) for n in numbers]
    return latent


def take_latent(samples: Latent, batch_index: int, length: int) -> Latent:
    """Take a part of the batch; each latent keeps the number that seeds its noise."""
    import torch

    latent, count = dict(samples), len(samples["samples"])
    start = min(batch_index, count - 1)
    part = slice(start, start + length)
    latent["samples"] = samples["samples"][part].clone()
    mask = samples.get("noise_mask")
    if mask is not None:
        latent["noise_mask"] = mask[torch.arange(count) % len(mask)][part].clone()
    numbers = samples.get("batch_index") or list(range(count))
    latent["batch_index"] = numbers[part]
    return latent


def set_noise_mask(samples: Latent, mask: Tensor) -> Latent:
    """Sample only the masked part of a latent."""
    return {**samples, "noise_mask": mask.reshape(-1, 1, *mask.shape[-2:])}


def add_reference(conditioning: Conditioning, latent: Latent | None = None) -> Value:
    """Add a reference image to the conditioning."""
    if latent is None:
        return conditioning
    return [
        [
            states,
            options
            | {"reference_latents": [*options.get("reference_latents", []), latent["samples"]]},
        ]
        for states, options in conditioning
    ]


def zero_out(conditioning: Conditioning) -> Value:
    """Replace the conditioning by zeros."""
    zeros = []
    for states, options in conditioning:
        pooled = options.get("pooled_output")
        more = {} if pooled is None else {"pooled_output": pooled * 0}
        zeros.append([states * 0, options | more])
    return zeros


def combine(conditioning_1: Conditioning, conditioning_2: Conditioning) -> Conditioning:
    """Put both into one list."""
    return conditioning_1 + conditioning_2


LATENT_NODES = by_name(
    node(
        "EmptyLatentImage",
        empty_latent,
        lambda: [
            side("width", 512, 16, 8),
            side("height", 512, 16, 8),
            number("batch_size", 1, 1, 4096),
        ],
        latent_output,
        display_name="Empty Latent Image",
        category="latent",
    ),
    node(
        "EmptySD3LatentImage",
        empty_sd3_latent,
        lambda: [
            side("width", 1024, 16, 16),
            side("height", 1024, 16, 16),
            number("batch_size", 1, 1, 4096),
        ],
        latent_output,
        display_name="EmptySD3LatentImage",
        category="latent/sd3",
    ),
    node(
        "RepeatLatentBatch",
        repeat_latent,
        lambda: [io.Latent.Input("samples"), number("amount", 1, 1, 64)],
        latent_output,
        display_name="Repeat Latent Batch",
        category="latent/batch",
    ),
    node(
        "LatentFromBatch",
        take_latent,
        lambda: [
            io.Latent.Input("samples"),
            number("batch_index", 0, 0, 63),
            number("length", 1, 1, 64),
        ],
        latent_output,
        display_name="Latent From Batch",
        category="latent/batch",
    ),
    node(
        "SetLatentNoiseMask",
        set_noise_mask,
        lambda: [io.Latent.Input("samples"), io.Mask.Input("mask")],
        latent_output,
        display_name="Set Latent Noise Mask",
        category="latent/inpaint",
    ),
    node(
        "ReferenceLatent",
        add_reference,
        lambda: [io.Conditioning.Input("conditioning"), io.Latent.Input("latent", optional=True)],
        conditioning_output,
        category="advanced/conditioning/edit_models",
    ),
    node(
        "ConditioningZeroOut",
        zero_out,
        lambda: [io.Conditioning.Input("conditioning")],
        conditioning_output,
        category="advanced/conditioning",
    ),
    node(
        "ConditioningCombine",
        combine,
        lambda: [io.Conditioning.Input("conditioning_1"), io.Conditioning.Input("conditioning_2")],
        conditioning_output,
        display_name="Conditioning (Combine)",
        category="conditioning",
    ),
)
