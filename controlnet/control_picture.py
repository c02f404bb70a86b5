"""A picture and a ControlNet file become a `Control` of a run, for every kind of file.

Union and blockwise ControlNets recognize the kind of map from the picture itself. Inpainting ones
get the picture with its masked part black, and the mask; Fun's can get a map and, in addition, the
picture to inpaint (its masked part grey). Latents are the means of the VAE's distribution: the
reference draws a sample from the same generator as the noise, so that there a seed gives another
picture with a ControlNet than without.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor

from ..errors import InkstoneError
from ..sampling.geometry import REFUSE
from ..sampling.masks import bounds
from ..sampling.request import Control
from .canvas import Canvas
from .in_context import InContext, InContextModel
from .masks import GREY, fill_masked, kept_cells, region

if TYPE_CHECKING:
    from ..loaders.models.control import ControlModel
    from ..loaders.models.vae import VAEModel


@dataclass(frozen=True)
class Effect:
    """Strength of a ControlNet, and the fractions of the steps between which it acts."""

    strength: float = 1.0
    start: float = 0.0
    end: float = 1.0


@dataclass(frozen=True, eq=False)
class ControlInput:
    """A picture for a ControlNet, before the canvas is known. picture [n,H,W,C] 0..1; mask [n,H,W]:
    the area to inpaint (inpainting), or the area where it acts (all others). source [n,H,W,C]: for
    Fun, the picture to inpaint in addition to its map; the mask is then the area to inpaint. fit:
    of pictures of another aspect ratio than the result's, see geometry.FITS.
    """

    branch: ControlModel | InContextModel
    vae: VAEModel
    picture: Tensor
    effect: Effect = Effect()
    mask: Tensor | None = None
    source: Tensor | None = None
    fit: str = REFUSE

    def on(self, canvas: Canvas) -> Control | InContext:
        """Encodes it at the size of the canvas; the VAE caches by content."""
        if isinstance(self.branch, InContextModel):
            return self._in_context(self.branch, canvas)
        return self._control(self.branch, canvas)

    def _control(self, branch: ControlModel, canvas: Canvas) -> Control:
        picture = canvas.picture(self.picture, self.fit)
        mask = None if self.mask is None else canvas.mask(self.mask)
        if mask is not None and 1 not in (len(mask), len(picture)) and len(mask) != len(picture):
            raise InkstoneError(
                f"The control {branch.path.name} got {len(picture)} pictures and {len(mask)} "
                "masks: expected one mask for all, or one for each. Connect as many masks as "
                "pictures."
            )
        effect = (self.effect.strength, self.effect.start, self.effect.end)
        if not self._inpaints(branch):
            where = None if mask is None else region(mask)
            return Control(branch, self.vae.encode(picture), *effect, where=where)
        if mask is None:
            raise InkstoneError(
                f"The control {branch.path.name} is for inpainting and got no mask. Connect the "
                "mask of the area to inpaint, or use a ControlNet without inpainting."
            )
        bounds(mask)  # refuses an empty mask
        keep_mask = kept_cells(mask, self.vae.network.config.scale)
        if self.source is None:
            latent = self.vae.encode(fill_masked(picture, mask))
            return Control(branch, latent, *effect, keep_mask=keep_mask)
        source = self.vae.encode(fill_masked(canvas.picture(self.source, self.fit), mask, GREY))
        return Control(
            branch, self.vae.encode(picture), *effect, keep_mask=keep_mask, source=source
        )

    def _inpaints(self, branch: ControlModel) -> bool:
        """True if the mask is the area to inpaint."""
        if self.source is not None and not branch.network.borrows:
            raise InkstoneError(
                f"The control {branch.path.name} takes no picture to inpaint in addition to its "
                "map: only Fun Union does. Give an inpainting ControlNet the picture as its map."
            )
        return branch.masked or self.source is not None

    def _in_context(self, branch: InContextModel, canvas: Canvas) -> InContext:
        name, effect = branch.path.name, self.effect
        if (effect.start, effect.end) != (0.0, 1.0):
            raise InkstoneError(
                f"The control {name} is an in-context LoRA, which acts in all steps: start "
                f"{effect.start:g} and end {effect.end:g} are not supported. Set them to 0 and 1."
            )
        if self.mask is not None or self.source is not None:
            raise InkstoneError(
                f"The control {name} is an in-context LoRA, which takes its map and no mask. "
                "Disconnect the mask, or use a ControlNet that takes one."
            )
        return InContext(
            branch, self.vae.encode(canvas.picture(self.picture, self.fit)), effect.strength
        )
