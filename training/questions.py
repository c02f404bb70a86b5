"""What the embedded model is asked about pictures of the grammar, and the right answers: captions,
boxes, single facts.

Boxes are those of the ink, in pixels of the copy that the vision tower sees. Questions about things
that are not there are answered with an empty list.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from ..loaders.arch.chat import EMBEDDED_WORDING
from .grammar import (
    CELL,
    COLOURS,
    KINDS,
    PLACE_WORDS,
    Scene,
    Shape,
    Word,
    pick,
    prompt,
    random_word,
)
from .render import glyph, shape_mask

Item = Shape | Word
Box = tuple[int, int, int, int]  # left, top, right, bottom
SUBJECT = "the main subject"  # what is looked for where nothing was named
_SEVERAL = 0.2  # of the requests name two things
_ABSENT = 0.15  # of the requests for boxes name what is not there


@dataclass(frozen=True)
class Question:
    """A question and its answer."""

    text: str
    answer: str


@dataclass(frozen=True)
class Thing:
    """What to find: the words, and the items that they name."""

    words: str
    boxes: tuple[Box, ...]  # in the picture's own pixels, from left to right


def shape_box(shape: Shape) -> Box:
    """The box of a shape's ink."""
    mask = shape_mask(shape.kind, shape.diameter) >= 0.5
    x, y = shape.x - shape.diameter // 2, shape.y - shape.diameter // 2
    return _ink(mask, x, y)


def word_box(word: Word) -> Box:
    """The box of the letters' ink, without the sign that they may stand on."""
    mask = np.concatenate([glyph(letter) for letter in word.text], axis=1) >= 0.5
    return _ink(mask, word.x, word.y)


def sign_box(word: Word, width: int) -> Box:
    """The box of the sign behind a word, in a picture of a width."""
    right = min(width, word.x + CELL[0] * len(word.text) + 4)
    return max(0, word.x - 4), word.y, right, word.y + CELL[1]


def item_box(item: Item) -> Box:
    """The box of an item's ink."""
    return shape_box(item) if isinstance(item, Shape) else word_box(item)


def _ink(mask: np.ndarray, x: int, y: int) -> Box:
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return (x + int(columns[0]), y + int(rows[0]), x + int(columns[-1]) + 1, y + int(rows[-1]) + 1)


def full_prompt(scene: Scene) -> str:
    """The prompt that also says what lies in the centre."""
    (item, *others) = scene.items
    if others or item.place != "center" or PLACE_WORDS["center"] in scene.text:
        return prompt(scene)
    text = scene.text.replace(" on a ", f" {PLACE_WORDS['center']} on a ")
    return prompt(replace(scene, text=text))


def short_prompt(scene: Scene) -> str:
    """The prompt that leaves out that something is in the centre."""
    return prompt(replace(scene, text=scene.text.replace(f" {PLACE_WORDS['center']}", "")))


def caption(scene: Scene, long: bool) -> Question:
    """A question for a caption."""
    name = "long caption" if long else "short caption"
    return Question(
        EMBEDDED_WORDING.captions[name], full_prompt(scene) if long else short_prompt(scene)
    )


def _article(rng: np.random.Generator) -> str:
    return pick(rng, ("", "", "the ", "a "))


def thing(rng: np.random.Generator, scene: Scene, free: bool = False) -> Thing:
    """Something to find in a scene. free: its places say nothing."""
    if rng.random() < _ABSENT:
        return _absent(rng, scene)
    if rng.random() < 0.06:
        return Thing(SUBJECT, (item_box(scene.items[0]),))
    item = scene.items[int(rng.integers(len(scene.items)))]
    if isinstance(item, Word):
        return _written(rng, item, scene.width)
    form = rng.random()
    words, same = item.kind, [i for i in _shapes(scene) if i.kind == item.kind]
    if form < 0.4:
        words, same = f"{item.colour} {words}", [i for i in same if i.colour == item.colour]
    elif form < 0.55 and not free:
        place = pick(rng, (PLACE_WORDS[item.place], PLACE_WORDS[item.place].split()[-1]))
        words, same = f"{words} {place}", [i for i in same if i.place == item.place]
    elif form < 0.62:
        words, same = f"{item.colour} shape", [i for i in _shapes(scene) if i.colour == item.colour]
    elif form < 0.66:
        words, same = "shape", _shapes(scene)
    return Thing(_article(rng) + words, _ordered([shape_box(i) for i in same]))


