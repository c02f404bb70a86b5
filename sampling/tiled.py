"""Denoising a canvas tile by tile, merged in every step.

In each step every tile's velocity is computed as that of a canvas of its own, and merged by smooth
shares into one velocity of the whole latent, which one Euler step follows (the idea:
MultiDiffusion, 2023, there with equal shares). Tiles thus agree from the first step on; they lie in
other places in each step, because a model draws other things in the middle of what it sees than at
its border. The network works on one tile at a time. One tensor has the canvas's size, the latent,
which is in main memory and is changed in place: places follow their velocity as soon as no later
tile of the step reads them.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from ..errors import InkstoneError
from .checks import check_request, texts_of
from .denoise import Step
from .denoise_run import DenoiseRun
from .guidance import guide
from .noise import noise
from .request import NO_HOOKS, Hooks, Model, Request
from .sampler import latent_to_start_from, running
from .tiles import Tile, Tiles, merged


def denoise_tiles(
    model: Model,
    positive: Tensor,
    negative: Tensor | None,
    request: Request,
    tiles: Tiles,
    hooks: Hooks = NO_HOOKS,
) -> Tensor:
    """`denoise` of one picture on the canvas of `tiles`, which is the request's: raw VAE latents
    [1,C,1,h,w]. The request's latent is written over where it is float32 in main memory.

    Raises InkstoneError for what belongs to a whole canvas: references, layers, controls, regions,
    masks, a step cache.
    """
    r = request
    _check(model, r, tiles)
    check_request(model, r)
    texts = texts_of(model, positive, negative, r.cfg)
    z = _start(model, r)
    width, height = tiles.size
    one = replace(r, width=width, height=height, latent=None)
    with running(model, texts, one, hooks) as run:
        clean = torch.empty_like(z) if hooks.on_step and hooks.previews else None
        for step in range(steps := len(r.sigmas) - 1):
            _advance(run, tiles.moved(steps - 1 - step), z, step, clean)
            if hooks.on_step is not None:
                hooks.on_step(_finished(run, z, step, clean))
        return z.mul_(model.latent_std).add_(model.latent_mean)[:, :, None]


def _start(model: Model, r: Request) -> Tensor:
    """The state [1,C,h,w] at the first sigma: noise, mixed with the latent, in the latent's place
    (the numbers of `start_of`).
    """
    latents, first = model.latents, r.sigmas[0].item()
    x = noise(r.seed, 1, *latents.sides(r.width, r.height), latents.channels)
    if first >= 1:
        return x
    z = latent_to_start_from(r)[:, :, 0].float().cpu()
    z.sub_(model.latent_mean).div_(model.latent_std)
    return z.mul_(1 - first).add_(x.mul_(first))


def _advance(run: DenoiseRun, tiles: Tiles, z: Tensor, step: int, clean: Tensor | None) -> None:
    """An Euler step of the state z [1,C,h,w] in place. clean: becomes the predicted clean latents.
    Guidance is a matter of each token, so it is done tile by tile.
    """
    latents, sigmas = run.model.latents, run.request.sigmas

    def velocity(tile: Tile) -> Tensor:
        left, top, right, bottom = (edge // latents.scale for edge in tile.box)
        tokens = latents.pack(z[..., top:bottom, left:right]).to(run.model.device)
        v, negative = run.velocity(tokens, step)
        if negative is not None:
            v = guide(v, negative, run.request.cfg, run.model.rescales)
        grid = (side // latents.scale // latents.patch for side in reversed(tile.box.size))
        return latents.unpack(v, *grid).cpu()

    for (left, top, right, bottom), v in merged(tiles, velocity, latents.scale):
        x = z[..., top:bottom, left:right]
        if clean is not None:
            clean[..., top:bottom, left:right] = x - sigmas[step].item() * v
        x += (sigmas[step + 1] - sigmas[step]) * v


def _finished(run: DenoiseRun, z: Tensor, step: int, clean: Tensor | None) -> Step:
    sigmas, x = run.request.sigmas, run.model.latents.pack(z)
    x0 = x if clean is None else run.model.latents.pack(clean)
    return Step(step, len(sigmas) - 1, sigmas[step].item(), x, x0)


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
