"""The VAE in strips of rows: the same numbers as the whole form, in a tenth of the memory.

What is unusual: nothing is recomputed and nothing is blended. Only the attention of the middle sees
the whole image, and it works at 1/8 size. Behind it (decoder) or before it (encoder) every 3x3
convolution keeps the last two rows of its input, so a strip comes out one row later than it went
in; shortcuts wait in a queue for their rows. Every level works on strips of the same number of
rows: an upsampled strip is split, downsampled ones are gathered. Strips also stay in the
processor's cache, so this is the faster form on a CPU. Other programs cut overlapping tiles and
blend them: more work and other numbers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import InkstoneError
from . import winograd
from .interrupt import beat
from .vae import VAE, Norm, Resample, ResBlock, conv_bias, subpixel_kernels, upsample_conv


def _hold(old: Tensor | None, rows: Tensor) -> Tensor:
    """A copy of some rows, in the memory of the ones before where they have the same shape.

    Small tensors allocated between big ones that are freed fragment the heap: with a new copy for
    each strip a process grew to twice what was alive in it.
    """
    if old is None or old.shape != rows.shape:
        return rows.clone()
    return old.copy_(rows)


class _Scratch:
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


class _Window:
    """Input rows of a convolution: kept rows, new ones (normalised), zeros at the edges."""

    def __init__(self, above: int, sides: tuple[int, int] = (0, 0), norm: Norm | None = None):
        self.above, self.sides, self.norm = above, sides, norm
        self.scratch: _Scratch | None = None
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


class _Conv:
    """(Norm, SiLU,) a 3x3 convolution. [1,C,n,W] -> [1,Cout,n,W], one row late, or None so far."""

    def __init__(self, conv: nn.Conv2d, norm: Norm | None, scratch: _Scratch) -> None:
        self.conv = conv
        self.matrices = winograd.transformed(conv.weight) if winograd.pays(conv) else None
        self.window = _Window(1, (0, 0) if self.matrices is None else (1, 1), norm)
        self.window.even, self.window.scratch = self.matrices is not None, scratch

    def push(self, x: Tensor, last: bool) -> Tensor | None:
        beat()
        window, rows = self.window.join(x, last)
        self.window.keep(window, max(0, rows - 2), rows)
        if rows < 3:
            return None
        if self.matrices is None:
            nchw = window.permute(0, 3, 1, 2)
            return F.conv2d(nchw, self.conv.weight, self.conv.bias, padding=(0, 1))
        y = winograd.convolve(window[0], self.matrices, conv_bias(self.conv))
        return y[None, : rows - 2, : x.shape[3]].permute(0, 3, 1, 2)


class _Residual:
    """ResBlock, two rows late; the shortcut waits in a queue."""

    def __init__(self, block: ResBlock, scratch: _Scratch) -> None:
        self.first = _Conv(block.conv1, block.norm1, scratch)
        self.second = _Conv(block.conv2, block.norm2, scratch)
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


class _Up:
    """Nearest x2 and its convolution on the small rows; gives strips of at most `rows`."""

    def __init__(self, layer: Resample, rows: int) -> None:
        self.kernels, self.bias = subpixel_kernels(layer.conv.weight), conv_bias(layer.conv)
        self.rows, self.window = rows, _Window(1)

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


class _Down:
    """Zeros right and below, 3x3 with stride 2; gives strips of at least `rows`."""

    def __init__(self, layer: Resample, rows: int) -> None:
        self.conv, self.rows, self.window = layer.conv, rows, _Window(0, (0, 1))
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


Stage = _Conv | _Residual | _Up | _Down


def _feed(stages: Sequence[Stage], x: Tensor, last: bool, sink: Callable[[Tensor], None]) -> None:
    """Pushes one strip through as many stages as have the rows for it.

    A stack, not a recursion: the frames of the levels above would keep their strips alive.
    """
    waiting: list[tuple[int, Iterator[tuple[Tensor, bool]]]] = []
    start = 0
    strip: Tensor | None = x
    del x
    while True:
        for i, stage in enumerate(stages[start:], start):
            assert strip is not None
            if isinstance(stage, _Up | _Down):
                waiting.append((i + 1, stage.parts(strip, last)))
                strip = None
            else:
                strip = stage.push(strip, last)
            if strip is None:
                break
        if strip is not None:
            sink(strip)
        strip = None
        while strip is None:
            if not waiting:
                return
            start, parts = waiting[-1]
            strip, last = next(parts, (None, False))
            if strip is None:
                waiting.pop()


def _run(stages: Sequence[Stage], x: Tensor, rows: int, out: Tensor) -> Tensor:
    """Feeds x [1,C,H,W] in strips and writes the results into `out`, top to bottom."""
    end = 0

    def sink(strip: Tensor) -> None:
        nonlocal end
        out[:, :, end : end + strip.shape[2]] = strip
        end += strip.shape[2]
        beat("VAE, row", end, out.shape[2])

    for top in range(0, x.shape[2], rows):
        _feed(stages, x[:, :, top : top + rows], top + rows >= x.shape[2], sink)
    return out


def _stages(
    layers: Iterable[nn.Module], rows: int, resize: type[_Up] | type[_Down], scratch: _Scratch
) -> list[Stage]:
    stages: list[Stage] = []
    for layer in layers:
        if isinstance(layer, Resample):
            stages.append(resize(layer, rows))
        else:
            assert isinstance(layer, ResBlock)
            stages.append(_Residual(layer, scratch))
    return stages


def _check(rows: int) -> None:
    if rows < 1:
        raise InkstoneError(
            f"The VAE cannot run in strips of {rows} rows: expected at least 1. Leave the choice "
            "to plan_rows()."
        )


@torch.no_grad()
def decode_rows(vae: VAE, z: Tensor, rows: int) -> Tensor:
    """Raw latent [B,z,h,w] -> pixels [B,C,8h,8w], not clamped, in strips of about `rows` rows.

    Equal to `vae.decode(z)` but for the order of sums. Items of the batch run one by one.
    """
    _check(rows)
    b, _, h, w = z.shape
    out = z.new_empty(b, vae.config.channels, h * vae.config.scale, w * vae.config.scale)
    for i in range(b):
        _decode_rows(vae, z[i : i + 1], rows, out[i : i + 1])
    return out


def _decode_rows(vae: VAE, z: Tensor, rows: int, out: Tensor) -> None:
    net, c, scratch = vae.decoder, vae.config, _Scratch()
    first, attention, second = net.mid_block.parts
    h, w = z.shape[2:]
    x = _empty(z, c.base * c.mult[-1], h, w)
    head: list[Stage] = [_Conv(net.conv_in, None, scratch), _Residual(first, scratch)]
    _run(head, vae.post_quant_conv(z), rows, x)
    x = attention(x)
    layers = [second, *net.layers()]
    split = 1 + next((i for i, layer in enumerate(layers) if isinstance(layer, Resample)), -1)
    if split:  # the smallest level on its own: it has most of the fast kernels, which can go then
        resample = layers[split - 1]
        assert isinstance(resample, Resample)
        larger = _empty(z, resample.conv.out_channels, 2 * h, 2 * w)
        x = _run(_stages(layers[:split], rows, _Up, scratch), x, rows, larger)
    stages = _stages(layers[split:], rows, _Up, scratch)
    _run([*stages, _Conv(net.conv_out, net.norm_out, scratch)], x, rows, out)


@torch.no_grad()
def moments_rows(vae: VAE, pixels: Tensor, rows: int) -> tuple[Tensor, Tensor]:
    """Pixels [B,C,H,W] in -1..1 -> mean and clamped log variance [B,z,H/8,W/8], in strips.

    Equal to `vae.moments(pixels)` but for the order of sums. Items of the batch run one by one.
    """
    _check(rows)
    return vae.split(torch.cat([_moments_rows(vae, item, rows) for item in pixels.split(1)]))


def _moments_rows(vae: VAE, pixels: Tensor, rows: int) -> Tensor:
    net, c, scratch = vae.encoder, vae.config, _Scratch()
    first, attention, second = net.mid_block.parts
    h, w = (side // c.scale for side in pixels.shape[2:])
    x, out = _empty(pixels, c.base * c.mult[-1], h, w), _empty(pixels, 2 * c.z, h, w)
    stages = _stages([*net.down_blocks, first], rows, _Down, scratch)
    _run([_Conv(net.conv_in, None, scratch), *stages], pixels, rows, x)
    x = attention(x)
    tail: list[Stage] = [_Residual(second, scratch), _Conv(net.conv_out, net.norm_out, scratch)]
    _run(tail, x, rows, out)
    return vae.quant_conv(out)


def _empty(like: Tensor, channels: int, height: int, width: int) -> Tensor:
    """[1,C,H,W], channels last."""
    return like.new_empty(1, height, width, channels).permute(0, 3, 1, 2)
