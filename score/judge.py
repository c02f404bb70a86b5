"""Judges a picture by its task: reads it, finds its things, compares it with its source.

What comes out are marks: for each measure how much was asked and how much of it is right. All rates
and intervals are sums of marks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from .changes import compare
from .task import Task
from .things import BACKGROUND, THING_MEASURES, Sighting, background, judge_things
from .words import WordCount, count_words, plain

Marks = Mapping[str, tuple[int, int]]  # measure -> (right, asked)

MEASURES = {
    "words": "words read right (Chinese: characters)",
    "texts": "texts read whole",
    "characters": "characters right: length less edit distance",
    "presence": "things that are there",
    "count": "things as often as asked",
    "colour": "things in their colour",
    "place": "things in their place",
    "changed": "edits that were made",
    "stayed": "edits that left the rest as it was",
    "all": "pictures in which everything is right",
}


class TextReader(Protocol):
    """Reads the lines of a picture uint8 [H,W,3]."""

    name: str

    def lines(self, picture: np.ndarray) -> list[str]:
        """From top to bottom."""
        ...


class Finder(Protocol):
    """Finds the things of a name in a picture uint8 [H,W,3]."""

    name: str

    def sightings(self, picture: np.ndarray, what: str) -> list[Sighting]:
        """In any order."""
        ...


@dataclass(frozen=True)
class Readers:
    """Who reads and who finds; None where nobody can."""

    text: TextReader | None = None
    finder: Finder | None = None


@dataclass(frozen=True)
class Judgement:
    """What was read and found in a picture, and its marks. extra: words that nobody asked for."""

    marks: dict[str, tuple[int, int]]
    read: tuple[str, ...] = ()
    found: tuple[str, ...] = ()
    extra: int = 0


def judge(
    task: Task, picture: np.ndarray, readers: Readers, source: np.ndarray | None = None
) -> Judgement:
    """The marks of a picture uint8 [H,W,3]. source: of an edit. A part of the task that no reader
    can judge has no marks, and its picture none for "all".
    """
    marks: dict[str, tuple[int, int]] = {}
    read: list[str] = []
    found: list[str] = []
    extra, whole = 0, True
    if task.texts or task.gone:
        whole &= readers.text is not None
        if readers.text is not None:
            read = readers.text.lines(picture)
            count = count_words(task.texts, read)
            extra = count.extra
            marks |= _word_marks(count, task, read)
    if task.things:
        whole &= readers.finder is not None
        if readers.finder is not None:
            seen = {
                name: [background(picture)]
                if name == BACKGROUND
                else readers.finder.sightings(picture, name)
                for name in dict.fromkeys(thing.what for thing in task.things)
            }
            found = [_sentence(name, s, picture) for name, every in seen.items() for s in every]
            marks |= _thing_marks(task, seen, picture)
    if source is not None:
        marks |= _change_marks(task, source, picture, marks)
    if whole:
        marks["all"] = int(_all_right(marks)), 1
    return Judgement(marks, tuple(read), tuple(found), extra)


def _all_right(marks: Marks) -> bool:
    """True without a fault. Characters follow an order of lines, which nobody asked for."""
    return all(right == asked for name, (right, asked) in marks.items() if name != "characters")


def _word_marks(count: WordCount, task: Task, read: Sequence[str]) -> dict[str, tuple[int, int]]:
    marks: dict[str, tuple[int, int]] = {}
    if count.asked:
        marks["words"] = count.right, count.asked
        marks["texts"] = count.exact, count.texts
        marks["characters"] = count.characters - count.distance, count.characters
    if task.gone:
        here = plain(" ".join(read)).replace(" ", "")
        gone = [plain(text).replace(" ", "") not in here for text in task.gone]
        marks["changed"] = int(all(gone) and count.all_right), 1
    return marks


def _thing_marks(
    task: Task, seen: Mapping[str, Sequence[Sighting]], picture: np.ndarray
) -> dict[str, tuple[int, int]]:
    height, width = picture.shape[:2]
    verdicts = judge_things(task.things, seen, (width, height))
    marks = {}
    for measure in THING_MEASURES:
        facts = [verdict[measure] for verdict in verdicts if measure in verdict]
        if facts:
            marks[measure] = sum(facts), len(facts)
    return marks


def _change_marks(
    task: Task, source: np.ndarray, picture: np.ndarray, marks: Marks
) -> dict[str, tuple[int, int]]:
    """An edit was made where pixels changed and all that it asks for is there."""
    change = compare(source, picture, task.changed)
    made = change.is_there and _all_right(marks)
    own = {"changed": (int(made), 1)}
    if task.changed is not None:
        own["stayed"] = int(change.stayed), 1
    return own


def _sentence(name: str, thing: Sighting, picture: np.ndarray) -> str:
    """A thing as the page shows it."""
    height, width = picture.shape[:2]
    x, y = thing.middle
    colours = sorted(thing.colours, key=lambda colour: -thing.colours[colour])[:2]
    return f"{name} ({', '.join(colours)}) at {100 * x / width:.0f} %, {100 * y / height:.0f} %"
