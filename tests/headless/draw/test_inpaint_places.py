"""An inpainted part stays in its place: random sizes and boxes by every face (all of them:
bench/inpaint_places.py).
"""

from __future__ import annotations

import numpy as np
import pytest

from ...support import places


@pytest.mark.parametrize("step", [(0, 0), (3, 0), (0, -4), (-5, 5)])
def test_a_shift_is_measured(step):
    case = places.Case((200, 160), (50, 40, 150, 120), 1)
    before = places.blocks(case.size, 20, 1)
    left, top, right, bottom = case.box
    after = before.copy()
    moved = before[top + step[0] : bottom + step[0], left + step[1] : right + step[1]]
    after[top:bottom, left:right] = moved
    assert case.drift(before, after) == pytest.approx(np.hypot(*step))
    after[0, 0] ^= 1
    assert case.drift(before, after) == float("inf"), "outside of the mask"


def test_a_zoom_is_measured():
    case = places.Case((300, 300), (50, 50, 250, 250), 1)
    before = places.blocks(case.size, 20, 1)
    zoomed = np.arange(50, 250) * 190 // 200 + 7
    after = before.copy()
    after[50:250, 50:250] = before[zoomed][:, zoomed]
    assert case.drift(before, after) > places.MOVED


@pytest.mark.slow
def test_parts_stay_in_their_place_by_every_face(place):
    faults: list[str] = []
    tallies = places.tally(places.small(8, seed=1), list(places.FACES), None, faults.append)
    assert not faults and all(counts.done == 8 for counts in tallies.values())


@pytest.mark.slow
def test_a_part_of_a_large_picture_stays_in_its_place(place):
    faults: list[str] = []
    model = places.qwen_layout(place / "models/diffusers/qwen")
    places.tally(places.large(1, seed=1), ["API"], model, faults.append)
    assert not faults
