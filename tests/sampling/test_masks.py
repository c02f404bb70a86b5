"""Masks: stretched, grown, softened and cut into cells, against written-out loops."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from inkstone.sampling.geometry import Box
from inkstone.sampling.masks import bounds, latent_mask, mask_for, soften, without_opaque
from inkstone.sampling.pixel_lock import lock

from ..support.masks import blobs, refuses


def black_and_white(mask: np.ndarray) -> np.ndarray:
    """Up to 8 of 255 from black is black, and as near to white is white."""
    return np.where(mask * 255 < 8.5, 0, np.where(mask * 255 > 246.5, 1, mask))


def stretched(mask: np.ndarray, width: int, height: int) -> np.ndarray:
    h, w = mask.shape
    out = np.empty((height, width), np.float32)
    for y in range(height):
        for x in range(width):
            rows = slice(y * h // height, -(-(y + 1) * h // height))
            out[y, x] = mask[rows, x * w // width : -(-(x + 1) * w // width)].max()
    return out


@pytest.mark.parametrize("mask_size", [(1, 1), (7, 5), (33, 47), (64, 64), (101, 90), (2, 200)])
@pytest.mark.parametrize("size", [(33, 47), (1, 1), (80, 13)])
def test_a_mask_of_any_size_is_stretched_by_the_rule(mask_size, size):
    mask = torch.rand(2, mask_size[1], mask_size[0])
    got = mask_for(mask, size)
    for mine, item in zip(got, mask):
        assert np.array_equal(mine.numpy(), stretched(black_and_white(item.numpy()), *size))
    hard = mask_for(mask > 0.5, size)
    assert set(hard.unique().tolist()) <= {0.0, 1.0}


def test_shapes_and_types_of_masks():
    mask = torch.rand(5, 7)
    for form in (mask, mask[None], mask[None, None], mask.double(), (mask * 1.005).clamp(0, 1.005)):
        assert mask_for(form, (7, 5)).shape == (1, 5, 7)
        assert mask_for(form, (7, 5)).dtype == torch.float32
    assert torch.equal(mask_for(mask > 0.5, (7, 5))[0], (mask > 0.5).float())
    assert mask_for(mask * 1.005, (7, 5)).max() <= 1


def test_another_ratio_is_said(caplog):
    mask_for(torch.ones(64, 64), (128, 128))
    assert not caplog.records
    mask_for(torch.ones(64, 64), (128, 96))
    assert "mask is 64x64, the picture 128x96" in caplog.text


def distances(seeds: np.ndarray) -> np.ndarray:
    """The distance of every pixel to the nearest seed."""
    ys, xs = np.nonzero(seeds)
    y, x = np.indices(seeds.shape)
    return np.sqrt((y[..., None] - ys) ** 2 + (x[..., None] - xs) ** 2).min(-1)


@pytest.mark.parametrize("grow", [1, 3, 40])
@pytest.mark.parametrize("size", [(37, 41), (150, 20), (1, 30)])
def test_growing_and_shrinking_are_round(grow, size):
    mask = blobs(*size, seed=5)
    solid = mask[0].numpy() >= 0.5
    assert solid.any() and not solid.all()
    assert np.array_equal(soften(mask, grow)[0].numpy(), distances(solid) <= grow)
    assert np.array_equal(soften(mask, -grow)[0].numpy(), distances(~solid) > grow)


@pytest.mark.parametrize("feather", [1, 4, 60])
@pytest.mark.parametrize("size", [(37, 41), (150, 20)])
def test_fading_lies_inside_the_mask(feather, size):
    mask = blobs(*size, seed=4)
    soft = soften(mask, feather=feather)
    depth = np.minimum(distances(mask[0].numpy() == 0), feather + 1)
    error = np.abs(soft[0].numpy() - depth / depth.max()).max()
    assert error < 1e-6, f"largest error {error:.2e}"
    assert torch.equal(soft > 0, mask > 0) and soft.max() == 1
    inner = soften(mask, 2, feather)
    assert torch.equal(inner > 0, soften(mask, 2) > 0)


def test_the_rim_of_the_picture_is_no_seam():
    mask = torch.zeros(1, 40, 40)
    mask[:, :, 20:] = 1
    soft = soften(mask, feather=4)
    assert torch.equal(soft, soft[:, :1].expand_as(soft)), "faded at the top or bottom"
    assert soft[0, 0, 18:27].tolist() == pytest.approx([0, 0, 0.2, 0.4, 0.6, 0.8, 1, 1, 1])
    assert (soft[..., 24:] == 1).all(), "faded at the right"


def test_soft_masks_keep_their_values():
    mask = blobs(60, 50, soft=True)
    assert torch.equal(soften(mask), mask)
    grown = soften(mask, 3)
    near = torch.from_numpy(distances(mask[0].numpy() >= 0.5) <= 3)
    assert (grown[0][near] == 1).all() and torch.equal(grown[0][~near], mask[0][~near])
    faded = soften(mask, feather=3)
    assert (faded <= mask).all() and torch.equal(faded > 0, mask > 0)


@pytest.mark.parametrize("value", [0.0, 1.0])
@pytest.mark.parametrize(
    "grow, feather", [(0, 0), (5, 0), (-5, 0), (0, 5), (5, 5), (-600 + 100, 9)]
)
def test_masks_of_one_value_stay_as_they_are(value, grow, feather):
    mask = torch.full((2, 9, 11), value)
    assert torch.equal(soften(mask, grow, feather), mask)


def test_each_mask_of_a_batch_is_softened_alone():
    masks = torch.cat([blobs(40, 30, 1), torch.zeros(1, 30, 40), blobs(40, 30, 2)])
    got = soften(masks, 2, 6)
    alone = torch.cat([soften(m[None], 2, 6) for m in masks])
    assert torch.equal(got, alone)


@pytest.mark.parametrize("size, area", [((33, 47), None), ((64, 48), None), ((97, 89), 2000)])
@pytest.mark.parametrize("seed", range(3))
def test_a_cell_is_drawn_if_any_of_its_pixels_is(size, area, seed):
    held, mask = lock(*size, area), blobs(*size, seed) * 1e-3
    at_work = stretched(mask[0].numpy(), *held.work)
    rows, columns = (
        np.minimum(np.arange(n), w - 1) for n, w in zip(held.canvas[::-1], at_work.shape)
    )
    canvas = at_work[rows][:, columns]
    h, w = canvas.shape
    marked_cells = canvas.reshape(h // 8, 8, w // 8, 8).max((1, 3)) > 0
    assert np.array_equal(latent_mask(mask, held)[0, 0].numpy(), marked_cells.astype(np.float32))


BAD_MASKS = {
    "NaN": (torch.full((1, 4, 4), torch.nan), "mask has values from nan"),
    "8 bits as floats": (torch.full((1, 4, 4), 255.0), "values from 255 to 255: expected"),
    "below 0": (torch.full((1, 4, 4), -0.5), "values from -0.5"),
    "whole numbers": (torch.ones(1, 4, 4, dtype=torch.int64), "int64.*floats"),
    "8 bits": (torch.ones(1, 4, 4, dtype=torch.uint8), "uint8.*255"),
    "a picture": (torch.rand(1, 4, 4, 3), "one channel of a picture"),
    "no pixels": (torch.rand(1, 0, 4), "at least one pixel"),
    "no masks": (torch.rand(0, 4, 4), "at least one pixel"),
    "a number": (torch.tensor(1.0), "expected .masks, height, width"),
}


@pytest.mark.parametrize("name", BAD_MASKS)
def test_bad_masks_are_refused_in_a_sentence(name):
    bad, words = BAD_MASKS[name]
    refuses(words, mask_for, bad, (4, 4))


def test_bounds():
    mask = torch.zeros(2, 9, 8)
    mask[0, 2, 3] = mask[1, 5, 6] = 1e-6
    assert bounds(mask) == Box(3, 2, 7, 6)


@pytest.mark.parametrize("black, white", [(0, 255), (1, 254), (3, 250), (8, 247)])
def test_nearly_black_and_nearly_white(black, white):
    mask = torch.full((1, 20, 30), black / 255)
    mask[:, 5:9, 6:10] = white / 255
    assert bounds(mask_for(mask, (30, 20))) == Box(6, 5, 10, 9)
    assert mask_for(mask, (30, 20)).unique().tolist() == [0, 1]
    grey = torch.tensor([[9 / 255, 0.5, 246 / 255]])
    assert torch.equal(mask_for(grey, (3, 1))[0], grey), "what is between stays"


def test_a_mask_that_looks_inverted_gets_one_line(caplog):
    caplog.set_level("INFO")
    mask = torch.zeros(1, 20, 20)
    mask[:, 5:9, 6:10] = 1
    mask_for(mask, (20, 20)), mask_for(torch.ones(1, 20, 20), (20, 20))
    assert not caplog.records
    mask_for(1 - mask, (20, 20))
    assert caplog.text.count("other way round") == 1


def test_only_an_alpha_that_is_opaque_everywhere_is_left_out():
    x = torch.rand(2, 5, 4, 4)
    x[..., 3] = 1 - 8 / 255  # what a decoder may give for 1
    assert torch.equal(without_opaque(x), x[..., :3])
    x[1, 2, 3, 3] = 1 - 9 / 255
    mixed = without_opaque(x)
    assert torch.equal(mixed[0, ..., 3], torch.ones(5, 4)) and torch.equal(mixed[1], x[1])
    assert torch.equal(mixed[..., :3], x[..., :3])
    assert without_opaque(x[1:]).shape == (1, 5, 4, 4)
    assert without_opaque(x[..., :3]).shape == (2, 5, 4, 3)
