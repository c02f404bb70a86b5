"""Scores answers: are enhanced prompts in the grammar and true to what was asked, do captions name
every item, are boxes where things are?

Everything runs as `inkstone enhance`, `ask` and `find` do: they call the same functions. All
prompts and pictures are held out; pictures are true renderings, so that only answers are scored.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..errors import InkstoneError
from ..loaders.models.load import load_text_encoder
from ..loaders.models.text_encoder import TextEncoderModel
from ..pipeline.ask import ask, question_of
from ..pipeline.ask_choices import FREE
from ..pipeline.enhance import EnhanceRequest, enhance
from ..pipeline.find import find
from ..sampling.next_token import Decoding
from ..sampling.span import Span
from .control_flow import free_scene
from .evaluate import SEED
from .grammar import COLOURS, KINDS, PLACE_WORDS, SIZES, Scene, Shape, sample
from .loose import LoosePrompt, sample_loose
from .questions import Thing, fact, full_prompt, short_prompt, thing, things
from .render import render

IOU = 0.8  # of a box that is right
LONGEST = 96  # tokens of an answer
_COLOUR, _KIND = "|".join(COLOURS), "|".join(KINDS)
_NAME = rf"an? (?:(?:small|large) )?(?:{_COLOUR}) (?:{_KIND})"
_PLACE = rf"(?: (?:{'|'.join(PLACE_WORDS.values())}))"
_WORD = rf'the word "[A-Z0-9]{{1,6}}" in (?:{_COLOUR})'
_SIGN = rf'an? (?:{_COLOUR}) sign that says "[A-Z0-9]{{1,6}}" in (?:{_COLOUR})'
_WRITTEN = rf"(?:{_WORD}|{_SIGN})"
_THINGS = (
    rf"{_NAME}{_PLACE}?",
    rf"{_NAME}{_PLACE} and {_NAME}{_PLACE}",
    rf"{_WORD}{_PLACE}?",
    rf"{_WRITTEN} (?:above|below) {_NAME}",
)
_ITEM = rf"the (?:word|(?:{_KIND}){_PLACE}?)"
_BESIDE = rf"(?: (?:above|below) the (?:word|{_KIND}))"
SENTENCES = (
    rf"(?:{'|'.join(_THINGS)}) on an? (?:{_COLOUR}) background",
    rf"make (?:the background|{_ITEM}) (?:{_COLOUR})",
    r'make the word "[A-Z0-9]{1,6}"',
    rf"remove {_ITEM}",
    rf"add (?:{_NAME}|{_WRITTEN})(?:{_PLACE}|{_BESIDE})",
)
_FACTS = {*COLOURS, *KINDS, *SIZES, *PLACE_WORDS, "above", "below", "sign", "make", "remove", "add"}


def in_grammar(text: str) -> bool:
    """Whether a text is a prompt or a request of the grammar, as training writes them."""
    return any(re.fullmatch(sentence, text) for sentence in SENTENCES)


def facts_of(text: str) -> Counter[str]:
    """The words of a prompt that say something, and its quoted word."""
    plain = re.findall(r"[a-z]+", re.sub(r'"[^"]*"', " ", text))
    return Counter([w for w in plain if w in _FACTS] + re.findall(r'"[^"]*"', text))


def picture(scene: Scene) -> Tensor:
    """A scene as a node passes it: [1,H,W,3] in 0..1."""
    return torch.from_numpy(render(scene)).float()[None] / 255


def loose_prompts(count: int) -> list[LoosePrompt]:
    """Unseen loose prompts."""
    rng = np.random.default_rng(SEED + 4)
    return [sample_loose(rng, "test") for _ in range(count)]


def pictures(count: int, free: bool = False) -> list[Scene]:
    """Unseen scenes; free: shapes anywhere."""
    rng = np.random.default_rng(SEED + 5 + free)
    return [
        free_scene(rng, "test") if free else sample(rng, "scenes", split="test")
        for _ in range(count)
    ]


def enhanced(model: TextEncoderModel, prompts: Sequence[LoosePrompt]) -> list[dict[str, bool]]:
    """Of each prompt: whether the answer is in the grammar, keeps the quoted word and all facts."""
    rows = []
    for seed, prompt in enumerate(prompts):
        result = enhance(model, EnhanceRequest(prompt=prompt.text, seed=seed))
        before, after = facts_of(prompt.text), facts_of(result.text)
        words = [w for w in before if w.startswith('"')]
        row = {
            "grammar": in_grammar(result.text),
            "word": all(word in after for word in words),
            "facts": not before - after,
            "first": result.tries == 1 and not result.note,
        }
        rows.append(row | {"all": all(v for k, v in row.items() if k != "first")})
    return rows


def names_all(scene: Scene, text: str) -> bool:
    """Whether a caption names every item with its colour, and the ground."""
    parts = [
        f"{item.colour} {item.kind}"
        if isinstance(item, Shape)
        else f'"{item.text}" in {item.colour}'
        for item in scene.items
    ]
    return all(part in text for part in [*parts, f"{scene.ground} background"])


def captioned(model: TextEncoderModel, scenes: Sequence[Scene]) -> list[dict[str, bool]]:
    """Of each scene: whether the short and the long caption name all, and are the grammar's own."""
    rows = []
    for scene in scenes:
        short, long = (answer(model, scene, f"{name} caption") for name in ("short", "long"))
        rows.append(
            {
                "short": names_all(scene, short),
                "long": names_all(scene, long),
                "own": short == short_prompt(scene) and long == full_prompt(scene),
            }
        )
    return rows


