"""The VAE in strips of rows: the same numbers as the whole form, in a tenth of the memory.

What is unusual: nothing is recomputed and nothing is blended. Only the attention of the middle sees
the whole picture, and it works at 1/8 size. Behind it (decoder) or before it (encoder) every 3x3
convolution keeps the last two rows of its input, so a strip comes out one row later than it went
in; shortcuts wait in a queue for their rows. Every level works on strips of the same number of
rows: an enlarged strip is split, reduced ones are gathered. Strips also stay in the processor's
cache, so this is the faster form on a CPU. Other programs cut overlapping tiles and blend them:
more work and other numbers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import InkstoneError
from . import winograd
from .configs import VAEConfig
from .interrupt import beat
from .vae import VAE, Norm, Resample, ResBlock, subpixel_kernels, upsample_conv

STRIP = 3 << 20  # elements of a strip, measured: 32 rows at 1024x1024, 12 MB in float32


def _hold(old: Tensor | None, rows: Tensor) -> Tensor:
    """A copy of some rows, in the memory of the ones before where they have the same shape.

    Small tensors that are born among big ones that die cut the heap into holes: with a new copy
    for each strip a process grew to twice what was alive in it.
    """
    if old is None or old.shape != rows.shape:
        return rows.clone()
    return old.copy_(rows)


class _Scratch:
    """One piece of memory that all convolutions of a run take turns in for their input."""

    def __init__(self) -> None:
        self.memory: Tensor | None = None

    def take(self, like: Tensor, *shape: int) -> Tensor:
        """A tensor of this shape with anything in it; it is lost at the next call."""
        need = math.prod(shape)
        if self.memory is None or self.memory.numel() < need:
            self.memory = None  # before the bigger one is there
            self.memory = like.new_empty(need)
        return self.memory[:need].view(shape)


class _Window:
    """The input rows of a convolution: kept rows, new ones (normalised), zeros at the edges."""

    def __init__(self, above: int, sides: tuple[int, int] = (0, 0), norm: Norm | None = None):
        self.above, self.sides, self.norm = above, sides, norm
        self.scratch: _Scratch | None = None
        self.even = False  # add zeros below and right until both sides are even
        self.kept: Tensor | None = None  # [1,k,left + W + right,C]

    def join(self, x: Tensor, last: bool) -> tuple[Tensor, int]:
        """[1,C,n,W] -> ([1,rows,left + W + right,C], rows that are real or border)."""
        _, c, n, w = x.shape
        kept, left = self.above if self.kept is None else self.kept.shape[1], self.sides[0]
        rows, wide = kept + n + last, w + sum(self.sides)
        odd = self.even
        shape = (1, rows + (rows % 2 & odd), wide + (wide % 2 & odd), c)
        window = x.new_empty(shape) if self.scratch is None else self.scratch.take(x, *shape)
        window[:, :kept] = 0 if self.kept is None else self.kept
        window[:, kept + n :] = 0
        window[:, kept : kept + n, :left] = 0
        window[:, kept : kept + n, left + w :] = 0
        inner = window[:, kept : kept + n, left : left + w].permute(0, 3, 1, 2)
        inner.copy_(x) if self.norm is None else self.norm(x, out=inner)
        return window, rows

    def keep(self, window: Tensor, start: int, end: int) -> None:
        """Holds these rows of the window for the next strip."""
        self.kept = _hold(self.kept, window[:, start:end])


class _Conv:
    """(Norm, SiLU,) a 3x3 convolution. [1,C,n,W] -> [1,Cout,n,W], one row late; None: not yet."""

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
        y = winograd.convolve(window[0], self.matrices, self.conv.bias)
        return y[None, : rows - 2, : x.shape[3]].permute(0, 3, 1, 2)


class _Residual:
    """ResBlock, two rows late; the shortcut waits in a queue."""

    def __init__(self, block: ResBlock, scratch: _Scratch) -> None:
        self.first = _Conv(block.conv1, block.norm1, scratch)
        self.second = _Conv(block.conv2, block.norm2, scratch)
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
        if waiting > old:
            self.queue = torch.cat([self.queue[:, :, old:], rest], 2)
        else:
            self.queue = _hold(self.queue, rest)
        return h


class _Up:
    """Nearest x2 and its convolution on the small rows; gives strips of at most `rows`."""

    def __init__(self, layer: Resample, rows: int) -> None:
        self.kernels, self.bias = subpixel_kernels(layer.conv.weight), layer.conv.bias
        self.rows, self.window = rows, _Window(1)

    def parts(self, x: Tensor, last: bool) -> Iterator[tuple[Tensor, bool]]:
        window, rows = self.window.join(x, last)
        del x  # it would live as long as the parts
        self.window.keep(window, max(0, rows - 2), rows)
        count = rows - 2  # rows of the small picture whose neighbours are there
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


def _feed(stages: list, x: Tensor, last: bool, sink: Callable[[Tensor], None]) -> None:
    """Pushes one strip through as many stages as it comes.

    A stack, not a recursion: the frames of the levels above would keep their strips alive.
    """
    waiting: list[tuple[int, Iterator]] = []
    start, strip = 0, x
    del x
    while True:
        for i in range(start, len(stages)):
            if isinstance(stages[i], (_Up, _Down)):
                waiting.append((i + 1, stages[i].parts(strip, last)))
                strip = None
            else:
                strip = stages[i].push(strip, last)
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


def _run(stages: list, x: Tensor, rows: int, out: Tensor) -> Tensor:
    """Feeds x [1,C,H,W] in strips and writes what comes out into `out`, top to bottom."""
    done = 0

    def sink(strip: Tensor) -> None:
        nonlocal done
        out[:, :, done : done + strip.shape[2]] = strip
        done += strip.shape[2]
        beat("VAE, row", done, out.shape[2])

    for top in range(0, x.shape[2], rows):
        _feed(stages, x[:, :, top : top + rows], top + rows >= x.shape[2], sink)
    return out


def _stages(
    layers: Iterable[nn.Module], rows: int, resize: type[_Up] | type[_Down], scratch: _Scratch
) -> list:
    return [resize(x, rows) if isinstance(x, Resample) else _Residual(x, scratch) for x in layers]


def _check(rows: int) -> None:
    if rows < 1:
        raise InkstoneError(f"Strips of {rows} rows: expected at least 1. plan_rows() chooses.")


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
    net, middle, c, s = vae.decoder, vae.decoder.mid_block, vae.config, _Scratch()
    h, w = z.shape[2:]
    x = _empty(z, c.base * c.mult[-1], h, w)
    _run(
        [_Conv(net.conv_in, None, s), _Residual(middle.resnets[0], s)],
        vae.post_quant_conv(z),
        rows,
        x,
    )
    x = middle.attentions[0](x)
    layers = [middle.resnets[1], *net.layers()]
    split = 1 + next((i for i, layer in enumerate(layers) if isinstance(layer, Resample)), -1)
    if split:  # the smallest level on its own: its fast kernels are most of all and can go
        larger = _empty(z, layers[split - 1].conv.out_channels, 2 * h, 2 * w)
        x = _run(_stages(layers[:split], rows, _Up, s), x, rows, larger)
    stages = _stages(layers[split:], rows, _Up, s)
    _run([*stages, _Conv(net.conv_out, net.norm_out, s)], x, rows, out)


@torch.no_grad()
def moments_rows(vae: VAE, pixels: Tensor, rows: int) -> tuple[Tensor, Tensor]:
    """Pixels [B,C,H,W] in -1..1 -> mean and clamped log variance [B,z,H/8,W/8], in strips.

    Equal to `vae.moments(pixels)` but for the order of sums. Items of the batch run one by one.
    """
    _check(rows)
    return vae.split(torch.cat([_moments_rows(vae, item, rows) for item in pixels.split(1)]))


def _moments_rows(vae: VAE, pixels: Tensor, rows: int) -> Tensor:
    net, middle, c, s = vae.encoder, vae.encoder.mid_block, vae.config, _Scratch()
    h, w = (side // c.scale for side in pixels.shape[2:])
    x, out = _empty(pixels, c.base * c.mult[-1], h, w), _empty(pixels, 2 * c.z, h, w)
    stages = _stages([*net.down_blocks, middle.resnets[0]], rows, _Down, s)
    _run([_Conv(net.conv_in, None, s), *stages], pixels, rows, x)
    x = middle.attentions[0](x)
    last = [_Residual(middle.resnets[1], s), _Conv(net.conv_out, net.norm_out, s)]
    _run(last, x, rows, out)
    return vae.quant_conv(out)


def _empty(like: Tensor, channels: int, height: int, width: int) -> Tensor:
    """[1,C,H,W], channels last."""
    return like.new_empty(1, height, width, channels).permute(0, 3, 1, 2)


def _middle_bytes(config: VAEConfig, height: int, width: int, size: int) -> int:
    """Input, norm, q, k, v and result of the attention at 1/8 size; scores are a constant."""
    pixels = (height // config.scale) * (width // config.scale)
    return 6 * pixels * config.base * config.mult[-1] * size


def _whole_bytes(config: VAEConfig, height: int, width: int, size: int) -> int:
    """Three tensors of the last level: the shortcut, a normalised input, a convolution's output."""
    full = 3 * config.base * config.mult[0] * height * width * size
    return (
        max(full, _middle_bytes(config, height, width, size))
        + config.channels * height * width * size
    )