def _shapes(scene: Scene) -> list[Shape]:
    return [item for item in scene.items if isinstance(item, Shape)]


def _written(rng: np.random.Generator, word: Word, width: int) -> Thing:
    form = rng.random()
    if word.plate and form < 0.5:
        words = pick(rng, ("sign", f"{word.plate} sign"))
        return Thing(_article(rng) + words, (sign_box(word, width),))
    words = pick(rng, ("word", f"{word.colour} word", f'word "{word.text}"', "text"))
    return Thing(_article(rng) + words, (word_box(word),))


def _absent(rng: np.random.Generator, scene: Scene) -> Thing:
    """Words that name nothing in the scene."""
    names = {i.kind for i in _shapes(scene)}
    looks = {(i.kind, i.colour) for i in _shapes(scene)}
    written = [i for i in scene.items if isinstance(i, Word)]
    options = [kind for kind in KINDS if kind not in names]
    kind, colour = pick(rng, KINDS), pick(rng, list(COLOURS))
    if (kind, colour) not in looks:
        options += [f"{colour} {kind}"] * 2
    if not written:
        options += ["word", f'word "{random_word(rng)}"', "sign"]
    elif not written[0].plate:
        options.append("sign")
    return Thing(_article(rng) + pick(rng, options), ())


def _ordered(boxes: Sequence[Box]) -> tuple[Box, ...]:
    return tuple(sorted(boxes, key=lambda b: (b[0] + b[2], b[1] + b[3])))


def search(things: Sequence[Thing], seen: tuple[int, int], size: tuple[int, int]) -> Question:
    """The request for things and the answer that has their boxes, in pixels of the copy `seen` of
    a picture of a size. Boxes of several things are labelled.
    """
    scale = (seen[0] / size[0], seen[1] / size[1]) * 2
    objects = []
    for one in things:
        label = f',"label":{json.dumps(one.words)}' if len(things) > 1 else ""
        for box in one.boxes:
            numbers = ",".join(str(round(v * s)) for v, s in zip(box, scale))
            objects.append(f'{{"bbox_2d":[{numbers}]{label}}}')
    words = ", ".join(one.words for one in things)
    return Question(EMBEDDED_WORDING.find.format(words), "[" + ",".join(objects) + "]")


def things(rng: np.random.Generator, scene: Scene, free: bool = False) -> list[Thing]:
    """What one request looks for: mostly a single thing."""
    first = thing(rng, scene, free)
    if rng.random() > _SEVERAL or first.words == SUBJECT:
        return [first]
    second = thing(rng, scene, free)
    same = second.words == SUBJECT or bool(set(first.boxes) & set(second.boxes))
    return [first] if same or '"' in first.words + second.words else [first, second]


def fact(rng: np.random.Generator, scene: Scene) -> Question:
    """A question for a single fact."""
    options = [(f"what {_colour(rng)} is the background?", scene.ground)]
    words = [item for item in scene.items if isinstance(item, Word)]
    read = reading(rng, scene)
    options.append((read.text, read.answer))
    if words:
        options.append((f"what {_colour(rng)} is the word?", words[0].colour))
    for shape in _shapes(scene):
        if sum(other.kind == shape.kind for other in _shapes(scene)) == 1:
            options.append((f"what {_colour(rng)} is the {shape.kind}?", shape.colour))
    return Question(*options[int(rng.integers(len(options)))])


def reading(rng: np.random.Generator, scene: Scene) -> Question:
    """A question for the word."""
    words = [item for item in scene.items if isinstance(item, Word)]
    return Question(pick(rng, ("what does it say?", "what is written?")), _text(words))


def _colour(rng: np.random.Generator) -> str:
    return pick(rng, ("color", "colour"))


def _text(words: Sequence[Word]) -> str:
    return f'"{words[0].text}"' if words else "nothing"
