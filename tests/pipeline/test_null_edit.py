"""Edits that ask for nothing, on the embedded model: what comes back has the picture's size and
stands where the picture stands.

The small model redraws edges, so single pixels differ and phase correlation, which wants texture,
says little on flat pictures. What is measured: that no shift by whole pixels fits better than none,
in any picture; and the shift and zoom that all pictures have in common, by least squares on the
slopes of their edges (Lucas and Kanade). Redrawn edges cancel there, a fault of geometry adds up.
"""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from inkstone.loaders.models.load import EMBEDDED_FOLDER, load_all
from inkstone.nodes.decode import Decode
from inkstone.nodes.edit import EncodeEdit
from inkstone.nodes.sample import Denoise
from inkstone.sampling.schedule import sigmas
from inkstone.training.edits import sample_edit
from inkstone.training.render import render

pytestmark = pytest.mark.slow
CANVASES = {
    (128, 128): (128, 128),
    (160, 96): (160, 96),
    (96, 160): (96, 160),
    (131, 113): (128, 128),
    (97, 149): (96, 160),
}  # size of the picture: what is in it
EACH, STEPS = 4, 8
LOST = 0.15  # a pixel that differs by more was drawn wrong: it says nothing of where it stands
MOST_SHIFT, MOST_ZOOM = 0.1, 0.003  # pixels; the second is 0.2 pixels at the rim of 128


def source(size: tuple[int, int], rng: np.random.Generator) -> Tensor:
    """[H,W,3] in 0..1: a picture that no stage saw, cut or continued to a size."""
    canvas = CANVASES[size]
    scene = sample_edit(rng, split="test", size=canvas).source
    while not scene.items:
        scene = sample_edit(rng, split="test", size=canvas).source
    x = torch.from_numpy(render(scene)).float() / 255
    out = x[0, 0].expand(size[1], size[0], 3).clone()
    h, w = min(size[1], x.shape[0]), min(size[0], x.shape[1])
    out[:h, :w] = x[:h, :w]
    return out


@pytest.fixture(scope="module")
def pairs() -> list[tuple[Tensor, Tensor]]:
    """(source, what an edit that asks for nothing gives back)."""
    models, rng, made = load_all(EMBEDDED_FOLDER), np.random.default_rng(9), []
    for size, seed in itertools.product(CANVASES, range(EACH)):
        x = source(size, rng)
        text, _, latent = EncodeEdit.execute(
            models.text_encoder, models.model, models.vae, "", "", "auto", {"picture_1": x[None]}
        ).result
        h, w = latent["samples"].shape[-2:]
        table = sigmas(models.model.schedule, STEPS, h * w // 4)
        drawn = Denoise.execute(
            models.model, text, sigmas=table, latent=latent, seed=seed, cfg=1.0
        ).result[0]
        made.append((x, Decode.execute(models.vae, drawn).result[0][0]))
    return made


def best_shift(x: Tensor, y: Tensor, most: int = 3) -> tuple[int, int]:
    """The shift of y by whole pixels at which it differs least from x."""
    inner = slice(most + 1, -most - 1)

    def off(shift: tuple[int, int]) -> float:
        return (y.roll(shift, (0, 1)) - x)[inner, inner].abs().mean().item()

    return min(itertools.product(range(-most, most + 1), repeat=2), key=off)


def equations(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Normal equations of (shift right, shift down, zoom about the middle) that makes y of x."""
    x, y = (p.movedim(-1, 0)[None] for p in (x, y))
    x, y = (F.avg_pool2d(F.pad(p, (2,) * 4, "replicate"), 5, 1) for p in (x, y))
    down, right = torch.gradient(x[0].double(), dim=(1, 2))
    rows, columns = (torch.arange(n) - (n - 1) / 2 for n in x.shape[-2:])
    zoom = columns * right + rows[:, None] * down
    slopes = torch.stack([right, down, zoom], -1).reshape(-1, 3)
    moved = (x - y).double().reshape(-1)
    use = moved.abs() < LOST
    return slopes[use].T @ slopes[use], slopes[use].T @ moved[use]


def common(pairs: list[tuple[Tensor, Tensor]]) -> tuple[float, float]:
    """(pixels of shift, zoom - 1) that all pairs have in common."""
    left, right = (sum(parts) for parts in zip(*(equations(x, y) for x, y in pairs)))
    *shift, zoom = torch.linalg.solve(left, right).tolist()
    return float(np.hypot(*shift)), abs(zoom)


def test_sizes_are_those_of_the_pictures(pairs):
    assert all(x.shape == y.shape for x, y in pairs) and len(pairs) == len(CANVASES) * EACH


def test_no_picture_moves_by_a_pixel(pairs):
    moved = {tuple(x.shape[:2]): s for x, y in pairs if (s := best_shift(x, y)) != (0, 0)}
    assert not moved, moved


def test_no_drift_in_common(pairs):
    shift, zoom = common(pairs)
    assert shift < MOST_SHIFT and zoom < MOST_ZOOM, f"{shift:.3f} px, zoom {zoom:.4f}"


def test_a_drift_would_be_seen(pairs):
    """Half a pixel, one pixel, and a zoom of one in a hundred."""
    half = [(x, (y + y.roll(1, 1)) / 2) for x, y in pairs]
    assert 0.3 < common(half)[0] < 0.7, common(half)
    assert best_shift(pairs[0][0], pairs[0][1].roll(1, 0)) == (-1, 0)
    zoomed = []
    for x, y in pairs:
        flow = F.affine_grid(torch.eye(2, 3)[None] / 1.01, [1, 3, *y.shape[:2]], False)
        big = F.grid_sample(y.movedim(-1, 0)[None], flow, "bilinear", "border", False)
        zoomed.append((x, big[0].movedim(0, -1)))
    assert common(zoomed)[1] > 2 * MOST_ZOOM, common(zoomed)
