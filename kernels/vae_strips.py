"""The VAE in strips of rows: the same numbers as the whole form, in a tenth of the memory.

What is unusual: nothing is recomputed and nothing is blended. Only the attention of the middle sees
the whole image, and it works at the size of the latent. Behind it (decoder) or before it (encoder)
strips run through stages that wait for the rows they need (vae_stages.py). Every level works on
strips of the same number of rows: an upsampled strip is split, downsampled ones are gathered.
Strips also stay in the processor's cache, so this is the faster form on a CPU. Other programs cut
overlapping tiles and blend them: more work and other numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

import torch
from torch import Tensor, nn

from ..errors import InkstoneError
from .interrupt import beat
from .vae import VAE
from .vae_parts import Resample, ResBlock
from .vae_residual import ShortcutBlock
from .vae_stages import Conv, Down, Fork, Join, Residual, Scratch, Up

Stage = Conv | Residual | Up | Down | Fork | Join


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
            if isinstance(stage, Up | Down):
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
    layers: Iterable[nn.Module], rows: int, resize: type[Up] | type[Down], scratch: Scratch
) -> list[Stage]:
    stages: list[Stage] = []
    for layer in layers:
        if isinstance(layer, Resample):
            stages.append(resize(layer, rows))
        elif isinstance(layer, ShortcutBlock):
            fork = Fork()
            inner = _stages(layer.layers(), rows, resize, scratch)
            stages += [fork, *inner, Join(fork, layer)]
        else:
            assert isinstance(layer, ResBlock)
            stages.append(Residual(layer, scratch))
    return stages


def _check(rows: int) -> None:
    if rows < 1:
        raise InkstoneError(
            f"The VAE cannot run in strips of {rows} rows: expected at least 1. Leave the choice "
            "to plan_rows()."
        )


@torch.no_grad()
def decode_rows(vae: VAE, z: Tensor, rows: int) -> Tensor:
    """Raw latent [B,z,h,w] -> pixels [B,C,sh,sw], s = vae.config.scale, not clamped, in strips of
    about `rows` rows.

    Equal to `vae.decode(z)` but for the order of sums. Items of the batch run one by one.
    """
    _check(rows)
    b, _, h, w = z.shape
    out = z.new_empty(b, vae.config.channels, h * vae.config.scale, w * vae.config.scale)
    for i in range(b):
        _decode_rows(vae, z[i : i + 1], rows, out[i : i + 1])
    return out


def _decode_rows(vae: VAE, z: Tensor, rows: int, out: Tensor) -> None:
    net, c, scratch = vae.decoder, vae.config, Scratch()
    first, attention, second = net.mid_block.parts
    h, w = z.shape[2:]
    x = _empty(z, c.decoder_widths[0], h, w)
    head: list[Stage] = [Conv(net.conv_in, None, scratch), Residual(first, scratch)]
    _run(head, vae.post_quant_conv(z), rows, x)
    x = attention(x)
    layers = [second, *net.layers()]
    widened = [_upsampled(layer) for layer in layers]
    split = 1 + next((i for i, channels in enumerate(widened) if channels), -1)
    if split:  # the smallest level on its own: it has most of the fast kernels, which can go then
        larger = _empty(z, widened[split - 1], 2 * h, 2 * w)
        x = _run(_stages(layers[:split], rows, Up, scratch), x, rows, larger)
    stages = _stages(layers[split:], rows, Up, scratch)
    _run([*stages, Conv(net.conv_out, net.norm_out, scratch)], x, rows, out)


def _upsampled(layer: nn.Module) -> int:
    """Channels that come out of a layer's or block's upsampling; 0 where it has none."""
    resamples = (part for part in layer.modules() if isinstance(part, Resample))
    return next((part.conv.out_channels for part in resamples), 0)


@torch.no_grad()
def moments_rows(vae: VAE, pixels: Tensor, rows: int) -> tuple[Tensor, Tensor]:
    """Pixels [B,C,H,W] in -1..1 -> mean and clamped log variance [B,z,H/s,W/s], in strips.

    Equal to `vae.moments(pixels)` but for the order of sums. Items of the batch run one by one.
    """
    _check(rows)
    return vae.split(torch.cat([_moments_rows(vae, item, rows) for item in pixels.split(1)]))


def _moments_rows(vae: VAE, pixels: Tensor, rows: int) -> Tensor:
    net, c, scratch = vae.encoder, vae.config, Scratch()
    first, attention, second = net.mid_block.parts
    h, w = (side // c.scale for side in pixels.shape[2:])
    x, out = _empty(pixels, c.widths[-1], h, w), _empty(pixels, 2 * c.z, h, w)
    stages = _stages([*net.down_blocks, first], rows, Down, scratch)
    _run([Conv(net.conv_in, None, scratch), *stages], pixels, rows, x)
    x = attention(x)
    tail: list[Stage] = [Residual(second, scratch), Conv(net.conv_out, net.norm_out, scratch)]
    _run(tail, x, rows, out)
    return vae.quant_conv(out)


def _empty(like: Tensor, channels: int, height: int, width: int) -> Tensor:
    """[1,C,H,W], channels last."""
    return like.new_empty(1, height, width, channels).permute(0, 3, 1, 2)
