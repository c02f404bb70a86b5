"""The VAE in strips of rows: the same numbers as the whole form, in a tenth of the memory.

What is unusual: nothing is recomputed and nothing is blended. Only the middle sees the whole picture
and it runs at 1/8 size, so it runs whole. Behind (decoder) or before it (encoder) every 3x3 convolution
keeps the last two rows of its input, so a strip comes out one row later than it went in; shortcuts wait
in a queue for their rows. Every level works on strips of the same number of rows: an enlarged strip is
split, reduced ones are gathered. Strips also stay in the processor's cache, so this is the faster form
on a CPU. Other programs cut overlapping tiles and blend them: more work and other numbers.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .errors import InkstoneError
from .vae import VAE, Norm, ResBlock, Resample, VAEConfig, subpixel_kernels, upsample_conv

STRIP = 3 << 19  # elements of a strip at full size, measured: 16 rows at 1024x1024, 6 MB in float32


class _Window:
    """Collects the input rows of a convolution: kept rows, new ones, zeros at the picture's edges."""

    def __init__(self, above: int, below: int, right: int = 0, norm: Norm | None = None) -> None:
        self.above, self.below, self.right, self.norm = above, below, right, norm
        self.kept: Tensor | None = None  # [1,C,k,W]

    def join(self, x: Tensor, last: bool) -> Tensor:
        """[1,C,n,W] -> kept + normalised x (+ zeros) as one tensor [1,C,k,W+right]."""
        _, c, n, w = x.shape
        kept = self.above if self.kept is None else self.kept.shape[2]
        total = kept + n + self.below * last
        window = x.new_empty(1, total, w + self.right, c).permute(0, 3, 1, 2)
        window[:, :, :kept] = 0 if self.kept is None else self.kept
        window[:, :, kept + n :] = 0
        inner = window[:, :, kept : kept + n, :w]
        if self.norm is not None:
            self.norm(x, out=inner)
        else:
            inner.copy_(x)
            window[:, :, kept : kept + n, w:] = 0
        return window

    def keep(self, window: Tensor, rows: int) -> None:
        """Holds the last rows of the window for the next strip."""
        self.kept = window[:, :, window.shape[2] - rows :].clone(memory_format=torch.channels_last)


class _Conv:
    """(Norm, SiLU and) a 3x3 convolution. [1,C,n,W] -> [1,Cout,n,W], one row late; None: nothing yet."""

    def __init__(self, conv: nn.Conv2d, norm: Norm | None = None) -> None:
        self.conv, self.window = conv, _Window(1, 1, norm=norm)

    def push(self, x: Tensor, last: bool) -> Tensor | None:
        window = self.window.join(x, last)
        self.window.keep(window, min(2, window.shape[2]))
        if window.shape[2] < 3:
            return None
        return F.conv2d(window, self.conv.weight, self.conv.bias, padding=(0, 1))


class _Residual:
    """ResBlock, two rows late; the shortcut waits in a queue."""

    def __init__(self, block: ResBlock) -> None:
        self.first, self.second = _Conv(block.conv1, block.norm1), _Conv(block.conv2, block.norm2)
        self.shortcut, self.queue = block.conv_shortcut, None

    def push(self, x: Tensor, last: bool) -> Tensor | None:
        h = self.first.push(x, last)
        h = None if h is None else self.second.push(h, last)
        short = x if self.shortcut is None else self.shortcut(x)
        waiting = 0 if self.queue is None else self.queue.shape[2]
        rows = 0 if h is None else h.shape[2]
        old = min(waiting, rows)
        if old:
            h[:, :, :old] += self.queue[:, :, :old]
        if rows > old:
            h[:, :, old:] += short[:, :, : rows - old]
        rest = short[:, :, rows - old :]
        self.queue = torch.cat([self.queue[:, :, old:], rest], 2) if waiting > old else rest.clone()
        return h


class _Up:
    """Nearest x2 and its convolution on the small rows; gives strips of at most `rows`."""

    def __init__(self, layer: Resample, rows: int) -> None:
        self.kernels, self.bias = subpixel_kernels(layer.conv.weight), layer.conv.bias
        self.rows, self.window = rows, _Window(1, 1)

    def parts(self, x: Tensor, last: bool) -> Iterator[tuple[Tensor, bool]]:
        window = self.window.join(x, last)
        self.window.keep(window, min(2, window.shape[2]))
        count = window.shape[2] - 2  # rows of the small picture that are complete
        each = math.ceil(count / max(1, math.ceil(2 * count / self.rows)))
        for top in range(0, count, each or 1):
            end = min(top + each, count)
            big = upsample_conv(window[:, :, top : end + 2], self.kernels, self.bias)
            pieces = [big] if self.rows > 1 else big.split(1, dim=2)
            for i, piece in enumerate(pieces):
                yield piece, last and end == count and i == len(pieces) - 1


class _Down:
    """Zeros right and below, 3x3 with stride 2; gives strips of at least `rows`."""

    def __init__(self, layer: Resample, rows: int) -> None:
        self.conv, self.rows, self.window = layer.conv, rows, _Window(0, 1, right=1)
        self.waiting: list[Tensor] = []

    def parts(self, x: Tensor, last: bool) -> Iterator[tuple[Tensor, bool]]:
        window = self._join(x, last)
        count = (window.shape[2] - 1) // 2
        self.window.keep(window, window.shape[2] - 2 * count)
        if count:
            y = F.conv2d(window[:, :, : 2 * count + 1], self.conv.weight, self.conv.bias, stride=2)
            self.waiting.append(y)
        if self.waiting and (last or sum(y.shape[2] for y in self.waiting) >= self.rows):
            strip = torch.cat(self.waiting, 2)
            self.waiting = []
            yield strip, last

    def _join(self, x: Tensor, last: bool) -> Tensor:
        """The kept rows have their zero column already."""
        return self.window.join(x, last)


def _feed(stages: list, x: Tensor, last: bool, sink: Callable[[Tensor], None]) -> None:
    """Pushes one strip through as many stages as it comes."""
    for i, stage in enumerate(stages):
        if isinstance(stage, (_Up, _Down)):
            for part, end in stage.parts(x, last):
                _feed(stages[i + 1 :], part, end, sink)
            return
        x = stage.push(x, last)
        if x is None:
            return
    sink(x)


def _run(stages: list, x: Tensor, rows: int, out: Tensor) -> Tensor:
    """Feeds x [1,C,H,W] in strips and writes what comes out into `out`, top to bottom."""
    at = itertools.accumulate  # noqa: F841
    done = 0

    def sink(strip: Tensor) -> None:
        nonlocal done
        out[:, :, done : done + strip.shape[2]] = strip
        done += strip.shape[2]

    for top in range(0, x.shape[2], rows):
        _feed(stages, x[:, :, top : top + rows], top + rows >= x.shape[2], sink)
    return out
