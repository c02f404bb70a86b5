"""Things: counts, colours and places of what was found, and names of colours."""

import numpy as np
import pytest

from inkstone.score.colours import COLOURS, colour_shares, has_colour, plain_colour
from inkstone.score.task import WantedThing
from inkstone.score.things import Sighting, is_at, is_beside, judge_things
from inkstone.training.grammar import COLOURS as PALETTE

SIZE = (100, 100)


def at(x, y, side=10, **colours):
    return Sighting(x - side / 2, y - side / 2, x + side / 2, y + side / 2, colours)


RED_LEFT, BLUE_RIGHT = at(20, 50, red=1.0), at(80, 50, blue=1.0)
CASES = {
    "there": ([WantedThing("dog")], {"dog": [RED_LEFT]}, [{"presence": True}]),
    "not there": ([WantedThing("dog", colour="red")], {}, [{"presence": False, "colour": False}]),
    "one of two": ([WantedThing("dog", least=2)], {"dog": [RED_LEFT]}, [{"presence": False}]),
    "too many": (
        [WantedThing("dog", most=1)],
        {"dog": [RED_LEFT, BLUE_RIGHT]},
        [{"presence": True, "count": False}],
    ),
    "none is right": ([WantedThing("dog", least=0, most=0)], {"dog": []}, [{"count": True}]),
    "none is asked": (
        [WantedThing("dog", least=0, most=0)],
        {"dog": [RED_LEFT]},
        [{"count": False}],
    ),
    "the one of the right colour is meant": (
        [WantedThing("dog", colour="blue", place="right")],
        {"dog": [RED_LEFT, BLUE_RIGHT]},
        [{"presence": True, "colour": True, "place": True}],
    ),
    "two of one name are two": (
        [WantedThing("dog", colour="red"), WantedThing("dog", colour="blue")],
        {"dog": [BLUE_RIGHT, RED_LEFT]},
        [{"presence": True, "colour": True}] * 2,
    ),
    "one is not two": (
        [WantedThing("dog", colour="red"), WantedThing("dog", colour="red")],
        {"dog": [RED_LEFT]},
        [{"presence": True, "colour": True}, {"presence": False, "colour": False}],
    ),
    "all of them in the colour": (
        [WantedThing("dog", least=2, colour="red")],
        {"dog": [RED_LEFT, BLUE_RIGHT]},
        [{"presence": True, "colour": False}],
    ),
    "beside": (
        [WantedThing("dog"), WantedThing("cat", beside=("right of", 0))],
        {"dog": [RED_LEFT], "cat": [BLUE_RIGHT]},
        [{"presence": True}, {"presence": True, "place": True}],
    ),
    "on the wrong side": (
        [WantedThing("dog"), WantedThing("cat", beside=("left of", 0))],
        {"dog": [RED_LEFT], "cat": [BLUE_RIGHT]},
        [{"presence": True}, {"presence": True, "place": False}],
    ),
    "beside what is not there": (
        [WantedThing("dog"), WantedThing("cat", beside=("left of", 0))],
        {"cat": [BLUE_RIGHT]},
        [{"presence": False}, {"presence": True, "place": False}],
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_judge(name):
    things, seen, expected = CASES[name]
    assert judge_things(things, seen, SIZE) == expected


def test_places():
    assert is_at(at(20, 50), "left", SIZE) and not is_at(at(20, 50), "right", SIZE)
    assert is_at(at(50, 90), "bottom", SIZE) and is_at(at(52, 48), "center", SIZE)
    assert not is_at(at(51, 51), "right", SIZE) and not is_at(at(70, 50), "center", SIZE)


def test_an_offset_within_a_tenth_of_the_sizes_is_none():
    big = at(50, 50, 40)
    assert is_beside(at(41, 50, 40), "left of", big) and not is_beside(
        at(43, 50, 40), "left of", big
    )
    assert is_beside(at(50, 10), "above", big) and not is_beside(at(50, 10), "below", big)


@pytest.mark.parametrize("name", PALETTE)
def test_the_palette_has_its_names(name):
    pixels = np.array([PALETTE[name]], np.uint8)
    assert colour_shares(pixels) == {name: 1.0}


def test_shades():
    for rgb, name in (
        ((120, 72, 30), "brown"),
        ((128, 128, 128), "gray"),
        ((255, 105, 180), "pink"),
        ((0, 100, 0), "green"),
        ((25, 25, 112), "blue"),
        ((240, 128, 128), "pink"),
        ((255, 215, 0), "yellow"),
    ):
        assert list(colour_shares(np.array([rgb], np.uint8))) == [name], rgb
    shares = {"red": 0.4, "pink": 0.35, "black": 0.25}
    assert has_colour(shares, "red") and has_colour(shares, "pink")
    assert not has_colour(shares, "black") and not has_colour(shares, "blue")
    assert not has_colour({}, "red")
    assert plain_colour(" Grey ") == "gray" and plain_colour("mauve") == ""
    assert colour_shares(np.zeros((0, 3), np.uint8)) == {} and len(COLOURS) == 12
