"""Counting words: case, punctuation, spaces, order, diacritics, Chinese; the distance by brute
force."""

import numpy as np
import pytest

from inkstone.score.words import count_words, fitting_distance, plain, units

CASES = {
    # asked, read -> (asked, right, exact, distance, extra)
    "the same": (["OPEN 24 HOURS"], ["OPEN 24 HOURS"], (3, 3, 1, 0, 0)),
    "case and punctuation": (["Open, 24 hours!"], ["OPEN 24 HOURS"], (3, 3, 1, 0, 0)),
    "a letter is wrong": (["OPEN 24 HOURS"], ["OPEM 24 HOURS"], (3, 2, 0, 1, 1)),
    "nothing was read": (["OPEN"], [], (1, 0, 0, 4, 0)),
    "lines in another order": (["one two", "three"], ["three", "one", "two"], (3, 3, 2, 0, 0)),
    "a lost space": (["FRESH BREAD daily"], ["FRESHBREAD daily"], (3, 3, 1, 0, 0)),
    "a space too many": (["SUNFLOWER"], ["SUN FLOWER"], (1, 1, 1, 0, 0)),
    "a word counts once": (["so so"], ["so"], (2, 1, 0, 2, 0)),
    "the same word in two texts": (["go", "go on"], ["go on", "go"], (3, 3, 2, 0, 0)),
    "what nobody asked": (["OPEN"], ["OPEN", "daily fresh"], (1, 1, 1, 0, 2)),
    "a diacritic is lost": (["Łódź Główna"], ["Lódź Główna"], (2, 1, 0, 1, 1)),
    "decomposed": (["Café"], ["Cafe\u0301"], (1, 1, 1, 0, 0)),
    "comma and cedilla": (["și"], ["şi"], (1, 1, 1, 0, 0)),
    "a dotted I": (["İstanbul"], ["istanbul"], (1, 1, 1, 0, 0)),
    "full width": (["ＡＢＣ １２"], ["ABC 12"], (2, 2, 1, 0, 0)),
    "Chinese": (["听雨茶楼"], ["听雨茶楼"], (4, 4, 1, 0, 0)),
    "Chinese over two lines": (["听雨茶楼"], ["听雨", "茶楼"], (4, 4, 1, 0, 0)),
    "Chinese in another order": (["听雨茶楼"], ["楼茶雨听"], (4, 1, 0, 3, 0)),
    "a character is wrong": (["听雨茶楼"], ["听雪茶楼"], (4, 3, 0, 1, 1)),
    "Chinese and Latin": (["开往B2站"], ["开往B2站"], (4, 4, 1, 0, 0)),
    "an apostrophe": (["don't walk"], ["dont walk"], (2, 2, 1, 0, 0)),
}


@pytest.mark.parametrize("name", CASES)
def test_count(name):
    asked, read, expected = CASES[name]
    count = count_words(asked, read)
    values = (count.asked, count.right, count.exact, count.distance, count.extra)
    assert values == expected
    assert count.texts == len(asked) and count.all_right == (count.right == count.asked)


def test_units():
    assert units("Gate B17, 小心Steps落石") == ["gate", "b17", "小", "心", "steps", "落", "石"]
    assert plain("  ½ 5€ — “Ünder”  ") == "1 2 5 ünder"


def brute(text: str, read: str) -> int:
    """The least Levenshtein distance to any part."""

    def distance(a: str, b: str) -> int:
        row = list(range(len(b) + 1))
        for i, x in enumerate(a, 1):
            before, row = row, [i]
            for j, y in enumerate(b, 1):
                row.append(min(before[j] + 1, row[-1] + 1, before[j - 1] + (x != y)))
        return row[-1]

    parts = {read[i:j] for i in range(len(read) + 1) for j in range(i, len(read) + 1)}
    return min(distance(text, part) for part in parts)


def test_the_distance_is_that_of_brute_force():
    rng = np.random.default_rng(0)
    for _ in range(60):
        text = "".join(rng.choice(list("abc"), int(rng.integers(0, 7))))
        read = "".join(rng.choice(list("abc"), int(rng.integers(0, 9))))
        assert fitting_distance(text, read) == brute(text, read), (text, read)


def test_long_texts_are_quick_and_bounded():
    count = count_words(["word " * 900], ["word " * 3000])
    assert count.asked == count.right == 900
