"""Counts words: what was asked against what was read.

Case, punctuation and symbols do not count: readers lose them on true renderings too. Chinese is
counted by the character, everything else by the word. Words count wherever they stand, as in
CVTG-2K: lines are read in an order that nobody asked for. A space that is missing or too many does
not make a word wrong.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from .task import is_han

MOST_READ = 6000  # characters of a picture that are compared
_LONGEST_RUN = 5  # words that may have lost the spaces between them
_SAME = str.maketrans("șțȘȚ", "şţŞŢ")  # comma and cedilla: most fonts draw them alike


@dataclass(frozen=True)
class WordCount:
    """What was asked and what was read of it. asked, right: words, of Chinese characters; texts,
    exact: whole texts; characters, distance: length of the texts and edits that lead to what was
    read; extra: words that were read and not asked.
    """

    asked: int = 0
    right: int = 0
    texts: int = 0
    exact: int = 0
    characters: int = 0
    distance: int = 0
    extra: int = 0

    @property
    def all_right(self) -> bool:
        """Every word was read."""
        return self.right == self.asked


def plain(text: str) -> str:
    """A text as it is compared: letters, marks and digits in one case, and single spaces."""
    folded = unicodedata.normalize("NFKC", text).translate(_SAME).casefold()
    folded = unicodedata.normalize("NFC", folded.replace("i\u0307", "i"))
    kept = [c if unicodedata.category(c)[0] in "LNM" else " " for c in folded if c not in "'’"]
    return " ".join("".join(kept).split())


def units(text: str) -> list[str]:
    """The words of a text; of Chinese every character."""
    return [unit for word in plain(text).split() for unit in _split(word)]


def _split(word: str) -> Iterator[str]:
    start = 0
    for at, character in enumerate(word):
        if is_han(character):
            if start < at:
                yield word[start:at]
            yield character
            start = at + 1
    if start < len(word):
        yield word[start:]


def count_words(asked: Sequence[str], lines: Sequence[str]) -> WordCount:
    """The count of the texts that were asked in the lines that were read."""
    joined = "".join(plain(line).replace(" ", "") for line in lines)[:MOST_READ]
    pool = _Pool(lines)
    right = exact = total = characters = distance = 0
    for text in sorted(asked, key=len, reverse=True):
        wanted, letters = units(text), plain(text).replace(" ", "")
        edits = fitting_distance(letters, joined)
        if is_han(text):
            own = max(0, len(wanted) - edits)
            pool.take(wanted)
        else:
            own = pool.take(wanted)
        right, total = right + own, total + len(wanted)
        exact += own == len(wanted)
        characters, distance = characters + len(letters), distance + min(edits, len(letters))
    return WordCount(
        asked=total,
        right=right,
        texts=len(asked),
        exact=exact,
        characters=characters,
        distance=distance,
        extra=pool.left(),
    )


class _Pool:
    """The words that were read, each of which counts once."""

    def __init__(self, lines: Sequence[str]) -> None:
        self._lines = [units(line) for line in lines]
        self._free = [[True] * len(line) for line in self._lines]

    def left(self) -> int:
        """Words that nobody took."""
        return sum(map(sum, self._free))

    def take(self, wanted: Sequence[str]) -> int:
        """How many of these words are there, each taken once."""
        missing = [not self._take(word, 1) for word in wanted]
        for length in range(min(_LONGEST_RUN, len(wanted)), 0, -1):
            for start in range(len(wanted) - length + 1):
                run = slice(start, start + length)
                if all(missing[run]) and self._take("".join(wanted[run]), _LONGEST_RUN):
                    missing[run] = [False] * length
        return len(wanted) - sum(missing)

    def _take(self, word: str, most: int) -> bool:
        """Takes a word that was read as at most so many pieces."""
        for line, free in zip(self._lines, self._free):
            for start in range(len(line)):
                text = ""
                for end in range(start, min(start + most, len(line))):
                    text += line[end]
                    if not free[end] or not word.startswith(text):
                        break
                    if text == word:
                        free[start : end + 1] = [False] * (end + 1 - start)
                        return True
        return False


def fitting_distance(text: str, read: str) -> int:
    """Edits between a text and the part of what was read that is nearest to it."""
    codes = np.array([ord(c) for c in read], np.int64)
    steps = np.arange(len(codes) + 1)
    row = np.zeros(len(codes) + 1, np.int64)  # a part may begin anywhere
    for number, character in enumerate(text, 1):
        change = row[:-1] + (codes != ord(character))
        below = np.minimum(np.concatenate([[number], change]), row + 1)
        row = np.minimum.accumulate(below - steps) + steps
    return int(row.min())
