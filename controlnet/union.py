"""InstantX controls: a picture and a file become a `Control` of a run.

Union reads what kind of map it gets from the picture itself; Inpainting gets the picture without
its masked part, and the mask. Latents are the means of what the VAE encodes: the reference draws a
sample from the same generator as the noise, so that there a seed draws another picture with a
control than without.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch.nn.functional as F
from torch import Tensor

from ..kernels.errors import InkstoneError
from ..sampling.control import Control
from ..sampling.geometry import LATENT, TOKEN
from ..sampling.masks import bounds
from .canvas import Canvas

if TYPE_CHECKING:
    from ..loaders.control import ControlModel
    from ..loaders.vae_model import VAEModel

_CUT = 0.5  # of a mask: from here on a pixel is drawn anew


@dataclass(frozen=True)
class Effect:
    """How strongly and in which part of the steps a control acts (fractions of the steps)."""

    strength: float = 1.0
    start: float = 0.0
    end: float = 1.0


@dataclass(frozen=True, eq=False)
class ControlPicture:
    """A picture for a control, before the canvas is known. picture [n,H,W,C] 0..1; mask [n,H,W]:
    what is drawn anew (Inpainting), where the control acts (all others).
    """

    branch: ControlModel
    vae: VAEModel
    picture: Tensor
    effect: Effect = Effect()
    mask: Tensor | None = None

    def on(self, canvas: Canvas) -> Control:
        """Encoded at the size of the canvas; kept by content in the VAE."""
        picture = canvas.picture(self.picture)
        mask = None if self.mask is None else canvas.mask(self.mask)
        if mask is not None and 1 not in (len(mask), len(picture)) and len(mask) != len(picture):
            raise InkstoneError(
                f"The control {self.branch.path.name} got {len(picture)} pictures and {len(mask)} "
                "masks: expected one mask for all, or one for each."
            )
        effect = (self.effect.strength, self.effect.start, self.effect.end)
        if not self.branch.masked:
            where = None if mask is None else region(mask)
            return Control(self.branch, self.vae.encode(picture), *effect, where=where)
        if mask is None:
            raise InkstoneError(
                f"The control {self.branch.path.name} is for inpainting and got no mask. Connect "
                "the mask of what is drawn anew, or use the Union control."
            )
        bounds(mask)  # an empty mask is told
        latent = self.vae.encode(blanked(picture, mask))
        return Control(self.branch, latent, *effect, kept=kept_cells(mask))


def blanked(picture: Tensor, mask: Tensor) -> Tensor:
    """[n,H,W,3] with what the mask [m,H,W] marks in black (-1 as the VAE sees it)."""
    return picture * (mask <= _CUT)[..., None]


def kept_cells(mask: Tensor) -> Tensor:
    """[n,H,W] -> [n,1,h/8,w/8], 1 = stays: of each cell its first pixel, as in training."""
    size = mask.shape[1] // LATENT, mask.shape[2] // LATENT
    return 1 - F.interpolate((mask > _CUT).float()[:, None], size, mode="nearest")


def region(mask: Tensor) -> Tensor | None:
    """[n,H,W] -> [n,1,h/16,w/16], the mean of each token; a mask of ones is none."""
    if bool((mask >= 1).all()):
        return None
    return F.avg_pool2d(mask[:, None], TOKEN)
