"""The Camera Angle node writes the prompts that its LoRA was trained with."""

from __future__ import annotations

import itertools

import pytest

from inkstone.errors import InkstoneError
from inkstone.nodes.camera import CameraAngle
from inkstone.pipeline.camera_choices import AROUND, DISTANCES, HEIGHTS


def test_the_words_of_the_lora():
    defaults = [item.default for item in CameraAngle.define_schema().inputs]
    want = "<sks> front-right quarter view eye-level shot medium shot"
    assert CameraAngle.execute(*defaults).args == (want,)


def test_ninety_six_positions():
    every = itertools.product(AROUND, HEIGHTS, DISTANCES)
    assert len({CameraAngle.execute(*place).args for place in every}) == 96


def test_a_position_that_was_not_trained_is_refused():
    with pytest.raises(InkstoneError, match="height is 'from space': expected one of low-angle"):
        CameraAngle.execute(AROUND[0], "from space", DISTANCES[0])
