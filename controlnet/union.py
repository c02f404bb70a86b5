"""A picture and a control file become a `Control` of a run, for every kind of file.

Union and blockwise controls read what kind of map it is from the picture itself; inpainting ones
get the picture without its masked part (black), and the mask; Fun's can get a map and beside it the
picture that is repainted (its masked part grey). Latents are the means of what the VAE encodes: the
reference draws a sample from the same generator as the noise, so that there a seed draws another
picture with a control than without.
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
from .in_context import InContext, InContextModel, placed

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
    what is drawn anew (inpainting), where the control acts (all others). source [n,H,W,C]: of Fun,
    the picture that is repainted beside its map; the mask is then what is drawn anew.
    """

    branch: ControlModel | InContextModel
    vae: VAEModel
    picture: Tensor
    effect: Effect = Effect()
    mask: Tensor | None = None
    source: Tensor | None = None

    def on(self, canvas: Canvas) -> Control | InContext:
        """Encoded at the size of the canvas; kept by content in the VAE."""
        if isinstance(self.branch, InContextModel):
            return placed(self, canvas)
        picture = canvas.picture(self.picture)
        mask = None if self.mask is None else canvas.mask(self.mask)
        if mask is not None and 1 not in (len(mask), len(picture)) and len(mask) != len(picture):
            raise InkstoneError(
                f"The control {self.branch.path.name} got {len(picture)} pictures and {len(mask)} "
                "masks: expected one mask for all, or one for each."
            )
        effect = (self.effect.strength, self.effect.start, self.effect.end)
        repaints = self._repaints()
        if not repaints:
            where = None if mask is None else region(mask)
            return Control(self.branch, self.vae.encode(picture), *effect, where=where)
        if mask is None:
            raise InkstoneError(
                f"The control {self.branch.path.name} is for inpainting and got no mask. Connect "
                "the mask of what is drawn anew, or use a control without inpainting."
            )
        bounds(mask)  # an empty mask is told
        kept = kept_cells(mask)
        if self.source is None:
            latent = self.vae.encode(blanked(picture, mask))
            return Control(self.branch, latent, *effect, kept=kept)
        source = self.vae.encode(blanked(canvas.picture(self.source), mask, GREY))
        return Control(self.branch, self.vae.encode(picture), *effect, kept=kept, source=source)

    def _repaints(self) -> bool:
        """The mask is what is drawn anew."""
        if self.source is not None and not self.branch.network.borrows:
            raise InkstoneError(
                f"The control {self.branch.path.name} takes no picture to repaint beside its map: "
                "only Fun Union does. An inpainting control takes it as its picture."
            )
        return self.branch.masked or self.source is not None


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
