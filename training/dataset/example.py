"""One training example as the network sees it: what is computed once and kept on disk."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ...kernels.rope import Grid


@dataclass(frozen=True)
class Example:
    """One picture with its caption and references, encoded. All tensors are on the CPU."""

    name: str  # of its picture, for messages
    latents: Tensor  # [S,C] float32, packed and normalised: the target
    grids: tuple[Grid, ...]  # of each drawn image, then of the references
    text: Tensor  # [L,J] states of the caption, without padding
    dropped: Tensor  # [L',J] states of an empty caption with the same references
    drawn: int = 1  # how many of `grids` are drawn: of a layered model the whole and its layers
    references: Tensor | None = None  # [R,C] packed and normalised, one behind the other
    slots: tuple[int, ...] = ()  # the text tokens before each reference, where the model reads so
    dropped_slots: tuple[int, ...] = ()  # the same of `dropped`
    weight: Tensor | None = None  # [S] float32: loss weight of each token, from a mask; None = 1
