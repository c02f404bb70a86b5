"""Conditioning tokens appended to the target: clean reference images, and the layered variant's
condition."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn


class References:
    """Clean images behind the target, and what of them is the same in every step: their embedding,
    and where they have their own modulation (`fixed`) block 0's keys and values.

    tokens [n,R,64] packed latents, n = 1 or the batch. One object per run.
    """

    def __init__(self, tokens: Tensor, fixed: bool = False) -> None:
        self.tokens, self.fixed = tokens, fixed
        self.embedded: Tensor | None = None  # [n,R,D]
        self.kv: tuple[Tensor, Tensor] | None = None  # [B,R,H,d] each, keys normed and rotated

    def embed(self, img_in: nn.Module) -> Tensor:
        """[n,R,D] float32, computed once."""
        if self.embedded is None:
            self.embedded = img_in(self.tokens).float()
        return self.embedded


@dataclass(frozen=True)
class ReferenceContext:
    """References of a forward, and how many layers are drawn (layered variant; 0 elsewhere), which
    moves the position of their condition."""

    references: References | None = None
    layers: int = 0


NO_REFERENCES = ReferenceContext()
