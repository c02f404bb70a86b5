"""What a network does to strips of rows, layer by layer: each stage takes strips from top to bottom
and gives those rows of its result whose neighbours are there. vae_strips.py runs them.

Every 3x3 convolution keeps the last two rows of its input, so a strip comes out one row later than
it went in; shortcuts wait for their rows.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from . import winograd
from .interrupt import beat
from .vae_parts import (
    Norm,
    Resample,
    ResBlock,
    conv_bias,
    convolved,
    subpixel_kernels,
    upsample_conv,
)
from .vae_residual import ShortcutBlock


def _hold(old: Tensor | None, rows: Tensor) -> Tensor:
    """A copy of some rows, in the memory of the ones before where they have the same shape.

    Small tensors allocated between big ones that are freed fragment the heap: with a new copy for
    each strip a process grew to twice what was alive in it.
    """
    if old is None or old.shape != rows.shape:
        return rows.clone()
    return old.copy_(rows)


class Scratch:
    """One buffer that all convolutions of a run share for their input."""

    def __init__(self) -> None:
        self.memory: Tensor | None = None

    def take(self, like: Tensor, *shape: int) -> Tensor:
        """An uninitialized tensor of this shape; the next call overwrites it."""
        need = math.prod(shape)
        if self.memory is None or self.memory.numel() < need:
            self.memory = None  # freed before the bigger one is allocated
            self.memory = like.new_empty(need)
        return self.memory[:need].view(shape)


class Window:
    """Input rows of a convolution: kept rows, new ones (normalised), zeros at the edges."""

    def __init__(self, above: int, sides: tuple[int, int] = (0, 0), norm: Norm | None = None):
        self.above, self.sides, self.norm = above, sides, norm
        self.scratch: Scratch | None = None
        self.even = False  # add zeros below and right until both sides are even
        self.kept: Tensor | None = None  # [1,k,left + W + right,C]

    def join(self, x: Tensor, last: bool) -> tuple[Tensor, int]:
        """[1,C,n,W] -> ([1,rows,left + W + right,C], rows that are real or border)."""
        _, c, n, w = x.shape
        top, left = self.above if self.kept is None else self.kept.shape[1], self.sides[0]
        rows, wide = top + n + last, w + sum(self.sides)
        odd = self.even
        shape = (1, rows + (rows % 2 & odd), wide + (wide % 2 & odd), c)
        window = x.new_empty(shape) if self.scratch is None else self.scratch.take(x, *shape)
        window[:, :top] = 0 if self.kept is None else self.kept
        window[:, top + n :] = 0
        window[:, top : top + n, :left] = 0
        window[:, top : top + n, left + w :] = 0
        inner = window[:, top : top + n, left : left + w].permute(0, 3, 1, 2)
        inner.copy_(x) if self.norm is None else self.norm(x, out=inner)
        return window, rows

    def keep(self, window: Tensor, start: int, end: int) -> None:
        """Keeps these rows of the window for the next strip."""
        self.kept = _hold(self.kept, window[:, start:end])


class Conv:
    """(Norm, SiLU,) a 3x3 convolution. [1,C,n,W] -> [1,Cout,n,W], one row late, or None so far."""

    def __init__(self, conv: nn.Conv2d, norm: Norm | None, scratch: Scratch) -> None:
        self.conv = conv
        self.matrices = winograd.transformed(conv.weight) if winograd.pays(conv) else None
        self.window = Window(1, (0, 0) if self.matrices is None else (1, 1), norm)
        self.window.even, self.window.scratch = self.matrices is not None, scratch

    def push(self, x: Tensor, last: bool) -> Tensor | None:
        beat()
        window, rows = self.window.join(x, last)
        self.window.keep(window, max(0, rows - 2), rows)
        if rows < 3:
            return None
        if self.matrices is None:
            return convolved(window.permute(0, 3, 1, 2), self.conv.weight, self.conv.bias)
        y = winograd.convolve(window[0], self.matrices, conv_bias(self.conv))
        return y[None, : rows - 2, : x.shape[3]].permute(0, 3, 1, 2)


class Residual:
    """ResBlock, two rows late; the shortcut waits in a queue."""

    def __init__(self, block: ResBlock, scratch: Scratch) -> None:
        self.first = Conv(block.conv1, block.norm1, scratch)
        self.second = Conv(block.conv2, block.norm2, scratch)
        self.shortcut = block.conv_shortcut
        self.queue: Tensor | None = None

    def push(self, x: Tensor, last: bool) -> Tensor | None:
        h = self.first.push(x, last)
        h = None if h is None else self.second.push(h, last)
        short = x if self.shortcut is None else self.shortcut(x)
        waiting = 0 if self.queue is None else self.queue.shape[2]
        rows = 0 if h is None else h.shape[2]
        old = min(waiting, rows)
        if h is not None and self.queue is not None:
            h[:, :, :old] += self.queue[:, :, :old]
        if h is not None and rows > old:
            h[:, :, old:] += short[:, :, : rows - old]
        rest = short[:, :, rows - old :]
        if self.queue is not None and waiting > old:
            self.queue = torch.cat([self.queue[:, :, old:], rest], 2)
        else:
            self.queue = _hold(self.queue, rest)
        return h


class Up:
    """Nearest x2 and its convolution on the small rows; gives strips of at most `rows`."""

    def __init__(self, layer: Resample, rows: int) -> None:
        self.kernels, self.bias = subpixel_kernels(layer.conv.weight), conv_bias(layer.conv)
        self.rows, self.window = rows, Window(1)

    def parts(self, x: Tensor, last: bool) -> Iterator[tuple[Tensor, bool]]:
        window, rows = self.window.join(x, last)
        del x  # it would live as long as the parts
        self.window.keep(window, max(0, rows - 2), rows)
        count = rows - 2  # rows of the small image whose neighbours are there
        strips = max(1, math.ceil(2 * count / self.rows))
        step = max(1, math.ceil(count / strips))
        for top in range(0, count, step):
            end = min(top + step, count)
            part = window[:, top : end + 2].permute(0, 3, 1, 2)
            yield upsample_conv(part, self.kernels, self.bias), last and end == count


class Down:
    """Zeros right and below, 3x3 with stride 2; gives strips of at least `rows`."""

    def __init__(self, layer: Resample, rows: int) -> None:
        self.conv, self.rows, self.window = layer.conv, rows, Window(0, (0, 1))
        self.waiting: list[Tensor] = []

    def parts(self, x: Tensor, last: bool) -> Iterator[tuple[Tensor, bool]]:
        window, rows = self.window.join(x, last)
        count = (rows - 1) // 2
        self.window.keep(window, 2 * count, rows)
        if count:
            part = window[:, : 2 * count + 1].permute(0, 3, 1, 2)
            self.waiting.append(F.conv2d(part, self.conv.weight, self.conv.bias, stride=2))
        if self.waiting and (last or sum(y.shape[2] for y in self.waiting) >= self.rows):
            strip = torch.cat(self.waiting, 2)
            self.waiting = []
            yield strip, last


class _Waiting:
    """Rows that wait, first in, first out, in one buffer that only grows (see `_hold`)."""

    def __init__(self) -> None:
        self.rows: Tensor | None = None  # [1,rows,W,C]
        self.start = self.end = 0

    def push(self, x: Tensor) -> None:
        """Adds a copy of [1,C,n,W]."""
        new, old, count = x.permute(0, 2, 3, 1), self.rows, self.end - self.start
        need = count + new.shape[1]
        if old is None or old.shape[1] < need:
            self.rows = new.new_empty(1, need, *new.shape[2:])
        assert self.rows is not None
        if old is not None and count and (self.start or old is not self.rows):
            self.rows[:, :count] = old[:, self.start : self.end].clone()  # they may overlap
        self.rows[:, count:need] = new
        self.start, self.end = 0, need

    def take(self, count: int) -> Tensor:
        """The next rows [1,C,count,W], valid until the next push."""
        assert self.rows is not None
        self.start += count
        return self.rows[:, self.start - count : self.start].permute(0, 3, 1, 2)


class Fork:
    """Where the shortcut of a block begins: its input waits for what the layers make of it."""

    def __init__(self) -> None:
        self.waiting = _Waiting()

    def push(self, x: Tensor, last: bool) -> Tensor:
        self.waiting.push(x)
        return x


class Join:
    """Where the shortcut ends: the waiting rows are added."""

    def __init__(self, fork: Fork, block: ShortcutBlock) -> None:
        self.fork, self.block = fork, block

    def push(self, y: Tensor, last: bool) -> Tensor:
        return self.block.join(y, self.fork.waiting.take(self.block.rows(y.shape[2])))
