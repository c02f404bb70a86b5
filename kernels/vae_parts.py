"""The pieces of both VAEs, 2-D: norm, residual block, attention, resampling.

With gradients everything is plain autograd. Without them, on a CPU, norms run in chunks and in
place, and the convolution behind an upsampling reads the small image (`lean`). Names of modules are
the diffusers key names. Source: diffusers `AutoencoderKLQwenImage`.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .attention import attention
from .interrupt import beat
from .spread import Buffers, spread, threads

_CHUNK = 1 << 18  # elements per chunk of a norm: a megabyte in float32, inside the L2 of two cores
_BANDS = 2  # of a strip's rows for each thread
_THIN = 2  # rows: thinner bands spend more on arranging the kernel than they win
_SCORES = 1 << 23  # elements of the attention matrix in memory at a time, where it is chunked


def lean(x: Tensor) -> bool:
    """True where nothing is recorded for gradients and the CPU forms pay: chunks, in place."""
    return not torch.is_grad_enabled() and x.device.type in ("cpu", "meta")


def norm_silu(x: Tensor, gamma: Tensor, silu: bool = True, out: Tensor | None = None) -> Tensor:
    """x / max(||x||, 1e-12) * sqrt(C) * gamma over channels, then SiLU. [B,C,H,W] -> the same.

    Without gradients it runs in chunks that stay in the cache: one pass over memory. `out` (may be
    `x` itself) takes the result; with gradients it is ignored.
    """
    rows = x.permute(0, 2, 3, 1)  # [B,H,W,C], contiguous for channels_last
    if torch.is_grad_enabled():
        return _norm_silu(rows, gamma, silu).permute(0, 3, 1, 2)
    into = torch.empty_like(rows) if out is None else out.permute(0, 2, 3, 1)
    if lean(x) and x.device.type == "cpu" and rows.stride(-1) == into.stride(-1) == 1:
        for item, item_into in zip(rows, into, strict=True):
            _norm_silu_chunks(item, gamma, silu, item_into)
        return into.permute(0, 3, 1, 2)
    y = _norm_silu(rows, gamma, silu).permute(0, 3, 1, 2)
    return y if out is None else out.copy_(y)


def _norm_silu(x: Tensor, gamma: Tensor, silu: bool) -> Tensor:
    """Channels last. Half types are normalised in float32, as the reference does."""
    norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=torch.float32)
    y = x * (math.sqrt(x.shape[-1]) / norm.clamp_min(1e-12)) * gamma
    return (F.silu(y) if silu else y).to(x.dtype)


def _norm_silu_chunks(x: Tensor, gamma: Tensor, silu: bool, out: Tensor) -> None:
    """`_norm_silu` of [H,W,C] into `out`, in place, with nothing bigger than a chunk of rows."""
    gamma, step = gamma.float(), max(1, _CHUNK // threads() // x[0].numel())
    same = out.dtype == torch.float32
    buffers = Buffers(lambda: torch.empty(0 if same else step, *x.shape[1:], device=x.device))

    def normed(index: int) -> None:
        rows = slice(index * step, (index + 1) * step)
        part, into = x[rows], out[rows]
        with buffers.one() as scratch:
            y = into if same else scratch[: len(part)].copy_(part)
            norm = torch.linalg.vector_norm(part if same else y, dim=-1, keepdim=True)
            scale = norm.clamp_min_(1e-12).reciprocal_().mul_(math.sqrt(x.shape[-1]))
            torch.mul(part if same else y, scale, out=y).mul_(gamma)
            if silu:
                F.silu(y, inplace=True)
            if not same:
                into.copy_(y)

    spread(normed, math.ceil(len(x) / step))


def convolved(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """A 3x3 convolution of rows with their neighbours x [1,C,n+2,W] -> [1,Cout,n,W], zeros beside
    them; in bands of rows on all threads."""
    rows, number = x.shape[2] - 2, threads()
    step = math.ceil(rows / number / _BANDS)
    if number == 1 or x.device.type != "cpu" or step < _THIN:
        return F.conv2d(x, weight, bias, padding=(0, 1))
    out = x.new_empty(1, rows, x.shape[3], len(weight)).permute(0, 3, 1, 2)

    def band(index: int) -> None:
        top, end = index * step, min((index + 1) * step, rows)
        out[:, :, top:end] = F.conv2d(x[:, :, top : end + 2], weight, bias, padding=(0, 1))

    spread(band, math.ceil(rows / step))
    return out


class Norm(nn.Module):
    """Per-pixel RMS norm over channels; holds `gamma` [C]."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(channels))

    def forward(self, x: Tensor, silu: bool = True, out: Tensor | None = None) -> Tensor:
        return norm_silu(x, self.gamma, silu, out)


def conv_bias(conv: nn.Conv2d) -> Tensor:
    """The bias of a convolution that has one, as all of the VAE's do."""
    assert conv.bias is not None
    return conv.bias


def conv3(cin: int, cout: int) -> nn.Conv2d:
    """A 3x3 convolution with padding 1."""
    return nn.Conv2d(cin, cout, 3, padding=1)


class ResBlock(nn.Module):
    """x + conv2(silu(norm2(conv1(silu(norm1(x)))))), with a 1x1 shortcut where channels change."""

    def __init__(self, cin: int, cout: int) -> None:
        super().__init__()
        self.norm1, self.conv1 = Norm(cin), conv3(cin, cout)
        self.norm2, self.conv2 = Norm(cout), conv3(cout, cout)
        self.conv_shortcut = nn.Conv2d(cin, cout, 1) if cin != cout else None

    def forward(self, x: Tensor) -> Tensor:
        beat()
        h = self.conv1(self.norm1(x))
        h = self.conv2(self.norm2(h, out=h))
        short = self.conv_shortcut(x) if self.conv_shortcut is not None else x
        return h + short if torch.is_grad_enabled() else h.add_(short)


