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

from torch import Tensor

from ..errors import InkstoneError
from ..sampling.masks import bounds
from ..sampling.request import Control
from .canvas import Canvas
from .in_context import InContext, InContextModel
from .masks import GREY, blanked, kept_cells, region

if TYPE_CHECKING:
    from .canvas import Canvas

if TYPE_CHECKING:
    from ..loaders.models.control import ControlModel
    from ..loaders.models.vae import VAEModel


@dataclass(frozen=True)
class Effect:
    """How strongly and in which part of the steps a control acts (fractions of the steps)."""

    strength: float = 1.0
    start: float = 0.0
    end: float = 1.0


@dataclass(frozen=True, eq=False)
class ControlInput:
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


def placed(given: ControlInput, canvas: Canvas) -> InContext:
    """The map of a picture for this control, encoded at the size of the canvas."""
    name, effect = given.branch.path.name, given.effect
    if (effect.start, effect.end) != (0.0, 1.0):
        raise InkstoneError(
            f"The control {name} is an in-context LoRA, which acts in all steps: start "
            f"{effect.start:g} and end {effect.end:g} cannot be had. Set them to 0 and 1."
        )
    if given.mask is not None or given.source is not None:
        raise InkstoneError(
            f"The control {name} is an in-context LoRA, which takes its map and no mask. Take out "
            "the mask, or use a control that has one."
        )
    latent = given.vae.encode(canvas.picture(given.picture))
    return InContext(given.branch, latent, effect.strength)