def answer(model: TextEncoderModel, scene: Scene, caption: str, question: str = "") -> str:
    """The answer about a scene."""
    asked = question_of(caption, question, model.family)
    return ask(model, asked, [picture(scene)], Decoding(max_tokens=LONGEST)).text


def answered(model: TextEncoderModel, scenes: Sequence[Scene]) -> list[dict[str, bool]]:
    """Of each scene: whether a question for a single fact is answered."""
    rng = np.random.default_rng(SEED + 7)
    questions = [fact(rng, scene) for scene in scenes]
    return [
        {"fact": answer(model, scene, FREE, question.text) == question.answer}
        for scene, question in zip(scenes, questions)
    ]


def searched(
    model: TextEncoderModel, scenes: Sequence[Scene], free: bool = False
) -> tuple[list[dict[str, bool]], list[dict[str, bool]]]:
    """Requests for what is there, and for what is not: whether the boxes are right."""
    rng = np.random.default_rng(SEED + 8)
    there: list[dict[str, bool]] = []
    absent: list[dict[str, bool]] = []
    for scene in scenes:
        what = thing(rng, scene, free)
        boxes = found_boxes(model, scene, what.words)
        (there if what.boxes else absent).append({"boxes": right_boxes(what, boxes)})
    return there, absent


def searched_together(model: TextEncoderModel, scenes: Sequence[Scene]) -> list[dict[str, bool]]:
    """Requests for two things, of the scenes for which one comes up: whether all boxes are
    right."""
    rng = np.random.default_rng(SEED + 9)
    rows = []
    for scene in scenes:
        asked = next((t for t in (things(rng, scene) for _ in range(20)) if len(t) == 2), None)
        if asked is not None:
            words = ", ".join(one.words for one in asked)
            both = Thing(words, tuple(box for one in asked for box in one.boxes))
            rows.append({"boxes": right_boxes(both, found_boxes(model, scene, words))})
    return rows


def found_boxes(model: TextEncoderModel, scene: Scene, words: str) -> list[Span]:
    """The boxes that `find` returns; none where it says that there are none."""
    try:
        return [box.span for box in find(model, picture(scene), words, LONGEST).boxes]
    except InkstoneError as error:
        if "No box" not in str(error):
            raise
        return []


def right_boxes(what: Thing, boxes: Sequence[Span]) -> bool:
    """Whether each thing has a box of its own that fits, and no box is left over."""
    truth = [Span(*box) for box in what.boxes]
    fits = [any(iou(box, one) >= IOU for one in boxes) for box in truth]
    return len(boxes) == len(truth) and all(fits)


def iou(a: Span, b: Span) -> float:
    """Intersection over union."""
    width = min(a.right, b.right) - max(a.left, b.left)
    height = min(a.bottom, b.bottom) - max(a.top, b.top)
    shared = max(0.0, width) * max(0.0, height)
    return shared / (a.area + b.area - shared)


def report(folder: Path, count: int) -> str:
    """A table of all scores."""
    model = load_text_encoder(folder)
    scenes, anywhere = pictures(count), pictures(count // 2, free=True)
    prompts = enhanced(model, loose_prompts(count))
    captions = captioned(model, scenes)
    there, absent = searched(model, scenes)
    free, _ = searched(model, anywhere, free=True)
    rows = (
        ("enhance: a prompt of the grammar", prompts, "grammar"),
        ("enhance: keeps the quoted word", prompts, "word"),
        ("enhance: keeps everything that was said", prompts, "facts"),
        ("enhance: all three", prompts, "all"),
        ("enhance: accepted at the first try", prompts, "first"),
        ("short caption: names every item", captions, "short"),
        ("long caption: names every item", captions, "long"),
        ("captions: the grammar's own words", captions, "own"),
        ("ask: a single fact", answered(model, scenes), "fact"),
        (f"find: all boxes, IoU >= {IOU}", there, "boxes"),
        ("find: what is not there has no box", absent, "boxes"),
        ("find: two things in one request", searched_together(model, scenes), "boxes"),
        (f"find, shapes anywhere and of any size: IoU >= {IOU}", free, "boxes"),
    )
    lines = ["| answers | right | of |", "|---|---|---|"]
    for name, verdicts, key in rows:
        share = 100 * np.mean([v[key] for v in verdicts]) if verdicts else float("nan")
        lines.append(f"| {name} | {share:.1f} % | {len(verdicts)} |")
    lines.append(f"\nunseen prompts and pictures (seeds {SEED + 4} to {SEED + 9})")
    return "\n".join(lines)
