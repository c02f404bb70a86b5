"""Loose prompts and the full ones that they become: what the embedded model's prompt enhancement
learns.

A loose prompt keeps some facts of a scene, in any order and without the grammar's sentence. The
answer says all of them; what was open is as in the scene, so a sampled answer decides it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .edits import Edit, sample_edit
from .grammar import PLACE_WORDS, Scene, Shape, Word, pick, prompt, sample
from .questions import full_prompt

_EDITS = 0.2  # of the prompts are requests for edits
_AS_IT_IS = 0.06  # of the prompts are full already


@dataclass(frozen=True)
class LoosePrompt:
    """A prompt, the full one it may become, and the scene of that (None: an edit's)."""

    text: str
    full: str
    scene: Scene | None = None


def sample_loose(rng: np.random.Generator, split: str = "train") -> LoosePrompt:
    """A random loose prompt on one side of the hold-out."""
    if rng.random() < _EDITS:
        return loose_edit(rng, sample_edit(rng, split=split))
    return loose_scene(rng, sample(rng, "scenes", split=split))


def loose_scene(rng: np.random.Generator, scene: Scene) -> LoosePrompt:
    """Words for some of a scene's facts."""
    full = prompt(scene)
    if rng.random() < _AS_IT_IS:
        return LoosePrompt(full, full, scene)
    above = next((i.place == "top" for i in scene.items if isinstance(i, Word)), False)
    items = (
        sorted(scene.items, key=lambda i: isinstance(i, Shape)) if _mixed(scene) else scene.items
    )
    chance = 0.0 if _mixed(scene) else 0.25 if len(items) > 1 else 0.4  # that a place is said
    parts = [_item(rng, item, chance) for item in items]
    if len(parts) == 2:
        text = parts[0] + _join(rng, _mixed(scene), above) + parts[1]
    else:
        text = parts[0]
    form = rng.random()
    ground = pick(rng, ("on {}", "on a {} background", "{} background", "on {} background"))
    ground = ground.format(scene.ground)
    if form < 0.4:
        text += (" " if ground.startswith("on") and rng.random() < 0.7 else ", ") + ground
    elif form < 0.5 and not ground.startswith("on"):
        text = f"{ground}, {text}"
    elif form < 0.53 and not any(isinstance(item, Word) for item in items):
        text = ground
    full = full_prompt(scene) if "center" in text else full
    return LoosePrompt(text.replace("a orange", "an orange"), full, scene)


def _mixed(scene: Scene) -> bool:
    return len({type(item) for item in scene.items}) == 2


def _join(rng: np.random.Generator, mixed: bool, above: bool) -> str:
    if mixed and rng.random() < 0.6:
        return " above " if above else " below "
    return pick(rng, (", ", " and ", " "))


def _item(rng: np.random.Generator, item: Shape | Word, place: float) -> str:
    """Words for an item; place: the chance that they say where it is."""
    return _shape(rng, item, place) if isinstance(item, Shape) else _word(rng, item, place)


def _shape(rng: np.random.Generator, shape: Shape, place: float) -> str:
    colour = shape.colour if rng.random() < 0.7 else ""
    size = shape.size if rng.random() < 0.6 else ""
    article = pick(rng, ("", "", "a "))
    text = " ".join(filter(None, (size, colour, shape.kind)))
    if rng.random() < place:
        text += _place(rng, shape)
    return article + text


def _place(rng: np.random.Generator, item: Shape | Word) -> str:
    words = PLACE_WORDS[item.place]
    return " " + pick(rng, (words, words, item.place))


def _word(rng: np.random.Generator, word: Word, place: float) -> str:
    quoted = f'"{word.text}"'
    colour = word.colour if rng.random() < 0.6 else ""
    if word.plate:
        plate = word.plate + " " if rng.random() < 0.6 else ""
        head = pick(rng, ("{}sign {}", "a {}sign that says {}", "{}sign that says {}"))
        text = head.format(plate, quoted)
        return text + (f" in {colour}" if colour else "")
    form = rng.random()
    if form < 0.3:
        text = f"{colour} word {quoted}" if colour else f"word {quoted}"
    elif form < 0.5:
        text = quoted + (f" {colour}" if colour else "")
    else:
        text = pick(rng, ("the word ", "word ", "")) + quoted + (f" in {colour}" if colour else "")
        text = text if rng.random() < 0.7 else text.replace(" in ", " ")
    return text + (_place(rng, word) if rng.random() < place else "")


def loose_edit(rng: np.random.Generator, edit: Edit) -> LoosePrompt:
    """A request without its articles, and for things to add without some of their facts."""
    text = edit.text
    if edit.kind == "add":
        text = _without_facts(rng, text.split())
    if rng.random() < 0.7:
        text = text.replace(" the ", " ").replace(" a ", " ").replace(" an ", " ")
    return LoosePrompt(text, edit.text)


def _without_facts(rng: np.random.Generator, words: Sequence[str]) -> str:
    """The words without a size, and sometimes without the place at the end."""
    kept = [w for w in words if w not in ("small", "large") or rng.random() < 0.5]
    text = " ".join(kept)
    if rng.random() < 0.3:
        for place in PLACE_WORDS.values():
            text = text.removesuffix(" " + place)
    return text
