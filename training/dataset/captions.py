"""Captions in `.txt` files: reading them, and having the text encoder write those that are missing.

What it writes lies beside the pictures, as captions of other programs do, so that a person can read
and change it before training. A file that is there is never replaced, and a link that leads out of
the folder is never followed.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from pathlib import Path

from ...errors import InkstoneError
from ...files.atomic import replacement
from ...files.images import read_picture
from ...files.paths import read_regular, stays_in
from ...loaders.models.text_encoder import TextEncoderModel
from ...pipeline.ask import ask, question_of
from ...pipeline.ask_choices import FREE
from ...sampling.next_token import GREEDY
from .arrange import Arranged
from .encode import leaving
from .findings import Finding, shown
from .items import Dataset, Item
from .pictures import NO_PROGRESS, OnItem

log = logging.getLogger(__name__)

USUAL = "training caption"  # of CAPTIONS
CAPTION = ".txt"
OTHER_CAPTIONS = (".caption",)  # endings of other trainers, which are not read
MOST_CAPTION = 1 << 16  # bytes: 10,000 words; no text encoder here takes as much
_MARKS = {b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16"}


class Unusable(ValueError):
    """A caption that cannot be used; its text says why, for a line of the report."""


def read_caption(path: Path) -> str:
    """The whole text of a file without white space at its ends: UTF-8, or UTF-16 with its mark as
    Windows' editors write it. Raises Unusable.
    """
    try:
        data = read_regular(path, MOST_CAPTION)
    except OSError as error:
        raise Unusable(f"{path.name}: {error.strerror or error}") from None
    try:
        text = data.decode(_MARKS.get(data[:2], "utf-8-sig"))
    except UnicodeDecodeError:
        raise Unusable(f"{path.name}: it is not UTF-8: save it again as UTF-8") from None
    return checked_caption(text, path.name)


def checked_caption(text: str, where: str) -> str:
    """A caption without white space at its ends. Raises Unusable; where: for its text."""
    if "\0" in text:
        raise Unusable(f"{where}: it has a NUL, so it is no text in UTF-8")
    return text.strip()


def planned(arranged: Arranged) -> Arranged:
    """The same pictures; what `ask_captions` will do of each without a caption is a finding, in
    place of its lack.
    """
    findings = [one for one in arranged.findings if one.kind != "no caption"]
    for work in arranged.works:
        if work.item.caption is None:
            why = _fault(arranged.dataset, _target(work.item))
            kind = "to ask" if why is None else "not asked"
            findings.append(Finding(kind, work.item.name, why or ""))
    return replace(arranged, findings=tuple(findings))


def ask_captions(
    dataset: Dataset,
    text_encoder: Callable[[], TextEncoderModel],
    question: str = "",
    on_item: OnItem = NO_PROGRESS,
    trained: Collection[Item] | None = None,
) -> Dataset:
    """The dataset with a caption for every picture that has none: the text encoder's answer, which
    is written to a new `.txt` beside the picture. text_encoder: loads it, where one is needed;
    question: "" = for a caption to train on; trained: only these get one. What was loaded leaves
    memory. Raises InkstoneError; what is written by then stays, and a further call goes on from
    there.
    """
    lacking = [
        item
        for item in dataset.items
        if item.caption is None and (trained is None or item in trained)
    ]
    faults = {target: _fault(dataset, target) for target in map(_target, lacking)}
    missing = {item.picture.path: item for item in lacking if faults[_target(item)] is None}
    answers: dict[Path, str] = {}
    if missing:
        with leaving():
            model = text_encoder()
            words = question_of(FREE if question.strip() else USUAL, question, model.family)
            for number, item in enumerate(missing.values(), 1):
                target = _target(item)
                try:
                    if target not in answers:
                        answers[target] = _answer(dataset, item, model, words)
                except Unusable as fault:  # another process put it there meanwhile
                    faults[target] = str(fault)
                on_item("writing captions", number, len(missing))
            del model
    return _with_answers(dataset, lacking, answers, faults)


def _target(item: Item) -> Path:
    """The file of a picture's caption."""
    return item.picture.path.with_suffix(CAPTION)


def _fault(dataset: Dataset, target: Path) -> str | None:
    """Why no caption is written to a file, as things are; None where one is."""
    for ending in OTHER_CAPTIONS:
        if os.path.lexists(other := target.with_suffix(ending)):
            return f"{other.name} is there: rename it to {target.name} to use it"
    try:
        if os.path.lexists(target):  # a usable one: another process wrote it meanwhile
            _present(dataset, target)
    except Unusable as fault:
        return str(fault)
    return None


def _present(dataset: Dataset, path: Path) -> str:
    """The caption in a file that is there. Raises Unusable, also for a link that leads out."""
    if not stays_in(dataset.root if dataset.root.is_dir() else dataset.root.parent, path):
        raise Unusable(f"{path.name} is a link that leads out of its folder")
    return read_caption(path)


def _answer(dataset: Dataset, item: Item, model: TextEncoderModel, question: str) -> str:
    """The caption of a picture, also in its file; that of a file which another process wrote.
    Raises Unusable.
    """
    target = _target(item)
    if os.path.lexists(target):
        return _present(dataset, target)
    answer = ask(model, question, [read_picture(item.picture.path)], GREEDY)
    if not answer.ended:
        log.warning("the caption of %s was cut at %d tokens", shown(item.name), len(answer.tokens))
    return _written(dataset, target, answer.text.strip())


def _with_answers(
    dataset: Dataset,
    lacking: Collection[Item],
    answers: Mapping[Path, str],
    faults: Mapping[Path, str | None],
) -> Dataset:
    """The dataset with these captions, by their files."""
    names = {item.name for item in lacking}
    findings = [f for f in dataset.findings if f.kind != "no caption" or f.name not in names]
    for item in lacking:
        text = answers.get(_target(item))
        if text is None:
            findings.append(Finding("not asked", item.name, faults[_target(item)] or ""))
        else:
            findings.append(Finding("asked", item.name))
        if text == "":
            findings.append(Finding("empty caption", item.name))
    items = tuple(
        replace(item, caption=answers.get(_target(item))) if item in lacking else item
        for item in dataset.items
    )
    return replace(dataset, items=items, findings=tuple(findings))


def _written(dataset: Dataset, path: Path, text: str) -> str:
    """Writes a new file; the text of one that is there by now instead. Raises Unusable."""
    try:
        with replacement(path, sync=True, new=True) as file:
            file.write((text + "\n").encode())
        return text
    except FileExistsError:
        return _present(dataset, path)
    except OSError as error:
        raise InkstoneError(
            f"{path}: the caption cannot be written: {error.strerror}. Make the folder of the "
            "pictures writable, or write the missing captions yourself."
        ) from None
