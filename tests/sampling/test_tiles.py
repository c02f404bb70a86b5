"""Tiles of a canvas, and denoising that merges them in every step."""

from dataclasses import replace
from itertools import pairwise

import pytest
import torch

from inkstone.errors import InkstoneError
from inkstone.loaders.models.load import load_all
from inkstone.loaders.models.weight_file import LoadOptions
from inkstone.sampling.noise import noise
from inkstone.sampling.request import Request
from inkstone.sampling.sampler import denoise
from inkstone.sampling.schedule import LINEAR, sigmas, tail
from inkstone.sampling.tiled import denoise_tiles
from inkstone.sampling.tiles import LEAST_OVERLAP, OVERLAP, tiles_of

CANVASES = [
    ((256, 256), 128, 16),
    ((400, 144), 128, 16),
    ((1328, 2656), 1328, 16),
    ((4096, 4096), 1328, 16),
    ((2080, 3104), 1024, 32),
    ((112, 96), 128, 16),
    ((112, 640), 128, 16),
]


@pytest.mark.parametrize(("canvas", "side", "step"), CANVASES)
def test_tiles_cover_the_canvas_and_overlap_by_a_quarter(canvas, side, step):
    tiles = tiles_of(canvas, side, step)
    for starts, own, whole in zip((tiles.lefts, tiles.tops), tiles.size, canvas, strict=True):
        assert own == min(side, whole)
        assert starts[0] == 0 and starts[-1] + own == whole
        assert all(start % step == 0 for start in starts)
        asked = min(max(side // OVERLAP, LEAST_OVERLAP), side // 2)
        overlaps = [a + own - b for a, b in pairwise(starts)]
        assert all(overlap >= asked for overlap in overlaps), overlaps
        assert all(a < b for a, b in pairwise(starts))
    assert len(list(tiles)) == len(tiles)


@pytest.mark.parametrize(("canvas", "side", "step"), CANVASES)
@pytest.mark.parametrize("unit", [1, 8, 16])
def test_shares_sum_to_one_and_fall_to_nothing_at_inner_borders(canvas, side, step, unit):
    if unit == 1 and canvas[0] * canvas[1] > 2**21:
        pytest.skip("the same numbers as for smaller canvases")
    tiles = tiles_of(canvas, side, step)
    whole = torch.zeros(canvas[1] // unit, canvas[0] // unit)
    for tile in tiles:
        left, top, right, bottom = (edge // unit for edge in tile.box)
        share = tiles.share(tile, unit)
        assert (share > 0).all()
        whole[top:bottom, left:right] += share
        if tile.box.left:
            assert share[:, 0].max() < 0.2 if unit > 1 else share[:, 0].max() < 1e-2
    error = (whole - 1).abs().max().item()
    assert error < 1e-6, f"shares sum to 1 but for {error:.1e}"


def test_a_tile_that_is_no_multiple_of_the_step_is_refused():
    with pytest.raises(InkstoneError, match="The tile is 1000 pixels: expected a multiple of 32"):
        tiles_of((2048, 2048), 1000, 32)
    with pytest.raises(InkstoneError, match="of at least 32"):
        tiles_of((256, 256), 16, 16)


@pytest.fixture(scope="module")
def loaded():
    return load_all(None, LoadOptions(torch.float32))


def start(width, height, strength=0.3, steps=10):
    generator = torch.Generator().manual_seed(5)
    return Request(
        width=width,
        height=height,
        sigmas=tail(sigmas(LINEAR, steps, 64), strength),
        seed=3,
        cfg=2.0,
        latent=torch.randn(1, 16, 1, height // 8, width // 8, generator=generator),
    )


def spared(r):
    """The request with a latent of its own, which may be written over."""
    return replace(r, latent=r.latent.clone())


def states(loaded):
    encode = loaded.text_encoder.encode
    return encode("a red circle").states, encode("a blue star").states


def test_one_tile_is_image_to_image_bit_by_bit(loaded):
    r, texts = start(128, 96), states(loaded)
    assert len(tiles_of((128, 96), 128, 16)) == 1
    got = denoise_tiles(loaded.model, *texts, spared(r), tiles_of((128, 96), 128, 16))
    assert torch.equal(got, denoise(loaded.model, *texts, r))


def test_the_velocity_is_the_mean_of_the_tiles_by_their_shares(loaded):
    """One step over two tiles, against each tile denoised alone."""
    texts, r = states(loaded), start(192, 128, strength=0.1)
    r = replace(r, cfg=1.0)
    tiles = tiles_of((192, 128), 128, 16)
    assert tiles.lefts == (0, 64) and len(r.sigmas) == 2
    got = denoise_tiles(loaded.model, texts[0], None, spared(r), tiles)
    model, first = loaded.model, r.sigmas[0]
    clean = (r.latent[:, :, 0] - model.latent_mean) / model.latent_std
    x = first * noise(r.seed, 1, 16, 24) + (1 - first) * clean
    want = torch.zeros_like(x)
    for tile in tiles:
        columns = slice(tile.box.left // 8, tile.box.right // 8)
        # the noise of a run of its own is subtracted: its start is made that of the canvas
        own = noise(r.seed, 1, 16, 16)
        latent = (x[..., columns] - first * own) / (1 - first)
        raw = (latent * model.latent_std + model.latent_mean)[:, :, None]
        alone = denoise(model, texts[0], None, replace(r, width=128, latent=raw))
        z = (alone[:, :, 0] - model.latent_mean) / model.latent_std
        want[..., columns] += tiles.share(tile, 8) * z
    want = want * model.latent_std + model.latent_mean
    error = (got[:, :, 0] - want).abs().max().item()
    assert error < 1e-4, f"differs by {error:.1e}"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"references": (torch.zeros(1, 16, 1, 8, 8),)}, "reference pictures"),
        ({"context": (torch.zeros(1, 16, 1, 16, 24),)}, "controls"),
        ({"repaint": torch.ones(1, 1, 16, 24)}, "a mask"),
        ({"batch": 2}, "a batch"),
        ({"layers": 2}, "layers"),
    ],
)
def test_what_belongs_to_a_whole_canvas_is_refused(loaded, change, words):
    r = replace(start(192, 128), **change)
    with pytest.raises(InkstoneError, match="does not go with " + words):
        denoise_tiles(loaded.model, *states(loaded), r, tiles_of((192, 128), 128, 16))


def test_tiles_of_another_canvas_are_refused(loaded):
    with pytest.raises(InkstoneError, match="tiles are for a canvas of 256x128.*192x128"):
        denoise_tiles(loaded.model, *states(loaded), start(192, 128), tiles_of((256, 128), 128, 16))