class Attention(nn.Module):
    """One head of width C over all pixels, with residual."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = Norm(channels)
        self.to_qkv = nn.Conv2d(channels, 3 * channels, 1)
        self.proj = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        b, c, h, w = x.shape
        qkv = self.to_qkv(self.norm(x, silu=False))  # [B,3C,H,W]
        q, k, v = qkv.permute(0, 2, 3, 1).reshape(b, 1, h * w, 3 * c).chunk(3, dim=-1)
        o = _half_attention(q, k, v) if lean(x) and x.dtype != torch.float32 else attention(q, k, v)
        return x + self.proj(o.reshape(b, h, w, c).permute(0, 3, 1, 2))


def _half_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """[B,1,L,C] in a half type on a CPU, in chunks of queries.

    torch's flash kernel runs heads of 384 in bfloat16 at the speed of float32 (95 GFLOP/s), plain
    products at 165. The price: scores are rounded before the softmax, 1.2 % instead of 0.5 % error
    where scores spread by 4.
    """
    out, keys = torch.empty_like(q), k.transpose(-1, -2)
    step = max(1, _SCORES // k.shape[-2])
    for b in range(len(q)):
        for start in range(0, q.shape[-2], step):
            beat()
            part = slice(start, start + step)
            scores = torch.mm(q[b, 0, part] * q.shape[-1] ** -0.5, keys[b, 0])
            out[b, 0, part] = torch.mm(scores.softmax(-1), v[b, 0])
    return out


class Middle(nn.Module):
    """ResBlock, attention, ResBlock at 1/8 size: the only part that sees the whole image."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.resnets = nn.ModuleList([ResBlock(channels, channels) for _ in range(2)])
        self.attentions = nn.ModuleList([Attention(channels)])

    @property
    def parts(self) -> tuple[ResBlock, Attention, ResBlock]:
        """The three layers in order."""
        (first, last), (attention,) = self.resnets, self.attentions
        assert isinstance(first, ResBlock) and isinstance(last, ResBlock)
        assert isinstance(attention, Attention)
        return first, attention, last

    def forward(self, x: Tensor) -> Tensor:
        first, attention, last = self.parts
        return last(attention(first(x)))


def subpixel_kernels(weight: Tensor) -> list[list[Tensor]]:
    """3x3 kernel behind a nearest x2 upsampling -> [row phase][column phase] of 2x2 kernels.

    Even output rows see input rows (i-1, i, i), odd ones (i, i, i+1): the taps on the same row add
    up, so the small input is read directly with 4/9 of the products. Exact but for their order.
    """

    def halves(k: Tensor, dim: int) -> list[Tensor]:
        a, b, c = k.unbind(dim)
        return [torch.stack([a, b + c], dim), torch.stack([a + b, c], dim)]

    return [
        [
            k.to(weight.dtype).contiguous(memory_format=torch.channels_last)
            for k in halves(by_row, 3)
        ]
        for by_row in halves(weight.float(), 2)
    ]


def upsample_conv(x: Tensor, kernels: list[list[Tensor]], bias: Tensor) -> Tensor:
    """x [B,C,n+2,W] with a row of context (or zeros) above and below -> [B,Cout,2n,2W]."""
    b, _, n, w = x.shape[0], x.shape[1], x.shape[2] - 2, x.shape[3]
    out = x.new_empty(b, n, 2, w, 2, len(bias))

    def phase(index: int) -> None:
        r, c = divmod(index, 2)
        y = F.conv2d(x[:, :, r : r + n + 1], kernels[r][c], bias, padding=(0, 1))  # [B,Cout,n,W+1]
        out[:, :, r, :, c] = y[..., c : c + w].permute(0, 2, 3, 1)

    spread(phase, 4, None if x.device.type == "cpu" else 1)
    return out.view(b, 2 * n, 2 * w, -1).permute(0, 3, 1, 2)


class Resample(nn.Module):
    """Down: pad right and bottom, 3x3 stride 2. Up: nearest x2, 3x3 to `out` channels.

    `resample` has the convolution at index 1, as in the published keys.
    """

    def __init__(self, channels: int, up: bool, out: int | None = None) -> None:
        super().__init__()
        self.up = up
        out = channels if out is None else out
        conv = conv3(channels, out) if up else nn.Conv2d(channels, out, 3, stride=2)
        self.resample = nn.ModuleList([nn.Identity(), conv])

    @property
    def conv(self) -> nn.Conv2d:
        """The convolution."""
        conv = self.resample[1]
        assert isinstance(conv, nn.Conv2d)
        return conv

    def forward(self, x: Tensor) -> Tensor:
        if self.up and lean(x):
            return self._up_in_chunks(x)
        if self.up:
            return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest-exact"))
        return self.conv(F.pad(x, (0, 1, 0, 1)))

    def _up_in_chunks(self, x: Tensor) -> Tensor:
        b, _, h, w = x.shape
        kernels, bias, step = subpixel_kernels(self.conv.weight), conv_bias(self.conv), 16
        out = x.new_empty(b, 2 * h, 2 * w, len(bias)).permute(0, 3, 1, 2)
        for top in range(0, h, step):
            beat()
            end = min(top + step, h)
            part = F.pad(x[:, :, max(top - 1, 0) : end + 1], (0, 0, int(top == 0), int(end == h)))
            out[:, :, 2 * top : 2 * end] = upsample_conv(part, kernels, bias)
        return out


def channels_last(x: Tensor) -> Tensor:
    """Without gradients: the layout that every step is fast in. With them: as it came."""
    return x if torch.is_grad_enabled() else x.contiguous(memory_format=torch.channels_last)
