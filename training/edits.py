"""Edits of the grammar's scenes: a source, a request as text, the scene that should come out.

A recoloured ground, shape or word, another word in its place, an item removed or added. Only what
is requested changes: everything else keeps its pixels. Held out for tests are the scenes that the
text-to-image training never saw, the words among them, and 1 in 20 of all requests.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from .grammar import (
    CELL,
    COLOURS,
    PLACE_WORDS,
    Scene,
    Shape,
    Word,
    held_out,
    luminance,
    pick,
    random_word,
    sample,
)

Item = Shape | Word


@dataclass(frozen=True)
class Edit:
    """source -> target by `text`; `item` is the changed item's place in target.items, or None for
    the ground and for a removed item.
    """

    source: Scene
    target: Scene
    text: str
    kind: str  # "ground", "colour", "word", "remove", "add"
    item: int | None


def _contrast(a: str, b: str) -> bool:
    return abs(luminance(a) - luminance(b)) >= 50


def _other_colour(rng: np.random.Generator, old: str, *neighbours: str) -> str | None:
    fit = [c for c in COLOURS if c != old and all(_contrast(c, b) for b in neighbours)]
    return pick(rng, fit) if fit else None


def reference_to(scene: Scene, item: Item) -> str:
    """The words that point at an item: "the word", "the star", "the star on the left"."""
    if isinstance(item, Word):
        return "the word"
    same = [i for i in scene.items if isinstance(i, Shape) and i.kind == item.kind]
    return f"the {item.kind}" + (f" {PLACE_WORDS[item.place]}" if len(same) > 1 else "")


def _with(scene: Scene, index: int, item: Item) -> Scene:
    items = list(scene.items)
    items[index] = item
    return replace(scene, items=tuple(items))


def _ground(rng: np.random.Generator, scene: Scene) -> Edit | None:
    on_ground = [getattr(i, "plate", "") or i.colour for i in scene.items]
    colour = _other_colour(rng, scene.ground, *on_ground)
    if colour is None:
        return None
    target = replace(scene, ground=colour)
    return Edit(scene, target, f"make the background {colour}", "ground", None)


def _colour(rng: np.random.Generator, scene: Scene) -> Edit | None:
    index = int(rng.integers(len(scene.items)))
    item = scene.items[index]
    colour = _other_colour(rng, item.colour, getattr(item, "plate", "") or scene.ground)
    if colour is None:
        return None
    target = _with(scene, index, replace(item, colour=colour))
    return Edit(scene, target, f"make {reference_to(scene, item)} {colour}", "colour", index)


def _word(rng: np.random.Generator, scene: Scene) -> Edit | None:
    words = ((i, item) for i, item in enumerate(scene.items) if isinstance(item, Word))
    index, old = next(words, (None, None))
    if index is None or old is None:
        return None
    text = random_word(rng)
    x = (scene.width - CELL[0] * len(text)) // 2 // CELL[0] * CELL[0]
    if text == old.text:
        return None
    target = _with(scene, index, replace(old, text=text, x=x))
    return Edit(scene, target, f'make the word "{text}"', "word", index)


def _without(scene: Scene, index: int) -> Scene:
    return replace(scene, items=scene.items[:index] + scene.items[index + 1 :])


def _remove(rng: np.random.Generator, scene: Scene) -> Edit | None:
    index = int(rng.integers(len(scene.items)))
    text = f"remove {reference_to(scene, scene.items[index])}"
    return Edit(scene, _without(scene, index), text, "remove", None)


def _description(scene: Scene, item: Item) -> str:
    """An item with everything that a request to add it must name."""
    words = [i for i in scene.items if isinstance(i, Word)]
    if isinstance(item, Word):
        name = f'the word "{item.text}" in {item.colour}'
        if item.plate:
            name = f'a {item.plate} sign that says "{item.text}" in {item.colour}'
        shapes = [i for i in scene.items if isinstance(i, Shape)]
        if shapes:
            return f"{name} {'above' if item.y < shapes[0].y else 'below'} the {shapes[0].kind}"
        return f"{name} {PLACE_WORDS[item.place]}"
    name = f"a {item.size} {item.colour} {item.kind}".replace("  ", " ")
    if words:
        return f"{name} {'below' if item.y > words[0].y else 'above'} the word"
    return f"{name} {PLACE_WORDS[item.place]}"


def _add(rng: np.random.Generator, scene: Scene) -> Edit | None:
    index = int(rng.integers(len(scene.items)))
    text = f"add {_description(scene, scene.items[index])}".replace("a orange", "an orange")
    return Edit(_without(scene, index), scene, text, "add", index)


_MAKERS: dict[str, Callable[[np.random.Generator, Scene], Edit | None]] = {
    "ground": _ground,
    "colour": _colour,
    "word": _word,
    "remove": _remove,
    "add": _add,
}
SHARES = {"ground": 0.15, "colour": 0.25, "word": 0.25, "remove": 0.15, "add": 0.2}


def unseen(edit: Edit) -> bool:
    """True for edits that training never sees."""
    whole = edit.target if edit.kind == "add" else edit.source
    changed = replace(edit.target, text=f"{whole.text} | {edit.text}")
    return held_out(replace(edit.source, text=whole.text)) or held_out(changed)


def sample_edit(
    rng: np.random.Generator,
    kind: str | None = None,
    split: str = "train",
    scenes: str = "scenes",
    size: tuple[int, int] | None = None,
) -> Edit:
    """A random edit, of one kind or by SHARES, on one side of the hold-out. Test edits start from
    scenes that are held out themselves.
    """
    for _ in range(10_000):
        chosen = kind or str(rng.choice(list(SHARES), p=list(SHARES.values())))
        edit = _MAKERS[chosen](rng, sample(rng, scenes, size, split))
        if edit is not None and unseen(edit) == (split == "test"):
            return edit
    raise RuntimeError(f"no {split} edit of kind {kind!r} in 10,000 tries")
