"""The request of a quantization."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ..errors import InkstoneError


class BadWeights(InkstoneError):
    """The source holds weights that cannot be encoded: a second try would not help."""


@dataclass(frozen=True)
class QuantizeCall:
    """One file to write. Without imatrix and prompts all inputs weigh the same."""

    source: Path
    out: Path
    type: str
    imatrix: Path | None = None
    prompts: Path | None = None
    text_encoder: Path | None = None  # for prompts, where the source is a single file
    new: bool = False  # never replace a file
