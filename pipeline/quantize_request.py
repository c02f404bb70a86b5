"""What a quantization was asked for."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ..errors import InkstoneError


class BadWeights(InkstoneError):
    """The source holds what cannot be encoded: going on later would not help."""


@dataclass(frozen=True)
class QuantizeCall:
    """What was asked. Without imatrix and prompts all inputs count alike."""

    source: Path
    out: Path
    type: str
    imatrix: Path | None = None
    prompts: Path | None = None
    text_encoder: Path | None = None  # for prompts, where the source is a single file
