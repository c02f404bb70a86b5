"""Finds the things of a picture with Find in Picture, the text encoder's language model."""

from __future__ import annotations

import numpy as np
import torch

from ..loaders.models.text_encoder import TextEncoderModel
from ..pipeline.box_masks import mask_of
from ..pipeline.find import NothingFound, find
from ..pipeline.find_boxes import FoundBox
from ..pipeline.find_choices import GRABCUT
from .colours import colour_shares
from .things import Sighting

_SAME = 0.8  # overlap of two boxes that are one thing


class PictureFinder:
    """Find in Picture as a finder. Boxes that overlap almost wholly are one thing; its colours are
    those inside the edges that GrabCut finds.
    """

    def __init__(self, text_encoder: TextEncoderModel, name: str) -> None:
        self._text_encoder, self.name = text_encoder, f"Find in Picture, {name}"

    def sightings(self, picture: np.ndarray, what: str) -> list[Sighting]:
        """The things of a name in a picture uint8 [H,W,3]; none where the answer has no box."""
        pixels = torch.from_numpy(np.ascontiguousarray(picture)).float() / 255
        try:
            found = find(self._text_encoder, pixels, what)
        except NothingFound:
            return []
        things: list[FoundBox] = []
        for box in found.boxes:
            if all(_overlap(box, other) < _SAME for other in things):
                things.append(box)
        return [self._sighting(picture, pixels, box) for box in things]

    def _sighting(self, picture: np.ndarray, pixels: torch.Tensor, box: FoundBox) -> Sighting:
        mask = mask_of(pixels, [box], GRABCUT)[0].numpy() > 0.5
        return Sighting(*box.span, colour_shares(picture[mask]))


def _overlap(a: FoundBox, b: FoundBox) -> float:
    """Intersection over union."""
    across = min(a.span.right, b.span.right) - max(a.span.left, b.span.left)
    down = min(a.span.bottom, b.span.bottom) - max(a.span.top, b.span.top)
    both = max(0.0, across) * max(0.0, down)
    return both / max(1e-9, a.span.area + b.span.area - both)
