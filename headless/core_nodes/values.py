"""Stand-ins for ComfyUI's basic nodes of latents, conditioning and texts.

Sockets, defaults and values are the core's (host 0.3.64); the code is ours.
"""

from __future__ import annotations

import json
from typing import Any

from ...host.api import io
from .images import MAX_SIDE, _node


def empty_latent(width: int, height: int, batch_size: int = 1) -> dict:
    """Zeros [B,4,H/8,W/8]: a model of 16 channels takes them as its own."""
    import torch

    return {"samples": torch.zeros(batch_size, 4, height // 8, width // 8)}


def repeated_latent(samples: dict, amount: int) -> dict:
    """The batch so many times, its noise masks and numbers with it."""
    import torch

    made, count = dict(samples), len(samples["samples"])

    def times(value: torch.Tensor) -> torch.Tensor:
        return value.repeat(amount, *[1] * (value.ndim - 1))

    made["samples"] = times(samples["samples"])
    mask = samples.get("noise_mask")
    if mask is not None and len(mask) > 1:
        made["noise_mask"] = times(mask[torch.arange(count) % len(mask)])
    if "batch_index" in samples:
        numbers = samples["batch_index"]
        step = max(numbers) - min(numbers) + 1
        made["batch_index"] = [n + step * k for k in range(amount) for n in numbers]
    return made


def taken_latent(samples: dict, batch_index: int, length: int) -> dict:
    """Some of a batch; each keeps the number that its noise is drawn by."""
    import torch

    whole, count = dict(samples), len(samples["samples"])
    start = min(batch_index, count - 1)
    part = slice(start, start + length)
    whole["samples"] = samples["samples"][part].clone()
    mask = samples.get("noise_mask")
    if mask is not None:
        whole["noise_mask"] = mask[torch.arange(count) % len(mask)][part].clone()
    numbers = samples.get("batch_index") or list(range(count))
    whole["batch_index"] = numbers[part]
    return whole


def zeroed(conditioning: list) -> list:
    """Conditioning of zeros in place of words."""
    made = []
    for states, told in conditioning:
        pooled = told.get("pooled_output")
        more = {} if pooled is None else {"pooled_output": pooled * 0}
        made.append([states * 0, {**told, **more}])
    return made


def combined(conditioning_1: list, conditioning_2: list) -> list:
    """Both side by side."""
    return conditioning_1 + conditioning_2


def joined(string_a: str, string_b: str, delimiter: str) -> str:
    """Two texts in one."""
    return delimiter.join((string_a, string_b))


def shown(source: Any) -> io.NodeOutput:
    """Any value as text."""
    if isinstance(source, str):
        text = source
    elif isinstance(source, (int, float, bool)):
        text = str(source)
    elif source is None:
        text = "None"
    else:
        try:
            text = json.dumps(source)
        except (TypeError, ValueError):
            text = str(source)
    return io.NodeOutput(ui={"text": (text,)})


def _latent(name: str = "samples") -> Any:
    return io.Latent.Input(name)


def _latents() -> list:
    return [io.Latent.Output()]


def _conditionings() -> list:
    return [io.Conditioning.Output()]


VALUE_NODES = [
    _node(
        "EmptyLatentImage",
        lambda: [
            *(
                io.Int.Input(n, default=512, min=16, max=MAX_SIDE, step=8)
                for n in ("width", "height")
            ),
            io.Int.Input("batch_size", default=1, min=1, max=4096),
        ],
        empty_latent,
        _latents,
        display_name="Empty Latent Image",
        category="latent",
    ),
    _node(
        "RepeatLatentBatch",
        lambda: [_latent(), io.Int.Input("amount", default=1, min=1, max=64)],
        repeated_latent,
        _latents,
        display_name="Repeat Latent Batch",
        category="latent/batch",
    ),
    _node(
        "LatentFromBatch",
        lambda: [
            _latent(),
            io.Int.Input("batch_index", default=0, min=0, max=63),
            io.Int.Input("length", default=1, min=1, max=64),
        ],
        taken_latent,
        _latents,
        display_name="Latent From Batch",
        category="latent/batch",
    ),
    _node(
        "ConditioningZeroOut",
        lambda: [io.Conditioning.Input("conditioning")],
        zeroed,
        _conditionings,
        category="advanced/conditioning",
    ),
    _node(
        "ConditioningCombine",
        lambda: [io.Conditioning.Input("conditioning_1"), io.Conditioning.Input("conditioning_2")],
        combined,
        _conditionings,
        display_name="Conditioning (Combine)",
        category="conditioning",
    ),
    _node(
        "StringConcatenate",
        lambda: [
            io.String.Input("string_a", multiline=True),
            io.String.Input("string_b", multiline=True),
            io.String.Input("delimiter", default=""),
        ],
        joined,
        lambda: [io.String.Output()],
        display_name="Concatenate",
        category="utils/string",
    ),
    _node(
        "PreviewAny",
        lambda: [io.AnyType.Input("source")],
        shown,
        lambda: [],
        display_name="Preview Any",
        category="utils",
        is_output_node=True,
    ),
]
