"""The embedded model's own prompts as sets: unseen scenes and edits of its grammar.

The seeds are those of `training/evaluate.py`, so the pictures are the ones that its checker scores.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from ..training import edit_scores, evaluate, reader
from ..training.edit_scores import item_box
from ..training.edits import Edit
from ..training.grammar import Scene, Shape, Word, prompt
from ..training.render import render
from .embedded_reader import WORD
from .judge import Marks
from .sets import PromptSet
from .task import Task, WantedThing
from .things import BACKGROUND

EMBEDDED, EMBEDDED_EDITS = "embedded", "embedded-edits"
OWN_SETS = {
    EMBEDDED: "the embedded model's grammar: words, shapes, colours, places",
    EMBEDDED_EDITS: "edits of such pictures",
}
USUAL_COUNT = 200


@dataclass(frozen=True)
class EmbeddedSet:
    """Tasks with their true renderings and what the model's own checker says of a picture.

    sources: the pictures that are edited, () of scenes; check: the task's number and a picture
    uint8 [H,W,3] -> marks.
    """

    prompts: PromptSet
    truths: Sequence[np.ndarray]
    sources: Sequence[np.ndarray]
    check: Callable[[int, np.ndarray], Marks]


def embedded_set(name: str, count: int | None) -> EmbeddedSet:
    """One of OWN_SETS with so many tasks, USUAL_COUNT without a number."""
    make = _scenes if name == EMBEDDED else _edits
    return make(count or USUAL_COUNT)


def _scenes(count: int) -> EmbeddedSet:
    scenes = evaluate.test_scenes(count)
    tasks = [_task(scene, number) for number, scene in enumerate(scenes)]

    def check(number: int, picture: np.ndarray) -> Marks:
        """The colour or place of a shape that is not there is wrong, as in judge.py."""
        verdict = reader.read(picture, scenes[number])
        kind, colour, place = (verdict[key] for key in ("kind", "colour", "place"))
        marks = {"texts": verdict["words"], "presence": kind}
        if kind is not None:
            marks |= {"colour": kind and colour and verdict["ground"], "place": kind and place}
        return _counted(marks)

    truths = [render(scene) for scene in scenes]
    return EmbeddedSet(PromptSet(EMBEDDED, tuple(tasks)), truths, (), check)


def _edits(count: int) -> EmbeddedSet:
    edits = edit_scores.test_edits(count)
    tasks = [_edit_task(edit, number) for number, edit in enumerate(edits)]

    def check(number: int, picture: np.ndarray) -> Marks:
        asked, rest = edit_scores.judge(picture, edits[number])
        return _counted({"changed": asked, "stayed": rest})

    return EmbeddedSet(
        PromptSet(EMBEDDED_EDITS, tuple(tasks)),
        [render(edit.target) for edit in edits],
        [render(edit.source) for edit in edits],
        check,
    )


def _counted(verdict: dict[str, bool | float | None]) -> Marks:
    return {key: (int(bool(value)), 1) for key, value in verdict.items() if value is not None}


def _group(scene: Scene) -> str:
    shapes = sum(isinstance(item, Shape) for item in scene.items)
    words = len(scene.items) - shapes
    parts = [f"{n} {noun}{'s' * (n > 1)}" for n, noun in ((words, "word"), (shapes, "shape")) if n]
    return " and ".join(parts)


def _task(scene: Scene, number: int) -> Task:
    words = [item for item in scene.items if isinstance(item, Word)]
    shapes = [item for item in scene.items if isinstance(item, Shape)]
    things = [WantedThing(what=WORD, colour=word.colour) for word in words]
    things.append(WantedThing(what=BACKGROUND, colour=scene.ground))
    for shape in shapes:
        thing = _wanted(shape, most=sum(other.kind == shape.kind for other in shapes))
        if words:  # its place is said by the word's
            above = shape.y < words[0].y
            thing = replace(thing, beside=("above" if above else "below", 0))
        else:
            thing = replace(thing, place=shape.place)
        things.append(thing)
    return Task(
        id=f"{number:05}",
        prompt=prompt(scene),
        group=_group(scene),
        texts=tuple(word.text for word in words),
        things=tuple(things),
        size=f"{scene.width}x{scene.height}",
        number=number,
    )


def _wanted(shape: Shape, most: int | None = None) -> WantedThing:
    return WantedThing(what=shape.kind, most=most, colour=shape.colour)


def _edit_task(edit: Edit, number: int) -> Task:
    """What a request asks for; where it may change the picture, if that is not everywhere."""
    target = edit.target
    base = Task(
        id=f"{number:05}",
        prompt=edit.text,
        group=edit.kind,
        size=f"{target.width}x{target.height}",
        number=number,
    )
    if edit.kind == "ground":
        return replace(base, things=(WantedThing(what=BACKGROUND, colour=target.ground),))
    base = replace(base, changed=_part(edit))
    if edit.item is None:
        (gone,) = set(edit.source.items) - set(target.items)
        if isinstance(gone, Word):
            return replace(base, gone=(gone.text,))
        left = sum(isinstance(i, Shape) and i.kind == gone.kind for i in target.items)
        return replace(base, things=(WantedThing(what=gone.kind, least=0, most=left),))
    item = target.items[edit.item]
    if isinstance(item, Shape):
        return replace(base, things=(_wanted(item),))
    colour = () if edit.kind == "word" else (WantedThing(what=WORD, colour=item.colour),)
    return replace(base, texts=(item.text,), things=colour)


def _part(edit: Edit) -> tuple[float, float, float, float]:
    """The box around the items that differ, as shares of the picture."""
    boxes = [item_box(item) for item in set(edit.source.items) ^ set(edit.target.items)]
    width, height = edit.target.width, edit.target.height
    top, bottom = min(r.start for r, _ in boxes), min(height, max(r.stop for r, _ in boxes))
    left, right = min(c.start for _, c in boxes), min(width, max(c.stop for _, c in boxes))
    return left / width, top / height, (right - left) / width, (bottom - top) / height


def agreement(own: Sequence[Marks], checked: Sequence[Marks]) -> dict[str, tuple[float, float]]:
    """For each measure of the checker the share of pictures that are right: here, and there."""
    rates = {}
    for measure in dict.fromkeys(key for marks in checked for key in marks):
        pairs = [
            (ours[measure][0] == ours[measure][1], theirs[measure][0] == theirs[measure][1])
            for ours, theirs in zip(own, checked)
            if measure in ours and measure in theirs
        ]
        if pairs:
            ours, theirs = zip(*pairs)
            rates[measure] = sum(ours) / len(pairs), sum(theirs) / len(pairs)
    return rates
