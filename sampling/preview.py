"""Previews of a run: latents to colours by one matrix, no decoder.

The matrix (C channels and a constant -> R, G, B) is fitted by least squares on pictures and their
latents. A model folder may have it in vae/config.json as `inkstone_preview`; for other models it is
fitted once on a chart that their own VAE encodes, so that it always belongs to the VAE.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

CHART = 16  # latents on a side: 256 for 17 or 65 unknowns, a second of a CPU at full size
_RIDGE = 1e-3
_MOST = 16  # images of a sheet


def colours(z: Tensor, factors: Tensor) -> Tensor:
    """Normalised latents [C,h,w] and factors [C+1,3] -> uint8 [h,w,3]."""
    rgb = z.float().cpu().permute(1, 2, 0) @ factors[:-1] + factors[-1]
    return rgb.mul(255).round().clamp(0, 255).byte()


def sheet(z: Tensor) -> Tensor:
    """Latents of several images [n,C,h,w] -> one [C,H,W], in a grid."""
    z = z[:_MOST]
    columns = math.ceil(math.sqrt(len(z)))
    rows = math.ceil(len(z) / columns)
    blank = z.new_zeros(rows * columns - len(z), *z.shape[1:])
    grid = torch.cat([z, blank]).unflatten(0, (rows, columns))  # [r,c,C,h,w]
    return grid.permute(2, 0, 3, 1, 4).flatten(3).flatten(1, 2)


def chart(scale: int = 8) -> Tensor:
    """An image [1,H,W,3] in 0..1 of soft fields and plain patches of two latents in all colours,
    for latents at 1/scale of its size."""
    side, patch = CHART * scale, 2 * scale
    source, image = torch.Generator().manual_seed(1), torch.zeros(1, 3, side, side)
    for cells, share in ((4, 0.5), (8, 0.3), (16, 0.2)):
        field = torch.rand(1, 3, cells, cells, generator=source)
        image += share * F.interpolate(field, size=(side, side), mode="bicubic")
    plain = torch.rand(1, 3, CHART // 4, CHART // 2, generator=source)
    image[:, :, side // 2 :] = F.interpolate(plain, scale_factor=patch)
    return ((image - 0.5) * 1.6 + 0.5).clamp(0, 1).permute(0, 2, 3, 1)


def fitted(z: Tensor, pictures: Tensor) -> Tensor:
    """Factors [C+1,3] by least squares: normalised latents [n,C,h,w] of pictures [n,H,W,3]."""
    size = z.shape[-2], z.shape[-1]
    targets = F.adaptive_avg_pool2d(pictures.float().permute(0, 3, 1, 2), size)
    y = targets.permute(0, 2, 3, 1).reshape(-1, 3)
    x = z.float().permute(0, 2, 3, 1).reshape(-1, z.shape[1])
    x = torch.cat([x, x.new_ones(len(x), 1)], dim=1)
    ridge = _RIDGE * len(x) * torch.eye(x.shape[1])
    return torch.linalg.solve(x.T @ x + ridge, x.T @ y)
