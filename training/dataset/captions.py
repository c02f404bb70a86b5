"""Captions in `.txt` files: reading them, and having the text encoder write those that are missing.

What it writes lies beside the pictures, as captions of other programs do, so that a person can read
and change it before training. A file that is there is never replaced.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from ...errors import InkstoneError
from ...files.atomic import replacement
from ...files.images import read_picture
from ...files.paths import kind_of, read_regular
from ...loaders.models.text_encoder import TextEncoderModel
from ...pipeline.ask import ask, question_of
from ...pipeline.ask_choices import FREE
from ...sampling.next_token import GREEDY
from .encode import leaving
from .findings import Finding, shown
from .items import Dataset
from .pictures import NO_PROGRESS, OnItem

log = logging.getLogger(__name__)

USUAL = "training caption"  # of CAPTIONS
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


def ask_captions(
    dataset: Dataset,
    text_encoder: Callable[[], TextEncoderModel],
    question: str = "",
    on_item: OnItem = NO_PROGRESS,
) -> Dataset:
    """The dataset with a caption for every picture that has none: the text encoder's answer, which
    is written to a new `.txt` beside the picture. text_encoder: loads it, where one is needed;
    question: "" = for a caption to train on. What was loaded leaves memory. Raises InkstoneError;
    what is written by then stays, and a further call goes on from there.
    """
    missing = {item.picture.path: item.name for item in dataset.items if item.caption is None}
    if not missing:
        return dataset
    answers: dict[Path, str] = {}
    with leaving():
        model = text_encoder()
        words = question_of(FREE if question.strip() else USUAL, question, model.family)
        for number, (path, name) in enumerate(missing.items(), 1):
            target = path.with_suffix(".txt")
            if kind_of(target) and target not in answers:  # another process wrote it meanwhile
                answers[target] = read_caption(target)
            if target not in answers:
                answer = ask(model, words, [read_picture(path)], GREEDY)
                if not answer.ended:
                    log.warning(
                        "the caption of %s was cut at %d tokens", shown(name), len(answer.tokens)
                    )
                answers[target] = _written(target, answer.text.strip())
            on_item("writing captions", number, len(missing))
        del model
    texts = {path: answers[path.with_suffix(".txt")] for path in missing}
    items = tuple(
        replace(item, caption=texts.get(item.picture.path, item.caption)) for item in dataset.items
    )
    findings = [one for one in dataset.findings if one.kind != "no caption"]
    findings += [Finding("asked", name) for name in missing.values()]
    findings += [
        Finding("empty caption", name) for path, name in missing.items() if not texts[path]
    ]
    return replace(dataset, items=items, findings=tuple(findings))


def _written(path: Path, text: str) -> str:
    """Writes a new file; the text of one that is there by now instead."""
    try:
        with replacement(path, sync=True, new=True) as file:
            file.write((text + "\n").encode())
        return text
    except FileExistsError:
        return read_caption(path)
    except OSError as error:
        raise InkstoneError(
            f"{path}: the caption cannot be written: {error.strerror}. Make the folder of the "
            "pictures writable, or write the missing captions yourself."
        ) from None
