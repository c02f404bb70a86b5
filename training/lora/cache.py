"""The encoded examples of a training, on disk: latents and text states, computed once.

How a training calls this, step by step:

- `dataset.read(data, control_dir, mask_dir, on_item) -> Dataset`
- `arrange.arrange(dataset, model, CacheSettings(resolution)) -> Arranged`; reads no weights
- `report.report(arranged, text_encoder).lines`, one sentence a line; no weights either
- `outline(work, text_encoder) -> Example` on the meta device, for a plan: of
  `arranged.largest()`, or of each of `arranged.works`; `expected(arranged, text_encoder) -> int`:
  bytes that the folder will take
- `prepare(arranged, Encoders(load_text_encoder, load_vae), folder, on_item) -> Cache`
- `cache.buckets() -> {grids: [index, ...]}`, `cache.example(index) -> Example`, `len(cache)`,
  `cache.nbytes`
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ...kernels.rope import Grid
from ...loaders.models.text_encoder import TextEncoderModel
from ...loaders.models.vae import VAEModel
from .arrange import Arranged, Work
from .example import Example
from .pictures import NO_PROGRESS, OnItem


@dataclass(frozen=True)
class Encoders:
    """How text encoder and VAE are loaded: each when it is needed, and not kept."""

    text_encoder: Callable[[], TextEncoderModel]
    vae: Callable[[], VAEModel]


class Cache:
    """The examples of a dataset, encoded, each read from its files when it is asked for."""

    @property
    def nbytes(self) -> int:
        """Bytes of all files."""
        raise NotImplementedError

    def __len__(self) -> int:
        raise NotImplementedError

    def buckets(self) -> dict[tuple[Grid, ...], list[int]]:
        """The examples that may share a batch: all their images have the same sizes."""
        raise NotImplementedError

    def example(self, index: int) -> Example:
        """One example; InkstoneError where its file was damaged since."""
        raise NotImplementedError


def prepare(
    arranged: Arranged, encoders: Encoders, folder: Path, on_item: OnItem = NO_PROGRESS
) -> Cache:
    """Encodes what is not in the folder yet; then both models leave memory."""
    raise NotImplementedError


def expected(arranged: Arranged, text_encoder: TextEncoderModel) -> int:
    """Bytes of the files of all examples. No weight is read."""
    raise NotImplementedError


def outline(work: Work, text_encoder: TextEncoderModel) -> Example:
    """An example with its shapes and no data, on the meta device."""
    raise NotImplementedError
