"""Activation memory of the VAE, whole and in strips, and the choice between the two."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch

from . import winograd
from .configs import VAEConfig

STRIP = 3 << 20  # elements of a strip, measured: 32 rows at 1024x1024, 12 MB in float32


class RowPlan(NamedTuple):
    """The form an image runs in: rows of a strip (None = whole), bytes of activations, a log
    sentence."""

    rows: int | None
    bytes: int
    sentence: str


@dataclass(frozen=True)
class Footprint:
    """Bytes of activations for one image. Height and width in pixels, size: bytes per element."""

    config: VAEConfig
    height: int
    width: int
    size: int

    @property
    def pixels(self) -> int:
        """The image itself."""
        return self.config.channels * self.height * self.width * self.size

    @property
    def middle(self) -> int:
        """Input, norm, q, k, v and result of the attention at 1/8 size; scores are a constant."""
        c = self.config
        cells = (self.height // c.scale) * (self.width // c.scale)
        return 6 * cells * c.base * c.mult[-1] * self.size

    def whole(self) -> int:
        """Three tensors of the last level: shortcut, normalised input, a convolution's output."""
        c = self.config
        full = 3 * c.base * c.mult[0] * self.height * self.width * self.size
        return max(full, self.middle) + self.pixels

    def strips(self, rows: int) -> int:
        """Middle or strips, whichever is more, and the image.

        Strips: kept rows and a window per level, four more strips at the level that is at work, the
        fast kernels, and the result of the smallest level (channels halved, sides doubled).
        """
        c, window = self.config, 6 * (self.config.res_blocks + 1)
        row = [c.base * m * (self.width >> level) * self.size for level, m in enumerate(c.mult)]
        strips = sum((rows + window) * bytes_ for bytes_ in row) + 4 * rows * max(row)
        strips += self._kernels() + self.middle // 3
        return max(self.middle, strips) + self.pixels

    def _kernels(self) -> int:
        """Winograd's and the sub-pixel form of the kernels, of the smallest level or of all others,
        and the chunks that Winograd's form works in."""
        c = self.config
        per_level = [
            (2 * c.res_blocks + 2.5) * 16 * (c.base * m) ** 2 * self.size
            for m in c.mult
            if self.size == 4 and c.base * m >= winograd.NARROWEST
        ]
        if not per_level:
            return 0
        return int(max(per_level[-1], sum(per_level[:-1]))) + winograd.chunk_bytes(self.size)

    def needed(self, rows: int) -> int:
        """Bytes in strips of `rows` rows; as many rows as the image has = whole."""
        return self.whole() if rows >= self.height else self.strips(rows)


def plan_rows(
    config: VAEConfig,
    height: int,
    width: int,
    dtype: torch.dtype,
    budget_bytes: int | None,
    device: str = "cpu",
) -> RowPlan:
    """Chooses between whole and strips.

    On a CPU strips that fit the cache are the default: they are faster. Elsewhere the image runs
    whole where it fits. `budget_bytes` None means no limit. Height and width in pixels.
    """
    footprint = Footprint(config, height, width, dtype.itemsize)
    whole = footprint.whole()
    fits = budget_bytes is None or whole <= budget_bytes
    rows = max(4, STRIP // (config.base * config.mult[0] * width))
    if rows >= height or (device != "cpu" and fits):
        rows = height
    while rows > 1 and budget_bytes is not None and footprint.needed(rows) > budget_bytes:
        rows //= 2
    subject, need = f"VAE decode {width}x{height}", footprint.needed(rows)
    if rows >= height:
        return RowPlan(None, whole, f"{subject} whole: {_readable(whole)} of activations")
    sentence = f"{subject} in strips of {rows} rows: {_readable(need)} of activations"
    return RowPlan(rows, need, f"{sentence} (whole: {_readable(whole)})")


def _readable(size: int) -> str:
    """Bytes as text: "2.3 GB", "12 MB"."""
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{max(1, round(size / 1e6))} MB"
