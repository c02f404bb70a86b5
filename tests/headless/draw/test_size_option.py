"""A size that is the picture's own, and `auto`: the same as none, whichever way it comes in."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import inkstone
from inkstone.errors import CallError
from inkstone.headless.cli.main import main
from inkstone.headless.draw.request import DrawCall, check_call, without_own_size
from inkstone.headless.queue.jobs import read_jobs

from ...support.locked import picture

PROMPT, QUICK = "a red circle", ("--steps", "1", "--quiet")


@pytest.fixture
def odd(place) -> str:
    """A picture of 61x47, whose sides are no multiples of 16."""
    pixels = picture(61, 47)[0].numpy()
    Image.fromarray((pixels * 255).round().astype(np.uint8)).save("odd.png")
    Image.new("L", (61, 47), 255).save("mask.png")
    return "odd.png"


def drawn(*more: str, status: int = 0) -> np.ndarray:
    """The pixels that the command draws."""
    assert main(["draw", PROMPT, "-o", "out.png", *more, *QUICK]) == status
    return np.asarray(Image.open("out.png"))


@pytest.mark.parametrize("more", [(), ("--mask", "mask.png"), ("--strength", "0.5")])
def test_the_pictures_own_size_is_as_none(odd, more):
    alone = drawn("--image", odd, *more)
    assert alone.shape == (47, 61, 3)
    for size in ("61x47", "auto"):
        assert np.array_equal(drawn("--image", odd, *more, "--size", size), alone), size


def test_in_python_too(odd):
    (alone,) = inkstone.draw(PROMPT, image=odd, steps=1)
    for size in ((61, 47), "61x47", "auto"):
        (named,) = inkstone.draw(PROMPT, image=odd, steps=1, size=size)
        assert np.array_equal(np.asarray(named), np.asarray(alone)), size


def test_a_turned_picture_is_as_large_as_it_is_seen(place):
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned a quarter
    Image.new("RGB", (60, 32)).save("turned.jpg", exif=exif)
    call = DrawCall(PROMPT, image=[place / "turned.jpg"], size=(32, 60))
    assert without_own_size(call).size is None


def test_a_size_that_a_canvas_can_have_is_that_of_an_edits_canvas(place):
    """A small picture is then drawn at its own size, not at the one that edits are drawn at."""
    Image.new("RGB", (64, 48)).save("small.png")
    call = DrawCall(PROMPT, image=[place / "small.png"], size=(64, 48))
    assert without_own_size(call).size == (64, 48)
    assert without_own_size(call, canvas=True).size is None
    assert without_own_size(replace(call, strength=0.5)).size is None


def test_in_a_queue_auto_takes_back_the_size_of_all(odd):
    lines = [{"prompt": "x", "size": "auto"}, {"prompt": "x"}]
    lines.append({"prompt": "x", "image": [odd], "size": "61x47"})
    with open("jobs.jsonl", "w") as file:
        file.write("\n".join(map(json.dumps, lines)))
    jobs = read_jobs(Path("jobs.jsonl"), {"size": (64, 64)})
    assert [job.call.size for job in jobs] == [None, (64, 64), None]


@pytest.mark.parametrize("size", [(61, 48), (62, 47), (0, 64), (64, 32768)])
def test_another_size_has_to_be_a_canvas(odd, place, size):
    for image in ([], [place / odd]):
        with pytest.raises(CallError, match="--size: Canvas"):
            check_call(without_own_size(DrawCall(PROMPT, image=image, size=size)))
