"""Masks of controls: what they blank, keep and mark."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from ..sampling.geometry import LATENT, TOKEN

_CUT = 0.5  # of a mask: from here on a pixel is drawn anew


BLACK, GREY = 0.0, 0.5  # -1 and 0 as the VAE sees them


def blanked(picture: Tensor, mask: Tensor, ink: float = BLACK) -> Tensor:
    """[n,H,W,3] with what the mask [m,H,W] marks in one grey value."""
    keep = (mask <= _CUT)[..., None].to(picture.dtype)
    return picture * keep + ink * (1 - keep) if ink else picture * keep


def kept_cells(mask: Tensor) -> Tensor:
    """[n,H,W] -> [n,1,h/8,w/8], 1 = stays: of each cell its first pixel, as in training."""
    size = mask.shape[1] // LATENT, mask.shape[2] // LATENT
    return 1 - F.interpolate((mask > _CUT).float()[:, None], size, mode="nearest")


def region(mask: Tensor) -> Tensor | None:
    """[n,H,W] -> [n,1,h/16,w/16], the mean of each token; a mask of ones is none."""
    if bool((mask >= 1).all()):
        return None
    return F.avg_pool2d(mask[:, None], TOKEN)
