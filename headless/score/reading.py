"""Reads the pictures of a score. What was read is kept: a second run reads nothing again."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import CallError, InkstoneError
from ...files.json_text import parse_json
from ...files.paths import read_regular
from ...score.embedded_reader import EmbeddedReader
from ...score.judge import MEASURES, Finder, Judgement, Readers, TextReader, judge
from ...score.ocr import OCRReader
from ...score.task import Task
from .call import READINGS, ScoreCall, ScoredSet

log = logging.getLogger(__name__)

_MOST_BYTES = 1 << 30  # of the file of readings
_FORM = 1  # of what is counted: a change of its rules makes kept readings void


@dataclass(frozen=True)
class ReadersOf:
    """The readers of every set, and why some have none."""

    by_set: dict[str, Readers]
    notes: tuple[str, ...]

    def names(self) -> dict[str, str]:
        """Who reads what, for a result."""
        names = {}
        for label, readers in self.by_set.items():
            if readers.text is not None:
                names[f"{label}: words"] = readers.text.name
            if readers.finder is not None:
                names[f"{label}: things"] = readers.finder.name
        return names


@contextmanager
def open_readers(call: ScoreCall) -> Iterator[ReadersOf]:
    """The readers that the sets need. Raises CallError where the OCR is not installed, or nothing
    could be counted at all.
    """
    own, notes = EmbeddedReader(), []
    others = [given for given in call.given if given.own is None]
    words = any(t.texts or t.gone for given in others for t in given.prompts.tasks)
    things = any(t.things for given in others for t in given.prompts.tasks)
    text = OCRReader() if words else None
    with _finder(call, things) as (finder, reason):
        if things and finder is None:
            if not words and len(others) == len(call.given):
                raise CallError(f"Nothing can be counted: things are found by {reason}")
            notes.append(f"Things are not counted: {reason}")
            log.warning("%s", notes[-1])
        by_set = {
            given.prompts.name: Readers(own, own) if given.own else _needed(given, text, finder)
            for given in call.given
        }
        yield ReadersOf(by_set, tuple(notes))


def _needed(given: ScoredSet, text: TextReader | None, finder: Finder | None) -> Readers:
    """The readers that a set has something for."""
    tasks = given.prompts.tasks
    words, things = any(t.texts or t.gone for t in tasks), any(t.things for t in tasks)
    return Readers(text if words else None, finder if things else None)


@contextmanager
def _finder(call: ScoreCall, wanted: bool) -> Iterator[tuple[Any, str]]:
    """(Find in Picture, "") or (None, why it cannot be used)."""
    if not wanted:
        yield None, ""
        return
    from ...host.headless import HeadlessHost, using
    from ...loaders.models.load import EMBEDDED_FOLDER, load_text_encoder
    from ...nodes.load import AUTO, load_options
    from ...score.find_things import PictureFinder

    options = call.options
    path = options.get("text_encoder") or options.get("model") or EMBEDDED_FOLDER
    with using(HeadlessHost(device=options.get("device"), memory=options.get("memory"))):
        try:
            text_encoder = load_text_encoder(path, load_options(options.get("dtype") or AUTO))
            text_encoder.head.open()
            text_encoder.tower("questions about pictures")
        except InkstoneError as error:
            yield None, str(error)
            return
        yield PictureFinder(text_encoder, text_encoder.family.name), ""


class Readings:
    """Judgements by what they depend on: the picture, the task, the readers."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / READINGS
        self._known: dict[str, Judgement] = {}
        try:
            text = read_regular(self._path, _MOST_BYTES).decode("utf-8", "replace")
        except FileNotFoundError:
            return
        except OSError as error:
            raise CallError(
                f"{self._path}: cannot be read: {error.strerror}. Remove it: it is made again."
            ) from None
        for line in text.splitlines():
            self._remember(line)

    def judgement(
        self, task: Task, picture: np.ndarray, readers: Readers, source: np.ndarray | None
    ) -> Judgement:
        """The judgement of a picture, kept or made."""
        key = _key(task, picture, readers, source)
        known = self._known.get(key)
        if known is None:
            known = judge(task, picture, readers, source)
            self._known[key] = known
            line = json.dumps({"key": key, **asdict(known)}, ensure_ascii=False)
            with open(self._path, "ab") as file:
                file.write(line.encode("utf-8", "backslashreplace") + b"\n")
        return known

    def _remember(self, line: str) -> None:
        """Takes a line; one that is cut off or of another version is read again."""
        try:
            data = parse_json(line)
            marks = {str(k): (int(r), int(a)) for k, (r, a) in data["marks"].items()}
            if set(marks) <= set(MEASURES):
                self._known[str(data["key"])] = Judgement(
                    marks,
                    tuple(map(str, data["read"])),
                    tuple(map(str, data["found"])),
                    int(data["extra"]),
                )
        except (ValueError, TypeError, KeyError, AttributeError):
            return


def _key(task: Task, picture: np.ndarray, readers: Readers, source: np.ndarray | None) -> str:
    digest = hashlib.sha256(repr((_FORM, task, picture.shape)).encode("utf-8", "backslashreplace"))
    digest.update(np.ascontiguousarray(picture).tobytes())
    for reader in (readers.text, readers.finder):
        digest.update(f"|{reader.name if reader else ''}".encode())
    if source is not None:
        digest.update(np.ascontiguousarray(source).tobytes())
    return digest.hexdigest()


class Counter:
    """Says how many of `total` are done, at every tenth."""

    def __init__(self, what: str, total: int, write: Callable[[str], None]) -> None:
        self._what, self._total, self._write, self._done = what, total, write, 0

    def step(self) -> None:
        """One more."""
        before, self._done = self._done, self._done + 1
        if self._done * 10 // self._total > before * 10 // self._total:
            self._write(f"{self._what}: {self._done} of {self._total}")
