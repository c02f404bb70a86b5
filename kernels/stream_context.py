"""The reading order of a forward of Qwen-Image-2.1, and what all its blocks share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from .configs import SingleStreamConfig
from .forward import Inputs, Probe
from .rope import sequence_rope


class Segment(NamedTuple):
    """A part of the prefix, tokens start .. stop: an image, or text, which is causal."""

    start: int
    stop: int
    causal: bool


def reading_order(text: int, slots: Sequence[int], references: Sequence[int]) -> list[Segment]:
    """The segments of a prefix. text: its tokens of text; slots: for each reference the text tokens
    before it; references: the tokens of each."""
    segments, at, read = [], 0, 0
    for slot, tokens in zip((*slots, text), (*references, 0), strict=True):
        for length, causal in ((slot - read, True), (tokens, False)):
            if length:
                segments.append(Segment(at, at + length, causal))
                at += length
        read = slot
    return segments


@dataclass(frozen=True)
class StreamContext:
    """The values that all blocks of one forward share."""

    prefix_freqs_cis: Tensor  # [P,d/2] complex
    freqs_cis: Tensor  # [S,d/2] complex, of the target
    segments: Sequence[Segment]  # of the prefix
    dtype: torch.dtype  # of weights and products; both streams are float32
    probe: Probe | None = None

    def look(self, name: str, x: Tensor) -> Tensor:
        """Shows a tensor to the probe, if there is one."""
        if self.probe is not None:
            self.probe(name, x)
        return x


def stream_context(config: SingleStreamConfig, inputs: Inputs) -> StreamContext:
    """The context of a forward."""
    grids, text = inputs.grids, inputs.txt.shape[1]
    prefix, target = sequence_rope(
        grids, text, inputs.slots, config.axes, config.theta, inputs.img.device
    )
    references = [h * w for _, h, w in grids[1:]]
    segments = reading_order(text, inputs.slots, references)
    return StreamContext(prefix, target, segments, inputs.img.dtype)
