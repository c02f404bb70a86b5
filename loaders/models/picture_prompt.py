"""A prompt with pictures: its tokens, and the forward in which rows of the vision tower take the
places of `<|image_pad|>`. Edits and answers read their prompts through it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ...kernels.kv_cache import KeyValues
from ...kernels.text_encoder import DeepRows, TextEncoder, picture_positions
from .vision import EncodedPicture


@dataclass(frozen=True)
class PicturePrompt:
    """Tokens in which each picture is a run of `pad`, and the pictures in order."""

    ids: Sequence[int]
    pad: int
    pictures: Sequence[EncodedPicture] = field(repr=False)
    positions: Tensor | None = None  # [3,L] of all tokens; None without pictures

    @classmethod
    def of(cls, ids: Sequence[int], pad: int, pictures: Sequence[EncodedPicture]) -> PicturePrompt:
        """Repeats each picture's one `pad` once for every cell of its grid."""
        grids = [picture.grid for picture in pictures]
        left, long = iter(grids), list[int]()
        for token in ids:
            long += [pad] * math.prod(next(left)) if token == pad else [token]
        return cls(long, pad, pictures, picture_positions(long, pad, grids))

    @property
    def rows(self) -> int:
        """Of all pictures."""
        return sum(math.prod(picture.grid) for picture in self.pictures)

    def states(
        self,
        network: TextEncoder,
        device: torch.device,
        caches: Sequence[KeyValues],
        start: int = 0,
        answering: bool = False,
    ) -> Tensor:
        """[1,L-start,W] of the tokens from `start` on, which stand behind those in the cache."""
        assert self.positions is not None, "a prompt without pictures"
        ids = torch.tensor([self.ids[start:]], device=device)
        where, embeds = ids == self.pad, network.embed(ids)
        embeds[where] = torch.cat([picture.rows for picture in self.pictures]).to(embeds)
        levels = zip(*(picture.deep for picture in self.pictures), strict=True)
        deep = DeepRows(where, tuple(torch.cat(rows).to(embeds) for rows in levels))
        return network(ids, caches, embeds, self.positions[:, None, start:], deep, answering)

    def without_pictures(self, states: Tensor, start: int) -> tuple[Tensor, tuple[int, ...]]:
        """(the rows of [1,L-start,W] that are text, for each picture the number of them before its
        place), where latents take the places of pictures."""
        kept = [token != self.pad for token in self.ids[start:]]
        slots, rows, at = [], 0, 0
        for picture in self.pictures:
            place = kept.index(False, at)
            rows, at = rows + place - at, place + math.prod(picture.grid)
            slots.append(rows)
        return states[:, torch.tensor(kept, device=states.device)], tuple(slots)
