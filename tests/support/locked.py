"""Shared by the tests of pixel lock and inpainting: sizes, pictures, a mocked VAE, and drift.

Drift is how far a picture has moved, by phase correlation in its middle and in its four corners: a
zoom about the middle leaves the middle where it is, but moves the corners. Only slow waves are
used, for these survive an autoencoder. Parts of a pixel: a parabola through the peak. Windows are
faded to their rims, and the fade does not move: of a picture of 37x41 a drift is measured a quarter
too small.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

_SIZES = """
33x47 47x33 31x37 37x41 53x59 61x67 64x64 71x73 79x83 97x89 101x103 127x131 128x96 149x151 191x193
200x301 211x97 256x256 263x509 331x509 401x113 499x503 512x768 541x547 641x479 640x480 719x1279
733x739 800x600 853x480 997x991 1023x1025 1080x1350 1279x719 1328x1328 1399x1009 1920x1080 1999x1511
2999x1999 4000x3000
"""
SIZES = [tuple(map(int, size.split("x"))) for size in _SIZES.split()]
assert len(set(SIZES)) == 40


def is_large(size: tuple[int, int]) -> bool:
    """True where a test of the size takes longer than a moment."""
    return size[0] * size[1] > 300_000


MOST = 256  # pixels a side of a window
FASTEST = 0.06  # waves per pixel
FAINTEST = 1e-2  # of the power of the strongest wave: below, a phase is noise


def picture(width: int, height: int, channels: int = 3, seed: int = 0) -> Tensor:
    """[1,height,width,channels] 0..1: coarse and fine spots, the coarse ones stronger."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.zeros(1, channels, height, width)
    for spot in (32, 16, 8, 4, 1):
        shape = (1, channels if spot > 4 else 1, -(-height // spot) + 1, -(-width // spot) + 1)
        layer = torch.rand(shape, generator=generator)
        if spot > 1:
            layer = F.interpolate(layer, scale_factor=spot, mode="bilinear")
        x += layer[..., :height, :width] * (spot + 3) / 76
    return x.movedim(1, -1).contiguous()


class MockVAE:
    """Loses what is finer than 4 pixels, as an autoencoder does; latents [n,16,1,h/8,w/8]."""

    def encode(self, x: Tensor) -> Tensor:
        x, size = x.movedim(-1, 1), (x.shape[1] // 4, x.shape[2] // 4)
        small = F.interpolate(x, size, mode="bicubic", antialias=True)
        z = F.pixel_unshuffle(small, 2)  # [n,12,h/8,w/8]
        return F.pad(z, (0, 0, 0, 0, 0, 4))[:, :, None]

    def decode(self, z: Tensor) -> Tensor:
        small = F.pixel_shuffle(z[:, :12, 0], 2)
        return F.interpolate(small, scale_factor=4, mode="bicubic").clamp(0, 1).movedim(1, -1)


def drift(a: Tensor, b: Tensor) -> float:
    """Pixels between two pictures [H,W,C] of one size, in the window that moved most."""
    h, w = a.shape[:2]
    high, wide = (min(MOST, side // 2 if min(h, w) >= MOST // 2 else side) for side in (h, w))
    places = {(y, x) for y in (0, h - high) for x in (0, w - wide)}
    places.add(((h - high) // 2, (w - wide) // 2))
    return max(_moved(*(_window(p, y, x, high, wide) for p in (a, b))) for y, x in places)


def _window(x: Tensor, top: int, left: int, height: int, width: int) -> Tensor:
    """Grey, without its mean, faded to its rim [height,width] float64."""
    x = x[top : top + height, left : left + width].double().mean(-1)
    fade = [torch.hann_window(n + 2, periodic=False, dtype=x.dtype)[1:-1] for n in x.shape]
    return (x - x.mean()) * fade[0][:, None] * fade[1]


def _moved(a: Tensor, b: Tensor) -> float:
    cross = torch.fft.fft2(b) * torch.fft.fft2(a).conj()
    slow = [torch.fft.fftfreq(n).abs() <= FASTEST for n in a.shape]
    used = slow[0][:, None] & slow[1] & (cross.abs() > FAINTEST * cross.abs().max())
    peaks = torch.fft.ifft2(torch.where(used, torch.polar(used.double(), cross.angle()), 0)).real
    at = divmod(int(peaks.argmax()), peaks.shape[1])
    return sum(_refined(peaks, at, axis) ** 2 for axis in (0, 1)) ** 0.5


def _refined(peaks: Tensor, at: tuple[int, int], axis: int) -> float:
    n, here = peaks.shape[axis], at[axis]
    line = peaks[:, at[1]] if axis == 0 else peaks[at[0]]
    before, top, after = (line[(here + d) % n].item() for d in (-1, 0, 1))
    bend = before - 2 * top + after
    place = here + (0.5 * (before - after) / bend if bend else 0.0)
    return place - n if place > n / 2 else place
