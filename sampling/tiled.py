"""Denoising a canvas tile by tile, merged in every step.

In each step every tile's velocity is computed as that of a canvas of its own, and merged by smooth
shares into one velocity of the whole latent, which one Euler step follows (the idea:
MultiDiffusion, 2023, there with equal shares). Tiles thus agree from the first step on. The network
works on one tile at a time; what has the canvas's size are latents alone, a few bytes for each of
its pixels.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from ..errors import InkstoneError
from .checks import check_request, texts_of
from .denoise import euler
from .denoise_run import DenoiseRun
from .geometry import TOKEN
from .guidance import guide
from .request import NO_HOOKS, Hooks, Model, Request
from .sampler import raw_latents, running, start_of
from .tiles import Tile, Tiles


def denoise_tiles(
    model: Model,
    positive: Tensor,
    negative: Tensor | None,
    request: Request,
    tiles: Tiles,
    hooks: Hooks = NO_HOOKS,
) -> Tensor:
    """`denoise` of one picture on the canvas of `tiles`, which is the request's: raw VAE latents
    [1,C,1,h,w]. Raises InkstoneError for what belongs to a whole canvas: references, layers,
    controls, regions, masks, a step cache.
    """
    r = request
    _check(model, r, tiles)
    check_request(model, r)
    texts = texts_of(model, positive, negative, r.cfg)
    start, _ = start_of(model, r)
    width, height = tiles.size
    one = replace(r, width=width, height=height, latent=None)
    with running(model, texts, one, hooks) as run:
        velocity = partial(merged, run, tiles)
        x = euler(velocity, start, r.sigmas, on_step=hooks.on_step)
        return raw_latents(model, x, r)


def merged(run: DenoiseRun, tiles: Tiles, x: Tensor, step: int) -> tuple[Tensor, None]:
    """The velocity of the canvas's tokens x [1,S,F], guided, see `denoise.Velocity`: guidance is a
    matter of each token, so it is done tile by tile, without copies of the canvas's size.
    """
    whole = torch.zeros_like(x)
    for tile in tiles:
        v, negative = run.velocity(_part(tiles, tile, x).flatten(1, 2), step)
        if negative is not None:
            v = guide(v, negative, run.request.cfg, run.model.rescales)
        part = _part(tiles, tile, whole)
        part += _token_shares(run.model, tiles, tile).to(x.device) * v.unflatten(1, part.shape[1:3])
    return whole, None


def _part(tiles: Tiles, tile: Tile, x: Tensor) -> Tensor:
    """A view of a tile's tokens in those of the canvas: [1,S,F] -> [1,rows,columns,F]."""
    left, top, right, bottom = (edge // TOKEN for edge in tile.box)
    grid = x.unflatten(1, (tiles.canvas[1] // TOKEN, tiles.canvas[0] // TOKEN))
    return grid[:, top:bottom, left:right]


def _token_shares(model: Model, tiles: Tiles, tile: Tile) -> Tensor:
    """A tile's share in each latent pixel, as tokens [1,rows,columns,F]."""
    latents = model.latents
    share = tiles.share(tile, latents.scale).expand(1, latents.channels, -1, -1)
    width, height = tiles.size
    return latents.pack(share).unflatten(1, (height // TOKEN, width // TOKEN))


def _check(model: Model, r: Request, tiles: Tiles) -> None:
    """Raises where a request asks for what tiles cannot have."""
    asked = {
        "reference pictures": r.references,
        "layers (Qwen-Image-Layered)": r.layers or model.layered,
        "controls": r.controls or r.context,
        "regional prompts": r.regional is not None,
        "a mask": r.repaint is not None,
        "a step cache": model.step_cache is not None,
        "a batch": r.batch > 1,
    }
    found = [name for name, value in asked.items() if value]
    if found:
        raise InkstoneError(
            f"A picture is enlarged tile by tile, which does not go with {found[0]}: what belongs "
            "to a whole canvas is drawn first. Remove it here, and enlarge the result."
        )
    if (r.width, r.height) != tiles.canvas:
        raise InkstoneError(
            f"The tiles are for a canvas of {tiles.canvas[0]}x{tiles.canvas[1]}, the request's is "
            f"{r.width}x{r.height}: expected the same."
        )
