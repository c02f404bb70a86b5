"""Enlarging with the embedded model: seams, seconds, and the most memory by size.

Seams: each picture is enlarged at every shift of the tiles' step, with its noise, so that every
column of what it shows lies once at a tile's border and once at every other place: the mean
gradient at borders and elsewhere then differs by seams alone, and the ratio is 1 without them.
Elsewhere is the middle half of the picture, whose places lie in several tiles, as borders do. The
error is that of the mean over pictures (jackknife). `apart`: the same with tiles that are redrawn
without overlap, for which the measure has to show a seam.

Memory: a process of its own for each size, the most that it held above what it held before, less
the bytes of the pictures.

python bench/upscale.py
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from unittest import mock

import numpy as np
import torch
from torch import Tensor

import scripts.package  # noqa: F401  makes this tree importable as `inkstone`
from bench import harness
from inkstone.headless.draw.api import LoadedModels, load
from inkstone.loaders.models.load import load_all
from inkstone.loaders.models.weight_file import LoadOptions
from inkstone.pipeline.upscale import Redraw, enlarged, enlarged_size, redrawn, tiles_for
from inkstone.pipeline.upscale_choices import USUAL_STRENGTH
from inkstone.pipeline.usual_settings import usual_settings
from inkstone.sampling import tiled
from inkstone.sampling.noise import noise
from inkstone.sampling.pixel_lock import size_of
from inkstone.sampling.schedule import sigmas, tail
from inkstone.sampling.tiles import Tiles
from inkstone.training.grammar import prompt, sample

FACTOR, SHIFT = 2, 16  # SHIFT: pixels of the enlarged picture, the step of the tiles


def drawn(models: LoadedModels, count: int) -> list[tuple[str, Tensor]]:
    """Prompts of the grammar and their pictures [1,H,W,3] in 0..1."""
    rng, pairs = np.random.default_rng(19), []
    for seed in range(count):
        text = prompt(sample(rng, "scenes", None, "test"))
        array = np.asarray(models.draw(text, seed=seed, size=(128, 128))[0])
        pairs.append((text, torch.from_numpy(array.copy())[None].float() / 255))
    return pairs


class Upscaler:
    """The embedded model as it enlarges."""

    def __init__(self, strength: float) -> None:
        options = LoadOptions(device=torch.device("cpu"), wait=True)
        self.bundle, self.strength = load_all(None, options), strength
        self.usual = usual_settings(self.bundle.model)

    def __call__(
        self,
        text: str,
        picture: Tensor,
        factor: float,
        apart: bool = False,
        side: int = 0,
        seed: int = 1,
    ) -> Tensor:
        """Bytes of the enlarged picture. apart: tiles that do not overlap; side: of a tile."""
        model, preset = self.bundle.model, self.usual.preset
        size = enlarged_size(size_of(picture), factor)
        tiles = tiles_for(model, size, side)
        if apart:
            lefts, tops = (
                tuple(range(0, whole, side))
                for whole, side in zip(tiles.canvas, tiles.size, strict=True)
            )
            tiles = replace(tiles, lefts=lefts, tops=tops)
        grid = tiles.size[0] * tiles.size[1] // 256
        encode = self.bundle.text_encoder.encode
        redraw = Redraw(
            model=model,
            vae=self.bundle.vae,
            tiles=tiles,
            positive=encode(text).states,
            negative=encode(preset.negative).states,
            sigmas=tail(sigmas(self.usual.schedule, preset.steps, grid), self.strength),
            seed=seed,
            cfg=preset.cfg,
        )
        self.tiles = tiles
        return redrawn(enlarged(picture, size), redraw)


def gradients(picture: Tensor) -> list[Tensor]:
    """Mean difference of neighbours at each place along x and y; place k: of k and k + 1."""
    x = picture[0].float()
    return [x.diff(dim=1).abs().mean((0, 2)), x.diff(dim=0).abs().mean((1, 2))]


def at_borders(tiles: Tiles) -> list[Tensor]:
    """For x and y: which places are the border of a tile."""
    masks = []
    for starts, side, whole in zip((tiles.lefts, tiles.tops), tiles.size, tiles.canvas):
        edges = {start for start in starts} | {start + side for start in starts}
        masks.append(torch.tensor([place + 1 in edges for place in range(whole - 1)]))
    return masks


def seam(
    upscaler: Upscaler, pictures: list[tuple[str, Tensor]], apart: bool
) -> tuple[float, float]:
    """Mean gradient at borders by that at other places of the tiles' step, and its error."""
    at, off = [], []
    for k, (text, picture) in enumerate(pictures):
        total = torch.zeros(2, picture.shape[1] * FACTOR - 1)
        for shift in range(0, picture.shape[1], SHIFT // FACTOR):
            moved, places = picture.roll((shift, shift), (1, 2)), shift * FACTOR // 8
            rolled = partial(_rolled_noise, places)
            with mock.patch.object(tiled, "noise", rolled):
                out = upscaler(text, moved, FACTOR, apart, seed=k)
            total += torch.stack(gradients(out))
        borders = torch.stack(at_borders(upscaler.tiles))
        grid = torch.arange(1, total.shape[1] + 1) % SHIFT == 0
        grid[: len(grid) // 4] = grid[3 * len(grid) // 4 + 1 :] = False
        at.append(total[borders].mean())
        off.append(total[grid & ~borders].mean())
    near, far = torch.stack(at), torch.stack(off)
    ratios = (near.sum() - near) / (far.sum() - far)  # without each picture
    error = ((ratios - ratios.mean()).square().sum() * (len(at) - 1) / len(at)).sqrt()
    return float(near.sum() / far.sum()), float(error)


def _rolled_noise(places: int, *shape: int) -> Tensor:
    return noise(*shape).roll((places, places), (-2, -1))


def memory(side: int, tile: int, strength: float) -> dict[str, float]:
    """Seconds, and bytes held at most without the picture, of a picture of side x side pixels."""
    upscaler = Upscaler(strength)
    picture = torch.rand(1, tile, tile, 3)
    upscaler(
        "a red circle on a white background", picture, 1, side=tile
    )  # libraries and kernels are loaded
    picture = torch.rand(1, side // 2, side // 2, 3)
    before, start = harness.resident(), time.perf_counter()
    out = upscaler("a red circle on a white background", picture, 2, side=tile)
    seconds = time.perf_counter() - start
    peak, tiles = harness.peak(), len(upscaler.tiles)
    given = picture.numel() * picture.element_size()
    return {
        "MP": out[0, ..., 0].numel() / 1e6,
        "tiles": tiles,
        "seconds": seconds,
        "process MB": (peak - out.numel() - given) / 1e6,
        "above the start MB": (peak - before - out.numel()) / 1e6,
    }


def main() -> None:
    """Prints both."""
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("--pictures", type=int, default=20)
    p.add_argument("--strength", type=float, default=USUAL_STRENGTH)
    p.add_argument("--sides", type=int, nargs="*", default=[1024, 2048, 4096])
    p.add_argument("--tile", type=int, default=512, help="of the sizes below; fewer are quicker")
    p.add_argument("--one", type=int, help=argparse.SUPPRESS)
    args = p.parse_args()
    if args.one:
        print(json.dumps(memory(args.one, args.tile, args.strength)))
        return
    if args.pictures:
        with load() as models:
            pictures = drawn(models, args.pictures)
        upscaler = Upscaler(args.strength)
        for name, apart in (("merged in every step", False), ("apart", True)):
            ratio, error = seam(upscaler, pictures, apart)
            print(
                f"{len(pictures)} pictures, {name}: gradient at borders / elsewhere "
                f"{ratio:.4f} +- {error:.4f}",
                flush=True,
            )
    for side in args.sides:
        call = [sys.executable, __file__, "--one", str(side), "--tile", str(args.tile)]
        call += ["--strength", str(args.strength)]
        line = subprocess.run(call, check=True, stdout=subprocess.PIPE, text=True).stdout
        facts = json.loads(line.splitlines()[-1])
        print(f"{side}x{side}: " + ", ".join(f"{k} {v:.1f}" for k, v in facts.items()), flush=True)


if __name__ == "__main__":
    main()
