"""Canvases: the official sizes, what is refused, and packing into tokens."""

from __future__ import annotations

import math

import pytest
import torch

from inkstone.errors import InkstoneError
from inkstone.sampling.geometry import SIZES, check_canvas, pack, parse_size, token_grid, unpack

_SIZES = "1328x1328 1664x928 928x1664 1472x1104 1104x1472 1584x1056 1056x1584"


OFFICIAL = [tuple(map(int, size.split("x"))) for size in _SIZES.split()]


CANVASES = [*OFFICIAL, (512, 512), (304, 208), (16, 16), (2048, 2048), (3584, 16)]


def test_official_sizes():
    assert sorted(SIZES.values()) == sorted(OFFICIAL)
    for name, (width, height) in SIZES.items():
        assert f"({width}x{height})" in name and parse_size(f"{width}x{height}") == (width, height)
        assert token_grid(width, height) == (1, height // 16, width // 16)


@pytest.mark.parametrize("size", [(16, 16), (304, 208), (16, 16384), (5008, 48)])
def test_any_multiple_of_16(size):
    check_canvas(*size)
    assert parse_size(f" {size[0]} X {size[1]}") == parse_size(f"{size[0]}×{size[1]}") == size


@pytest.mark.parametrize(
    "size, words",
    [
        ((17, 23), "17x23 is not a multiple of 16 on both sides. .* works is 16x16"),
        ((1330, 1328), "nearest size that works is 1328x1328"),
        ((0, 64), "width 0 is out of range: expected 16 to 16384"),
        ((64, -16), "height -16 is out of range"),
        ((64, 16400), "height 16400 is out of range"),
        ((64.5, 64), "width 64.5 is not a whole number"),
        ((64, math.nan), "height nan is not a whole number"),
        (("64", 64), "width '64' is not a whole number"),
        ((64, None), "height None is not a whole number"),
    ],
)
def test_impossible_canvases(size, words):
    with pytest.raises(InkstoneError, match=words):
        check_canvas(*size)


@pytest.mark.parametrize("step, example", [(16, "1328x1328"), (32, "1024x1024")])
def test_the_example_is_a_canvas_of_the_family(step, example):
    for size in ((20000, 64), (64.5, 64)):
        with pytest.raises(InkstoneError, match=f"such as {example}"):
            check_canvas(*size, step)
    check_canvas(*parse_size(example), step)


@pytest.mark.parametrize(
    "text", ["", "64", "64x", "64x64x64", "-16x16", "1.5x16", "axb", "²x16", "9" * 5000 + "x16"]
)
def test_impossible_size_texts(text):
    with pytest.raises(InkstoneError, match="is not WIDTHxHEIGHT.* 1328x928"):
        parse_size(text)


@pytest.mark.parametrize("rows, columns", [(1, 1), (13, 19), (83, 83), (5, 7)])
def test_packing(rows, columns):
    latent = torch.randn(2, 16, 2 * rows, 2 * columns)
    tokens = pack(latent)
    assert tokens.shape == (2, rows * columns, 64)
    assert torch.equal(unpack(tokens, rows, columns), latent)
    for r, c in ((0, 0), (rows - 1, columns - 1), (rows // 2, columns // 3)):
        square = latent[1, :, 2 * r : 2 * r + 2, 2 * c : 2 * c + 2]  # [channel, dy, dx]
        assert torch.equal(tokens[1, r * columns + c], square.flatten()), (r, c)
