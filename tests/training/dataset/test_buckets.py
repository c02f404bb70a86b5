"""Aspect buckets: sides, areas, crops, and that nothing is distorted or enlarged unsaid."""

from __future__ import annotations

import math

import numpy as np
import pytest

from inkstone.errors import CallError
from inkstone.sampling.geometry import NEAR
from inkstone.training.dataset.buckets import (
    MOST_RATIO,
    assign,
    check_resolution,
    fault,
    is_smaller,
)

GRIDS = [(512, 16), (1024, 16), (1328, 16), (1024, 32), (2048, 32), (128, 16), (256, 32)]


def sizes(count: int = 300) -> list[tuple[int, int]]:
    """Sizes of photographs, with ratios up to 4:1."""
    rng = np.random.default_rng(5)
    ratios = np.exp(rng.uniform(-np.log(MOST_RATIO), np.log(MOST_RATIO), count))
    areas = np.exp(rng.uniform(np.log(128 * 128), np.log(6000 * 4000), count))
    return [
        (max(64, round(math.sqrt(a * r))), max(64, round(math.sqrt(a / r))))
        for a, r in zip(areas, ratios)
    ]


@pytest.mark.parametrize("resolution, step", GRIDS)
def test_sides_areas_and_ratios(resolution, step):
    for fit in assign(sizes(), resolution, step):
        width, height = fit.bucket
        assert width % step == height % step == 0 and min(fit.bucket) >= step
        assert width * height <= resolution**2, "a plan counts on the resolution"
        assert max(fit.bucket) <= MOST_RATIO * min(fit.bucket)
        assert 0 <= fit.box.left < fit.box.right <= fit.picture[0]
        assert 0 <= fit.box.top < fit.box.bottom <= fit.picture[1]


@pytest.mark.parametrize("resolution, step", GRIDS)
def test_nothing_is_distorted(resolution, step):
    """The part that is used has the ratio of the bucket, to a pixel, and is the middle."""
    for fit in assign(sizes(), resolution, step):
        width, height = fit.box.size
        assert abs(width - height * fit.bucket[0] / fit.bucket[1]) <= 1 + width / height
        assert width == fit.picture[0] or height == fit.picture[1]
        assert abs(fit.box.left - (fit.picture[0] - fit.box.right)) <= 1
        assert abs(fit.box.top - (fit.picture[1] - fit.box.bottom)) <= 1


MOST = {(512, 16): 0.04, (1024, 16): 0.02, (1328, 16): 0.025, (1024, 32): 0.04, (2048, 32): 0.02}


@pytest.mark.parametrize("grid", MOST)
def test_a_few_percent_are_cropped(grid):
    large = [size for size in sizes(600) if math.prod(size) >= grid[0] ** 2]
    most = max(fit.cropped for fit in assign(large, *grid))
    assert most <= MOST[grid], f"{most:.3f}"


@pytest.mark.parametrize("resolution, step", GRIDS)
def test_small_pictures_are_not_enlarged(resolution, step):
    for fit in assign(sizes(), resolution, step):
        scale = fit.bucket[0] / fit.box.size[0]
        area = math.prod(fit.bucket) / math.prod(fit.picture)
        assert area <= NEAR**2 + 1e-9, (fit, scale)
        small = math.prod(fit.picture) * NEAR**2 < resolution**2
        assert is_smaller(fit, resolution) == small


def test_known_buckets():
    at = {size: assign([size], 512, 16)[0].bucket for size in ((512, 512), (4000, 3000))}
    assert at[512, 512] == (512, 512)
    assert at[4000, 3000] == (592, 432)  # 1.370 of 1.333: 2.7 % are cropped
    assert assign([(1000, 1000)], 1024, 16)[0].bucket == (1024, 1024)  # within 5 %
    assert assign([(900, 900)], 1024, 16)[0].bucket == (896, 896)  # its own size
    assert assign([(2000, 2000)], 2048, 32)[0].bucket == (2048, 2048)


def test_what_has_no_bucket():
    assert fault((31, 500), 512, 16) == ("small", "31x500, expected sides of at least 32 pixels")
    assert fault((64, 64), 512, 32) is None and fault((63, 64), 512, 32) is not None
    kind, detail = fault((5000, 500), 512, 16) or ("", "")
    assert kind == "narrow" and detail == "5000x500, 60% of it would be cropped"
    assert fault((3000, 500), 512, 16) is None, "a panorama of 6:1 loses a third, and is said"


@pytest.mark.parametrize("resolution", [0, 31, 4097, 10**9])
def test_a_resolution_out_of_range(resolution):
    with pytest.raises(CallError, match="expected 32 to 4096 pixels"):
        check_resolution(resolution, 16)
