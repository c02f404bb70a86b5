"""Tiles of a canvas, and denoising that merges them in every step."""

from dataclasses import replace
from itertools import pairwise

import pytest
import torch

from inkstone.errors import InkstoneError
from inkstone.loaders.models.load import load_all
from inkstone.loaders.models.weight_file import LoadOptions
from inkstone.sampling.request import Hooks, Request
from inkstone.sampling.sampler import denoise, raw_latents
from inkstone.sampling.schedule import LINEAR, sigmas, tail
from inkstone.sampling.tiled import denoise_tiles
from inkstone.sampling.tiles import LEAST_OVERLAP, OVERLAP, merged, tiles_of

from ..support.tiles import merged_by_hand

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


@pytest.mark.parametrize(("canvas", "side", "step"), CANVASES)
def test_tiles_lie_in_other_places_in_each_step(canvas, side, step):
    tiles = tiles_of(canvas, side, step)
    assert tiles.moved(0) is tiles
    for turn in (1, 2, 3):
        moved = tiles.moved(turn)
        assert len(moved) == len(tiles) and moved.size == tiles.size
        pairs = ((moved.lefts, tiles.lefts), (moved.tops, tiles.tops))
        for (starts, before), own in zip(pairs, tiles.size, strict=True):
            assert (starts[0], starts[-1]) == (before[0], before[-1]), "the canvas is covered"
            assert all(start % step == 0 for start in starts)
            assert all(0 < b - a <= max(own - own // OVERLAP, step) for a, b in pairwise(starts))
            ways = {(b > a) - (b < a) for a, b in zip(before[1:-1], starts[1:-1], strict=True)}
            assert ways <= {1 if turn % 2 else -1} or ways == {0}
    three = tiles_of((256, 256), 128, 16)
    assert [three.moved(turn).lefts[1] for turn in range(4)] == [64, 96, 32, 96]


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


@pytest.mark.parametrize("size", [(192, 128), (208, 240)])
def test_each_step_is_the_mean_of_the_tiles_by_their_shares(loaded, size):
    """Three steps, against each step of each tile denoised alone."""
    texts, r, tiles = states(loaded), start(*size), tiles_of(size, 128, 16)
    assert len(tiles) == (2 if size == (192, 128) else 9) and len(r.sigmas) == 4
    got = denoise_tiles(loaded.model, *texts, spared(r), tiles)
    want = merged_by_hand(loaded.model, *texts, r, tiles)
    error = ((got - want).abs().max() / want.abs().max()).item()
    assert error < 1e-4, f"differs by {error:.1e}"


@pytest.mark.parametrize("previews", [True, False])
def test_callers_see_every_step_with_the_clean_latents_where_they_read_them(loaded, previews):
    texts, r, tiles = states(loaded), start(192, 128), tiles_of((192, 128), 128, 16)
    steps = []
    hooks = Hooks(on_step=steps.append, previews=previews)
    got = denoise_tiles(loaded.model, *texts, spared(r), tiles, hooks)
    assert [(step.index, step.total) for step in steps] == [(0, 3), (1, 3), (2, 3)]
    model, last = loaded.model, steps[-1]
    assert torch.equal(raw_latents(model, last.x, r), got)
    error = (last.x0 - last.x).abs().max().item()
    assert error < 1e-5, f"the last step ends in the clean latents: {error:.1e}"
    assert torch.equal(steps[0].x0, steps[0].x) != previews


def test_parts_are_merged_as_soon_as_nothing_reaches_them():
    """Random parts over tiles of many overlaps, against a sum over the whole canvas."""
    generator = torch.Generator().manual_seed(2)
    for canvas, side in (((400, 144), 128), ((256, 336), 128), ((112, 96), 128), ((96, 96), 32)):
        tiles = tiles_of(canvas, side, 16)
        parts = {t: torch.rand(3, *reversed(tiles.size), generator=generator) for t in tiles}
        want = torch.zeros(3, *reversed(canvas))
        for tile, part in parts.items():
            left, top, right, bottom = tile.box
            want[:, top:bottom, left:right] += tiles.share(tile) * part
        got = torch.full_like(want, torch.nan)
        for (left, top, right, bottom), values in merged(tiles, parts.__getitem__):
            assert got[:, top:bottom, left:right].isnan().all(), "a place comes once"
            got[:, top:bottom, left:right] = values
        error = (got - want).abs().max().item()
        assert error < 1e-6, f"differs by {error:.1e}"


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
