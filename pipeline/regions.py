"""Regional prompts before the canvas is known: encoded words with their box or mask."""

from __future__ import annotations

import logging
from dataclasses import dataclass

import torch
from torch import Tensor

from ..controlnet.canvas import Canvas
from ..errors import InkstoneError
from ..loaders.models.text_encoder import TextEncoderModel
from ..sampling.pixel_lock import size_of
from ..sampling.region_choices import BoxSpec, RegionSettings
from ..sampling.regions import Region, Regional, cells_of

log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class RegionInput:
    """states [1,L,J] of a prompt; where: a box, or a mask [H,W] or [1,H,W] of any size, which is
    stretched over the picture.
    """

    prompt: str
    states: Tensor
    where: BoxSpec | Tensor

    def on(self, canvas: Canvas, number: int) -> Region:
        """The region on a canvas; number: for messages."""
        width, height = canvas.crop.picture
        if isinstance(self.where, BoxSpec):
            mask = torch.zeros(1, height, width)
            self.where.on(width, height).of(mask).fill_(1)
        else:
            mask = self.where
            if size_of(mask) != (width, height):
                log.info(
                    "the mask of region %d is %dx%d: it is stretched over the picture, %dx%d",
                    *(number, *size_of(mask), width, height),
                )
        return Region(self.states, cells_of(canvas.mask(mask)[0]))


@dataclass(frozen=True, eq=False)
class RegionInputs:
    """Regions in order, and how they act."""

    regions: tuple[RegionInput, ...]
    settings: RegionSettings

    def on(self, canvas: Canvas) -> Regional:
        """The regional prompts of a run on this canvas. Raises InkstoneError."""
        placed = (region.on(canvas, number) for number, region in enumerate(self.regions, 1))
        return Regional(tuple(placed), self.settings)

    def joined(self, earlier: RegionInputs | None) -> RegionInputs:
        """These behind those of another node. Raises InkstoneError where that acts otherwise."""
        if earlier is None:
            return self
        if earlier.settings != self.settings:
            raise InkstoneError(
                f"Two nodes of regional prompts act in different ways, {earlier.settings.words()} "
                f"and {self.settings.words()}: expected the same method, base ratio, start and "
                "end. Set both nodes alike."
            )
        return RegionInputs((*earlier.regions, *self.regions), self.settings)


def region_input(
    text_encoder: TextEncoderModel, number: int, prompt: str, where: BoxSpec | Tensor
) -> RegionInput:
    """Encodes a region's prompt in the template of a prompt, as EliGen was trained."""
    if not isinstance(where, BoxSpec) and where.dim() == 3 and len(where) > 1:
        raise InkstoneError(
            f"Region {number} got a batch of {len(where)} masks: expected one. Choose one of them, "
            "or put them together with a mask composite."
        )
    states = text_encoder.encode(prompt.strip()).states
    return RegionInput(prompt, states.float().cpu(), where)
