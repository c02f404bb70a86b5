"""Regional prompts of a run: which tokens belong to a region, and where its words stand.

Two methods. eligen: DiffSynth-Studio's numbers, for models with EliGen's LoRA; the words of every
region stand where those of the prompt do. composed: for any model of the first family; a region is
drawn like a picture of its own, so its words are moved by whole tokens with its middle, and the
base ratio mixes in what its pixels would see without regions.

A token belongs to a region if the mask marks one of its latent pixels, and of a latent pixel its
middle counts (reference: EliGen).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ..kernels.rope import Grid, Place
from .geometry import LATENT, TOKEN
from .region_choices import ELIGEN, RegionSettings


@dataclass(frozen=True, eq=False)
class Region:
    """One regional prompt: states [1,L,J]; cells [h,w] bool, tokens of the canvas."""

    states: Tensor
    cells: Tensor


@dataclass(frozen=True, eq=False)
class Regional:
    """The regional prompts of a drawing."""

    regions: tuple[Region, ...]
    settings: RegionSettings = RegionSettings()

    @property
    def tokens(self) -> int:
        """Of all their prompts."""
        return sum(region.states.shape[1] for region in self.regions)

    def joined(self, text: Tensor) -> Tensor:
        """States [1,L,J] of all prompts in one row, the global one last."""
        return torch.cat([region.states.to(text) for region in self.regions] + [text], dim=1)


def cells_of(mask: Tensor) -> Tensor:
    """A mask [H,W] of the canvas in pixels, 1 = the region -> [H/16,W/16] bool: its tokens."""
    size = mask.shape[0] // LATENT, mask.shape[1] // LATENT
    latent = F.interpolate(mask[None, None].float(), size, mode="nearest-exact") > 0.5
    return F.max_pool2d(latent.float(), TOKEN // LATENT)[0, 0] > 0


def bounds_of(cells: Tensor) -> tuple[int, int, int, int]:
    """First row, first column, rows, columns of the smallest box around the tokens [h,w]."""
    rows, columns = (cells.any(d).nonzero().flatten().tolist() for d in (1, 0))
    return rows[0], columns[0], rows[-1] - rows[0] + 1, columns[-1] - columns[0] + 1


def place_of(cells: Tensor, grids: Sequence[Grid], method: str) -> Place:
    """The position of the first word of a region [h,w]. eligen: that of the prompt, the largest
    half side of all images. composed: from there moved as the region's middle is from where the
    middle of a picture of just its size would be; rows and columns of n start at -(n - n//2).
    """
    first = max(max(h // 2, w // 2) for _, h, w in grids)
    if method == ELIGEN:
        return first, first, first
    top, left, rows, columns = bounds_of(cells)
    height, width = cells.shape
    down = top - (height - height // 2) + rows - rows // 2
    across = left - (width - width // 2) + columns - columns // 2
    return first, first + down, first + across


def on_grid(cells: Tensor, grid: Grid) -> Tensor:
    """Tokens [h,w] of the canvas -> [frames*rows*columns] of an image of another grid, which they
    are stretched over.
    """
    frames, *size = grid
    same = F.interpolate(cells[None, None].float(), size, mode="nearest-exact")[0, 0] > 0.5
    return same.flatten().repeat(frames)
