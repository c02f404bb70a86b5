"""What enlarging computes, restated with `denoise` alone: each step of each tile is a run of its
own, and their results are merged by the tiles' shares.
"""

from __future__ import annotations

from dataclasses import replace

import torch

from inkstone.sampling.noise import noise
from inkstone.sampling.sampler import denoise


def merged_by_hand(model, positive, negative, r, tiles):
    """The raw latents of `denoise_tiles` for a request with a latent, which is not changed."""
    latents, scale = model.latents, model.latents.scale

    def start(seed, width, height):
        return noise(seed, 1, *latents.sides(width, height), latents.channels)

    first = r.sigmas[0]
    x = first * start(r.seed, r.width, r.height)
    x = x + (1 - first) * (r.latent[:, :, 0] - model.latent_mean) / model.latent_std
    pairs = list(zip(r.sigmas, r.sigmas[1:], strict=False))
    for turn, pair in zip(reversed(range(len(pairs))), pairs, strict=True):
        after = torch.zeros_like(x)
        for tile in (moved := tiles.moved(turn)):
            left, top, right, bottom = (edge // scale for edge in tile.box)
            # the noise of the tile's run is subtracted: it starts where the canvas is
            clean = x[..., top:bottom, left:right] - pair[0] * start(r.seed, *tiles.size)
            raw = clean / (1 - pair[0]) * model.latent_std + model.latent_mean
            width, height = tiles.size
            own = replace(r, width=width, height=height, latent=raw[:, :, None])
            alone = denoise(model, positive, negative, replace(own, sigmas=torch.stack(pair)))
            z = (alone[:, :, 0] - model.latent_mean) / model.latent_std
            after[..., top:bottom, left:right] += moved.share(tile, scale) * z
        x = after
    return (x * model.latent_std + model.latent_mean)[:, :, None]
