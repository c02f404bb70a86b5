"""Qwen3-VL against transformers, float32, random weights everywhere: language model and tower."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from inkstone.kernels.configs import QWEN3_VL_TEXT, QWEN3_VL_VISION
from inkstone.kernels.kv_cache import KeyValues
from inkstone.kernels.text_encoder import DeepRows, picture_positions
from inkstone.kernels.vision_deep import DeepVisionTower

from ..support.oracle import measured, relative
from ..support.vision_deep import PAD, TEXT, VISION, ours_of, random_qwen3, unnormed

GRIDS = {
    "one": [(22, 36)],
    "two of odd cells": [(6, 10), (10, 28)],
    "smallest, smaller than the table, larger": [(2, 2), (18, 4), (6, 6)],
}


@pytest.fixture(scope="module")
def model():
    return random_qwen3()


def sequence(grids):
    """Ids with text before, between and behind pictures of these patch grids."""
    ids = [3, 9, 27]
    for rows, columns in grids:
        ids += [7, 259] + [PAD] * (rows * columns // 4) + [260]
    return [*ids, 5, 6, 7, 8]


def patches_of(grids):
    patches = [torch.randn(rows * columns, 768) for rows, columns in grids]
    both = torch.cat(patches).view(-1, 3, 1, 256).expand(-1, -1, 2, -1).flatten(1)
    return patches, both


@pytest.mark.parametrize("name", GRIDS)
def test_tower(model, name):
    """All levels; pictures of one call do not see each other."""
    grids = GRIDS[name]
    _, tower = ours_of(model)
    patches, both = patches_of(grids)
    with torch.no_grad():
        want = model.model.visual(both, grid_thw=torch.tensor([[1, *g] for g in grids]))
    got = [tower.levels(p, g) for p, g in zip(patches, grids)]
    theirs = [want.pooler_output, *want.deepstack_features]
    errors = [measured(torch.cat(level), w) for level, w in zip(zip(*got), theirs, strict=True)]
    assert max(errors) < 1e-5, f"relative errors of the levels {errors}"
    assert torch.equal(tower(patches[0], grids[0]), got[0][0])


def test_states_of_text(model):
    """Before the final norm, rows of different length, and behind a kept head."""
    words, _ = ours_of(model)
    ids = torch.randint(0, 255, (2, 19))
    mask = torch.ones_like(ids)
    mask[1, 12:] = 0
    want = unnormed(model, input_ids=ids, attention_mask=mask)
    with torch.no_grad():
        got = words(ids)
        cache = KeyValues(TEXT.layers)
        words(ids[:1, :7], [cache])
        tail = words(ids[:1, 7:], [cache.head(7)])
        normed = model(input_ids=ids, attention_mask=mask, output_hidden_states=True)
    for row, length in ((0, 19), (1, 12)):
        error = measured(got[row, :length], want[row, :length])
        assert error < 1e-5, f"row {row}: relative error {error:.2e}"
    error = measured(tail, got[:1, 7:])
    assert error < 1e-5, f"behind a kept head {error:.2e}"
    error = measured(words.for_scores(got[0]), normed.hidden_states[-1][0])
    assert error < 1e-5, f"normalised for scores {error:.2e}"


@pytest.mark.parametrize("name", GRIDS)
def test_states_with_pictures(model, name):
    grids = GRIDS[name]
    words, tower = ours_of(model)
    patches, both = patches_of(grids)
    ids = sequence(grids)
    call = dict(
        input_ids=torch.tensor([ids]),
        pixel_values=both,
        image_grid_thw=torch.tensor([[1, *grid] for grid in grids]),
    )
    want = unnormed(model, **call)
    levels = [torch.cat(one) for one in zip(*(tower.levels(*p) for p in zip(patches, grids)))]
    positions = picture_positions(ids, PAD, [(r // 2, c // 2) for r, c in grids])[:, None]
    with torch.no_grad():
        embeds = words.embed(call["input_ids"])
        where = call["input_ids"] == PAD
        embeds[where] = levels[0]
        deep = DeepRows(where, tuple(levels[1:]))
        got = words(call["input_ids"], (), embeds, positions, deep)
        shallow = words(call["input_ids"], (), embeds, positions)
        cache = KeyValues(TEXT.layers)
        words(call["input_ids"][:, :3], [cache])
        tail = words(
            call["input_ids"][:, 3:],
            [cache],
            embeds[:, 3:],
            positions[..., 3:],
            DeepRows(where[:, 3:], tuple(levels[1:])),
        )
    error, again, trap = measured(got, want), relative(tail, got[:, 3:]), relative(shallow, want)
    assert error < 1e-5, f"relative error {error:.2e}"
    assert again < 1e-5, f"behind a kept head {again:.2e}"
    assert trap > 1e-2, f"without the deeper levels it differs by only {trap:.2e}"


def test_frequencies_take_turns():
    """The published 24, 20, 20 of 64: time, row, column in turn, the rest time."""
    axes = QWEN3_VL_TEXT.axis_of
    assert QWEN3_VL_TEXT.axes == (24, 20, 20) and len(axes) == 64
    assert [n for n, axis in enumerate(axes) if axis == 1] == list(range(1, 59, 3))
    assert [n for n, axis in enumerate(axes) if axis == 2] == list(range(2, 60, 3))
    assert replace(QWEN3_VL_TEXT, interleaved=False, sections=(16, 24, 24)).axis_of == (
        (0,) * 16 + (1,) * 24 + (2,) * 24
    )


def test_full_size_on_meta_and_half_type(model):
    """The published tower runs on the meta device; the tiny one in bfloat16 stays near float32."""
    with torch.device("meta"):
        network = DeepVisionTower(QWEN3_VL_VISION)
    assert sum(p.numel() for p in network.parameters()) == 576_388_336
    _, tower = ours_of(model)
    patches, _ = patches_of([(6, 4)])
    want = torch.stack(tower.levels(patches[0], (6, 4)))
    got = torch.stack(tower.bfloat16().levels(patches[0], (6, 4)))
    assert got.dtype == torch.bfloat16 and len(got) == 1 + len(VISION.taps)
    error = measured(got, want)
    assert 1e-4 < error < 0.03, f"bfloat16 {error:.2e}"
