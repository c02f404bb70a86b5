"""Enlarges a picture with a diffusion model: resampled, then redrawn tile by tile at a small
strength (sampling/tiled.py).

What is unusual: memory is that of one tile whatever the size. The picture is kept as bytes, and the
VAE works on the same tiles, in its exact strips where that saves memory: its attention in the
middle sees one tile, as it was trained, and what tiles decode is merged by the same smooth shares.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import InkstoneError
from ..loaders.models.bundle import check_latents
from ..sampling.geometry import LARGEST, LatentSpec
from ..sampling.pixel_lock import (
    Size,
    check_picture,
    colour,
    lock,
    pad_edges,
    resized,
    size_of,
    visible,
)
from ..sampling.request import NO_HOOKS, Hooks, Request
from ..sampling.tiled import denoise_tiles
from ..sampling.tiles import Tile, Tiles, merged, tiles_of
from ..sampling.variety_choices import Variety
from .plan_stages import PlanRequest
from .upscale_choices import MOST_FACTOR

if TYPE_CHECKING:
    from ..loaders.models.diffusion_model import DiffusionModel
    from ..loaders.models.vae import VAEModel

log = logging.getLogger(__name__)

_STRIP = 64  # columns of a picture that are resampled, or rows that are rounded, at a time


@dataclass(frozen=True, eq=False)
class Redraw:
    """How enlarged pictures are redrawn."""

    model: DiffusionModel
    vae: VAEModel
    tiles: Tiles  # of `tiles_for`
    positive: Tensor  # [1,L,J]
    negative: Tensor | None
    sigmas: Tensor  # from sigma(strength) down to 0
    seed: int = 0
    cfg: float = 1.0
    encoded_for: str = ""  # see Request


def enlarged_size(size: Size, factor: float) -> Size:
    """The exact size of the result."""
    if not 1 <= factor <= MOST_FACTOR:
        raise InkstoneError(
            f"The upscale factor is {factor:g}: expected 1 to {MOST_FACTOR}. 2 is usual; 1 redraws "
            "a picture at its own size."
        )
    width, height = (max(1, math.floor(side * factor + 0.5)) for side in size)
    if max(width, height) > LARGEST:
        raise InkstoneError(
            f"{size[0]}x{size[1]} enlarged {factor:g} times is {width}x{height}: expected up to "
            f"{LARGEST} pixels a side. Lower the factor."
        )
    return width, height


def tiles_for(model: DiffusionModel, size: Size, side: int = 0) -> Tiles:
    """The tiles over a picture of this size, with its padding. side: of a tile in pixels; 0 = of
    the area that the model draws.
    """
    latents = model.latents
    if not side:
        side = math.isqrt(math.prod(model.preset().size)) // latents.step * latents.step
    return tiles_of(lock(*size, latents=latents).canvas, side, latents.step)


def tile_request(tiles: Tiles, strength: float, steps: int, cfg: float) -> PlanRequest:
    """The memory plan's request: one tile after the other. steps: of a whole schedule."""
    return PlanRequest(size=tiles.size, strength=strength, steps=steps, cfg=cfg, tiles=len(tiles))


def enlarged(picture: Tensor, size: Size) -> Tensor:
    """One picture [1,H,W,1|3|4] 0..1, resampled -> bytes [1,height,width,3|4]: those of `resized`,
    without a float copy of the result.
    """
    check_picture(picture)
    picture = colour(picture) if picture.shape[-1] == 1 else picture
    out = torch.empty(1, size[1], size[0], picture.shape[-1], dtype=torch.uint8)
    if picture.shape[-1] == 4 and bool((picture[..., 3] < 1).any()):
        return _rounded(resized(picture, size), out)
    if size_of(picture) == size:
        return _rounded(picture, out)
    height = picture.shape[1]
    for k in range(out.shape[-1]):  # across, then down: the order in which torch does both at once
        wide = _bicubic(picture[..., k], (height, size[0]))
        for left in range(0, size[0], _STRIP):
            strip = wide[..., left : left + _STRIP]
            tall = _bicubic(strip, (size[1], strip.shape[-1])).clamp_(0, 1)
            out[..., left : left + _STRIP, k] = tall.mul_(255).round_().byte()
    return out


