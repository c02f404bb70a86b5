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
    """Bytes of activations for one image. Height and width in pixels, size: bytes per element,
    chunked: whether upsamplings read the small image in chunks (vae_parts.lean).
    """

    config: VAEConfig
    height: int
    width: int
    size: int
    chunked: bool = True

    @property
    def pixels(self) -> int:
        """The image itself."""
        return self.config.channels * self.height * self.width * self.size

    @property
    def middle(self) -> int:
        """Input, norm, q, k, v and result of the attention at the latent's size; scores are a
        constant.
        """
        return 6 * self._latent(self.config.levels[0][1])

    def _latent(self, channels: int) -> int:
        """Bytes of this many channels at the latent's size."""
        c = self.config
        return channels * (self.height // c.scale) * (self.width // c.scale) * self.size

    def whole(self) -> int:
        """The widest moment at full size: the first ResBlock's input, the same normalised, and a
        convolution's output; where an upsampling is not chunked, its input, the same enlarged, and
        its output, with what waits for the shortcut.
        """
        into, width, _ = self.config.levels[-1]
        channels = 2 * into + width
        if len(self.config.levels) > 1 and not self.chunked:
            waits, below, out = self.config.levels[-2]
            small = below + (waits if self.config.shortcuts else 0)
            channels = max(channels, below + out + small // 4)
        full = channels * self.height * self.width * self.size
        return max(full, self.middle) + self.pixels

    def strips(self, rows: int) -> int:
        """Middle or strips, whichever is more, and the image.

        Strips: kept rows and a window per level, four more strips at the level that is at work,
        rows that wait for a shortcut, the fast kernels, and the result of the smallest level.
        """
        c, blocks = self.config, self.config.res_blocks + 1
        levels = list(enumerate(reversed(c.levels)))
        row = [max(into, at) * (self.width >> level) * self.size for level, (into, at, _) in levels]
        strips = sum((rows + 6 * blocks) * bytes_ for bytes_ in row) + 4 * rows * max(row)
        if c.shortcuts:  # all levels but full size: a strip, and what its layers hold back
            waiting = (into * (self.width >> level) for level, (into, _, _) in levels[1:])
            strips += (rows + 2 * blocks + 1) * sum(waiting) * self.size
        strips += self._kernels() + 4 * self._latent(c.levels[0][2])
        return max(self.middle, strips) + self.pixels

    def _kernels(self) -> int:
        """Winograd's and the sub-pixel form of the kernels, of the smallest level or of all
        others."""
        blocks, fast = self.config.res_blocks + 1, self.size == 4
        per_level = []
        for level, (into, width, out) in enumerate(self.config.levels):
            last = level == len(self.config.levels) - 1
            products = [0 if last else width * out]
            if fast and width >= winograd.NARROWEST:
                middle = 2 * width * width if level == 0 else 0
                first = into * width if into >= winograd.NARROWEST else 0
                products += [middle, first, (2 * blocks - 1) * width * width]
            per_level.append(16 * sum(products) * self.size)
        return max(per_level[0], sum(per_level[1:])) + self._work(self.config.decoder_widths[0])

    def _work(self, width: int) -> int:
        """Winograd's chunks, and the copy that a kernel is transformed from."""
        if self.size != 4 or width < winograd.NARROWEST:
            return 0
        return winograd.chunk_bytes(self.size) + 9 * width * width * self.size

    def needed(self, rows: int) -> int:
        """Bytes in strips of `rows` rows; as many rows as the image has = whole."""
        return self.whole() if rows >= self.height else self.strips(rows)


class EncodeFootprint(Footprint):
    """The same for an encoder."""

    @property
    def middle(self) -> int:
        return 6 * self._latent(self.config.widths[-1])

    def whole(self) -> int:
        """A ResBlock at full size, as in a decoder, with what waits for the shortcut."""
        channels = (4 if self.config.shortcuts else 3) * self.config.widths[0]
        return max(channels * self.height * self.width * self.size, self.middle) + self.pixels

    def strips(self, rows: int) -> int:
        """As of a decoder; a shortcut waits until the rows of two strips have become one."""
        c, inside = self.config, self.config.widths
        into = (inside[0], *inside)
        width = [(self.width >> level) * self.size for level in range(len(inside))]
        row = [at * side for at, side in zip(inside, width, strict=True)]
        strips = sum((rows + 6 * c.res_blocks) * bytes_ for bytes_ in row) + 4 * rows * max(row)
        if c.shortcuts:
            waiting = sum(cin * side for cin, side in zip(into, width, strict=False))
            strips += (2 * rows + 2 * c.res_blocks + 1) * waiting
        strips += self._kernels() + self._latent(inside[-1])
        return max(self.middle, strips) + self.pixels

    def _kernels(self) -> int:
        c, inside = self.config, self.config.widths
        products, last = 0, inside[-1]
        for into, width in zip((inside[0], *inside), inside, strict=False):
            if self.size == 4 and width >= winograd.NARROWEST:
                first = into * width if into >= winograd.NARROWEST else 0
                products += first + (2 * c.res_blocks - 1) * width * width
        if self.size == 4 and last >= winograd.NARROWEST:
            products += 2 * last * last
        return 16 * products * self.size + self._work(last)


def plan_rows(
    config: VAEConfig,
    height: int,
    width: int,
    dtype: torch.dtype,
    budget_bytes: int | None,
    device: str = "cpu",
    encode: bool = False,
) -> RowPlan:
    """Chooses between whole and strips.

    On a CPU strips that fit the cache are the default: they are faster. Elsewhere the image runs
    whole where it fits. `budget_bytes` None means no limit. Height and width in pixels.
    """
    kind = EncodeFootprint if encode else Footprint
    footprint = kind(config, height, width, dtype.itemsize, chunked=device == "cpu")
    whole = footprint.whole()
    fits = budget_bytes is None or whole <= budget_bytes
    widest = config.widths[0] if encode else config.decoder_widths[-1]
    rows = max(4, STRIP // (widest * width))
    if rows >= height or (device != "cpu" and fits):
        rows = height
    while rows > 1 and budget_bytes is not None and footprint.needed(rows) > budget_bytes:
        rows //= 2
    subject, need = (
        f"VAE {'encode' if encode else 'decode'} {width}x{height}",
        footprint.needed(rows),
    )
    if rows >= height:
        return RowPlan(None, whole, f"{subject} whole: {_readable(whole)} of activations")
    sentence = f"{subject} in strips of {rows} rows: {_readable(need)} of activations"
    return RowPlan(rows, need, f"{sentence} (whole: {_readable(whole)})")


def _readable(size: int) -> str:
    """Bytes as text: "2.3 GB", "12 MB"."""
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{max(1, round(size / 1e6))} MB"
