"""Masks of ControlNets: the pixels to fill, the latent cells to keep, the tokens to select."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from ..sampling.geometry import LATENT, TOKEN

_CUT = 0.5  # of a mask: above it a pixel is inpainted
BLACK, GREY = 0.0, 0.5  # -1 and 0 as the VAE sees them


def fill_masked(picture: Tensor, mask: Tensor, value: float = BLACK) -> Tensor:
    """[n,H,W,3] with the masked area [m,H,W] filled with one grey value."""
    keep = (mask <= _CUT)[..., None].to(picture.dtype)
    return picture * keep + value * (1 - keep) if value else picture * keep


def kept_cells(mask: Tensor, cell: int = LATENT) -> Tensor:
    """[n,H,W] -> [n,1,h/cell,w/cell], 1 = kept: the first pixel of each cell decides, as in
    training. cell: pixels on a side of a latent pixel."""
    size = mask.shape[1] // cell, mask.shape[2] // cell
    return 1 - F.interpolate((mask > _CUT).float()[:, None], size, mode="nearest")


def region(mask: Tensor) -> Tensor | None:
    """[n,H,W] -> [n,1,h/16,w/16], the mean of each token; None for a mask of ones."""
    if bool((mask >= 1).all()):
        return None
    return F.avg_pool2d(mask[:, None], TOKEN)