def _bicubic(x: Tensor, shape: tuple[int, int]) -> Tensor:
    return F.interpolate(x[:, None].float(), shape, mode="bicubic", antialias=True)[:, 0]


def _rounded(picture: Tensor, out: Tensor) -> Tensor:
    for rows, part in zip(picture.split(_STRIP, 1), out.split(_STRIP, 1), strict=True):
        part.copy_((rows * 255).round().clamp(0, 255))
    return out


def upscaled_batch(
    pictures: Tensor,
    size: Size,
    redraw: Redraw | None = None,
    hooks: Callable[[], Hooks] = lambda: NO_HOOKS,
) -> Tensor:
    """Pictures [B,H,W,C] 0..1 -> [B,height,width,C] float32, one by one. redraw: None = resampled
    only; hooks: of each picture; picture k has seed + k.
    """
    items = []
    for k, picture in enumerate(pictures.split(1)):
        item = enlarged(picture, size)
        if redraw is not None:
            own = replace(redraw, seed=(redraw.seed + k) % 2**64)
            item = redrawn(item, own, hooks())
        items.append(item)
    out = torch.empty(len(items), *items[0].shape[1:])
    for whole, item in zip(out.split(1), items, strict=True):
        whole.copy_(item).div_(255)
    return out


def redrawn(picture: Tensor, redraw: Redraw, hooks: Hooks = NO_HOOKS) -> Tensor:
    """Bytes [1,H,W,3|4] of `enlarged` -> redrawn, in the same memory. Alpha is redrawn where the
    VAE has it, else kept.
    """
    model, vae, tiles = redraw.model, redraw.vae, redraw.tiles
    check_latents(model, vae)
    log.info(
        "redrawing %dx%d in %d steps: %d tiles of %dx%d, merged in every step",
        *(*size_of(picture), len(redraw.sigmas) - 1, len(tiles), *tiles.size),
    )
    if model.step_cache is not None:
        log.info("the step cache is off: it follows one canvas, and these are %d", len(tiles))
    if model.variety != Variety():
        log.info("variety is off: the picture that it varied is there")
    model = replace(model, step_cache=None, variety=Variety())
    model = replace(model, latent_mean=vae.mean, latent_std=vae.std)
    request = Request(
        width=tiles.canvas[0],
        height=tiles.canvas[1],
        sigmas=redraw.sigmas,
        seed=redraw.seed,
        cfg=redraw.cfg,
        latent=_encoded(vae, picture, tiles, model.latents),
        encoded_for=redraw.encoded_for,
    )
    z = denoise_tiles(model, redraw.positive, redraw.negative, request, tiles, hooks)
    _decoded(vae, z, tiles, picture)
    return picture


def _encoded(vae: VAEModel, picture: Tensor, tiles: Tiles, latents: LatentSpec) -> Tensor:
    """Bytes [1,H,W,3|4] -> the raw latent [1,C,1,h,w] of their canvas, merged from those of its
    tiles.
    """
    alpha = vae.network.config.channels == 4

    def encode(tile: Tile) -> Tensor:
        seen = pad_edges(tile.box.of(picture), tiles.size)
        seen = visible(seen.float().div_(255))
        return vae.encode(seen if alpha else colour(seen))

    z = torch.empty(1, *latents.shape(*tiles.canvas))
    for (left, top, right, bottom), values in merged(tiles, encode, latents.scale):
        z[..., top:bottom, left:right] = values
    return z


def _decoded(vae: VAEModel, z: Tensor, tiles: Tiles, picture: Tensor) -> None:
    """Writes the picture of a raw latent over these bytes. Alpha that the VAE does not draw
    stays.
    """
    scale = vae.network.config.scale
    channels = min(picture.shape[-1], vae.network.config.channels)

    def decode(tile: Tile) -> Tensor:
        left, top, right, bottom = (edge // scale for edge in tile.box)
        part = vae.decode(z[..., top:bottom, left:right])[0, ..., :channels]
        return part.permute(2, 0, 1)  # [C,h,w]

    for box, values in merged(tiles, decode):
        place = box.of(picture)[0, ..., :channels]  # without the padding
        rows, columns, _ = place.shape
        rounded = values[:, :rows, :columns].mul(255).round_().clamp_(0, 255)
        place.copy_(rounded.permute(1, 2, 0))
