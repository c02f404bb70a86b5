"""Regional prompts of a request: checked, counted, and as the network reads them."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ..errors import InkstoneError
from ..kernels.configs import MMDiTConfig
from ..kernels.regions import Regions
from ..kernels.rope import Grid
from .geometry import TOKEN
from .nan_check import check
from .region_choices import COMPOSED, ELIGEN, MOST
from .regions import Region, on_grid, place_of
from .request import Model, Request

_SLABS = 4  # of keys, values, queries and outputs that are gathered for one group


def regions_of(model: Model, r: Request, text: int, grids: Sequence[Grid]) -> Regions | None:
    """What the network reads of a request's regions; text: tokens of its prompt."""
    if r.regional is None:
        return None
    regions, settings = r.regional.regions, r.regional.settings
    cells = [torch.cat([on_grid(one.cells, grid) for grid in grids]) for one in regions]
    return Regions(
        texts=(*(one.states.shape[1] for one in regions), text),
        cells=torch.stack(cells).to(model.device),
        places=tuple(place_of(one.cells, grids, settings.method) for one in regions),
        base=settings.base if settings.method == COMPOSED else None,
    )


def region_bytes(model: Model, r: Request, tokens: int) -> int:
    """Bytes that regions need beside the activations; tokens: of images and all prompts, of all
    rows.
    """
    if r.regional is None:
        return 0
    gathered = _SLABS * tokens * model.network.config.width * model.dtype.itemsize
    return gathered + len(r.regional.regions) * tokens  # and who belongs where


def check_regions(model: Model, r: Request) -> None:
    """Raises InkstoneError if a request's regions do not fit the model or the canvas."""
    if r.regional is None:
        return
    if not isinstance(model.network.config, MMDiTConfig):
        name = model.variant.name if model.variant else "this model"
        raise InkstoneError(
            f"Regional prompts for {name}, which reads text and pictures in one order and has no "
            "place for them. Draw with Qwen-Image, or remove the regions."
        )
    if model.layered:
        raise InkstoneError(
            "Qwen-Image-Layered splits a picture into layers and takes no regional prompts. Remove "
            "the regions, or draw with Qwen-Image."
        )
    if r.references and r.regional.settings.method == COMPOSED:
        raise InkstoneError(
            f"Regional prompts by the method {COMPOSED} draw from words alone, this request has "
            f"{len(r.references)} reference pictures. Use the method {ELIGEN}, name the parts in "
            "the instruction, or edit one part at a time with a mask."
        )
    count = len(r.regional.regions)
    if not 1 <= count <= MOST:
        raise InkstoneError(f"{count} regions: expected 1 to {MOST}. Put some into one prompt.")
    for number, region in enumerate(r.regional.regions, 1):
        _check_region(model, r, number, region)


def _check_region(model: Model, r: Request, number: int, region: Region) -> None:
    joint, size = model.network.config.joint, [r.height // TOKEN, r.width // TOKEN]
    shape = list(region.states.shape)
    if len(shape) != 3 or shape[0] != 1 or shape[1] == 0 or shape[2] != joint:
        raise InkstoneError(
            f"The prompt of region {number} has shape {shape}: expected [1, tokens, {joint}]. "
            "Encode it with the text encoder of this diffusion model."
        )
    check(f"the prompt of region {number}", region.states, "of the text encoder")
    if list(region.cells.shape) != size:
        raise InkstoneError(
            f"Region {number} has {list(region.cells.shape)} tokens, the canvas {r.width}x"
            f"{r.height} has {size}: expected the same."
        )
    if not region.cells.any():
        raise InkstoneError(
            f"Region {number} is empty: its box or mask marks no part of the picture that is large "
            f"enough ({TOKEN}x{TOKEN} pixels are one token). Make it larger, or remove the region."
        )
