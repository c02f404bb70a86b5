"""Masks for tests: a box, blobs of several shapes; and what refuses them."""

from __future__ import annotations

import pytest
import torch

from inkstone.errors import InkstoneError
from inkstone.sampling.geometry import Box


def spot(width: int, height: int, box: Box) -> torch.Tensor:
    mask = torch.zeros(1, height, width)
    box.of(mask).fill_(1)
    return mask


def blobs(width: int, height: int, seed: int = 0, soft: bool = False) -> torch.Tensor:
    """A mask with parts of several shapes; soft: with values between."""
    coarse = torch.rand(height // 5 + 1, width // 5 + 1, generator=torch.manual_seed(seed))
    fine = coarse.repeat_interleave(5, 0).repeat_interleave(5, 1)[None, :height, :width]
    return ((fine - 0.5) * 2).clamp(0, 1) if soft else (fine > 0.7).float()


def refuses(words: str, call, *arguments, **named) -> None:
    with pytest.raises(InkstoneError, match=words):
        call(*arguments, **named)