def _rows_bytes(config: VAEConfig, height: int, width: int, size: int, rows: int) -> int:
    """Middle or strips, whichever is more, and the picture.

    Strips: kept rows and a window per level, four more strips at the level that is at work, the
    fast kernels, and the result of the smallest level (channels halved, sides doubled).
    """
    kept = 6 * (config.res_blocks + 1)
    row = [config.base * m * (width >> level) * size for level, m in enumerate(config.mult)]
    strips = sum((rows + kept) * bytes_ for bytes_ in row) + 4 * rows * max(row)
    middle = _middle_bytes(config, height, width, size)
    strips += _kernel_bytes(config, size) + middle // 3
    return max(middle, strips) + config.channels * height * width * size


def _kernel_bytes(config: VAEConfig, size: int) -> int:
    """Winograd's and the sub-pixel form of the kernels, of the smallest level or of all others, and
    the pieces that Winograd's form works in."""
    per_level = [
        (2 * config.res_blocks + 2.5) * 16 * (config.base * m) ** 2 * size
        for m in config.mult
        if size == 4 and config.base * m >= winograd.NARROWEST
    ]
    if not per_level:
        return 0
    return int(max(per_level[-1], sum(per_level[:-1]))) + winograd.piece_bytes(size)


def plan_rows(
    config: VAEConfig,
    height: int,
    width: int,
    dtype: torch.dtype,
    budget_bytes: int | None,
    device: str = "cpu",
) -> tuple[int | None, int, str]:
    """(rows of a strip or None = whole, bytes of activations, a sentence for the log).

    On a CPU strips that fit the cache are the default: they are faster. Elsewhere the picture runs
    whole where it fits. `budget_bytes` None means no limit. Height and width in pixels.
    """
    size = torch.empty((), dtype=dtype).element_size()
    whole = _whole_bytes(config, height, width, size)
    fits = budget_bytes is None or whole <= budget_bytes
    rows = max(4, STRIP // (config.base * config.mult[0] * width))
    if rows >= height or (device != "cpu" and fits):
        rows = height
    while rows > 1 and not _fits(config, height, width, size, rows, budget_bytes):
        rows //= 2
    what = f"VAE decode {width}x{height}"
    if rows >= height:
        return None, whole, f"{what} whole: {_said(whole)} of activations"
    need = _rows_bytes(config, height, width, size, rows)
    sentence = f"{what} in strips of {rows} rows: {_said(need)} of activations"
    return rows, need, f"{sentence} (whole: {_said(whole)})"


def _said(size: int) -> str:
    """Bytes in words."""
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{max(1, round(size / 1e6))} MB"


def _fits(
    config: VAEConfig, height: int, width: int, size: int, rows: int, budget: int | None
) -> bool:
    if budget is None:
        return True
    if rows >= height:
        return _whole_bytes(config, height, width, size) <= budget
    return _rows_bytes(config, height, width, size, rows) <= budget
