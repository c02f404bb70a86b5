"""One run of `inkstone score`: draw, read, count, write."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from dataclasses import replace

from ...errors import CallError
from ...files.atomic import write_text
from ...files.paths import check_given, kind_of
from ...score.embedded_set import agreement
from ...score.judge import Marks, Readers
from ...score.page import page
from ...score.rates import total
from ...score.render import Font, fonts, render_texts, shape_pictures
from ...score.results import PictureResult, Result
from ...score.task import LANGUAGES, Task, language_of
from ..node_types import Json
from ..queue.worker import OnStep
from .call import PAGE, PICTURES, RESULT, ScoreCall, ScoredSet, read_pixels
from .drawing import check_own_folder, draw_all
from .reading import Counter, ReadersOf, Readings, open_readers
from .thumbnails import thumbnails

log = logging.getLogger(__name__)

_SHAPES = "rendered shapes"
_UNSAID = {"memory", "device", "seed"}  # options that change no picture, or are said elsewhere

_LARGEST_FONT = 1 << 28  # bytes; those of all Chinese characters have 20 MB


def score(call: ScoreCall, on_step: OnStep | None = None) -> Result:
    """Draws and counts; writes RESULT and PAGE into the output folder.

    Raises CallError before anything is drawn where the call is wrong; KeyboardInterrupt after a
    stop, and the same call then continues.
    """
    check_own_folder(call.output)
    if call.font is not None:
        check_given(call.font, "--font", kinds=("file",))
        if call.font.stat().st_size > _LARGEST_FONT:
            raise CallError(f"--font {call.font}: is no font: larger than 256 MB. Check the path.")
    at_hand = fonts(call.font)
    for given in call.given:
        for task in given.prompts.tasks:
            if task.image:
                given.source_path(task)
    with open_readers(call):
        pass  # what is missing is said before hours of drawing
    faults = draw_all(call, on_step)
    with open_readers(call) as readers:
        readings = Readings(call.output)
        pictures, checks = _read(call, readers, readings, faults)
        truth, notes = _truth(call, readers, readings, at_hand)
    result = Result(
        name=call.label,
        settings=_settings(call),
        readers=readers.names(),
        pictures=pictures,
        truth=truth,
        checks=checks,
        notes=(*readers.notes, *notes),
    )
    write_text(call.output / RESULT, result.text())
    write_text(call.output / PAGE, page(result, thumbnails(call.output)))
    return result


def _settings(call: ScoreCall) -> dict[str, Json]:
    """The options as a result names them."""
    options = {k: v for k, v in call.options.items() if k not in _UNSAID and v not in (None, [])}
    if "size" in options:
        options["size"] = "{}x{}".format(*options["size"])
    return {"seed": call.seed, "limit": call.limit} | {k: str(v) for k, v in options.items()}


def _read(
    call: ScoreCall, readers: ReadersOf, readings: Readings, faults: Mapping[str, str]
) -> tuple[list[PictureResult], dict[str, Mapping[str, tuple[float, float]]]]:
    """The result of every picture, and what the embedded model's own checker says."""
    counter = Counter("read", sum(len(g.prompts.tasks) for g in call.given), log.info)
    pictures: list[PictureResult] = []
    checks: dict[str, Mapping[str, tuple[float, float]]] = {}
    for given in call.given:
        ours, theirs = [], []
        for task in given.prompts.tasks:
            path = call.output / PICTURES / f"{given.job(task)}.png"
            fault = faults.get(given.job(task), "")
            if not fault and kind_of(path) == "a file":
                result = _picture(call, given, task, readers.by_set[given.prompts.name], readings)
                if given.own is not None:
                    ours.append(result.marks)
                    theirs.append(given.own.check(task.number, read_pixels(path)))
            else:
                result = _result(call, given, task, error=fault or "There is no picture.")
            pictures.append(result)
            counter.step()
        if ours:
            checks[given.prompts.name] = agreement(ours, theirs)
    return pictures, checks


def _picture(
    call: ScoreCall, given: ScoredSet, task: Task, readers: Readers, readings: Readings
) -> PictureResult:
    path = call.output / PICTURES / f"{given.job(task)}.png"
    judgement = readings.judgement(task, read_pixels(path), readers, given.source(task))
    return replace(
        _result(call, given, task),
        read=judgement.read,
        found=judgement.found,
        extra=judgement.extra,
        marks=judgement.marks,
    )


def _result(call: ScoreCall, given: ScoredSet, task: Task, error: str = "") -> PictureResult:
    return PictureResult(
        set=given.prompts.name,
        id=task.id,
        group=task.group,
        prompt=task.prompt,
        asked=tuple(_asked(task)),
        seed=call.seed + task.number,
        file=f"{PICTURES}/{given.job(task)}.png",
        error=error,
    )


def _asked(task: Task) -> Iterator[str]:
    """What is counted, one line each."""
    yield from task.texts
    for thing in task.things:
        most = "" if thing.most is None or thing.most == thing.least else f" to {thing.most}"
        number = "" if (thing.least, most) == (1, "") else f"{thing.least}{most} x "
        beside = f"{thing.beside[0]} {task.things[thing.beside[1]].what}" if thing.beside else ""
        parts = (thing.colour, thing.what, thing.place and f"({thing.place})", beside)
        yield number + " ".join(filter(None, parts))
    for text in task.gone:
        yield f"no {text}"


def _truth(
    call: ScoreCall, readers: ReadersOf, readings: Readings, at_hand: list[Font]
) -> tuple[dict[str, Marks], list[str]]:
    """What the readers make of true renderings, and what could not be rendered."""
    truth: dict[str, list[Marks]] = {}
    notes: list[str] = []
    for given in call.given:
        own, missing = readers.by_set[given.prompts.name], 0
        for task in given.prompts.tasks:
            if given.own is not None:
                rendering = given.own.truths[task.number]
                source = given.source(task)
                judgement = readings.judgement(task, rendering, own, source)
                truth.setdefault(f"{given.prompts.name}, rendered", []).append(judgement.marks)
            elif task.texts and own.text is not None:
                marks = _text_marks(call, given, task, own, readings, at_hand)
                language = LANGUAGES[language_of("".join(task.texts))]
                missing += marks is None
                if marks is not None:
                    truth.setdefault(f"{given.prompts.name}, {language}", []).append(marks)
        if missing:
            notes.append(_no_font(given, missing))
    finder = next((r.finder for s, r in readers.by_set.items() if _finds(call, s, r)), None)
    if finder is not None:
        own = Readers(finder=finder)
        truth[_SHAPES] = [
            readings.judgement(task, picture, own, None).marks for task, picture in shape_pictures()
        ]
    return {name: total(marks) for name, marks in truth.items()}, notes


def _finds(call: ScoreCall, name: str, readers: Readers) -> bool:
    """True where Find in Picture counts the things of a set."""
    (given,) = (g for g in call.given if g.prompts.name == name)
    things = any(task.things for task in given.prompts.tasks)
    return given.own is None and things and readers.finder is not None


def _no_font(given: ScoredSet, missing: int) -> str:
    return (
        f"{given.prompts.name}: the reader was not measured on {missing} texts, because no font "
        "here has their characters or they do not fit. Name one with --font, for Chinese such as "
        "wqy-microhei.ttc or NotoSansCJK-Regular.ttc."
    )


def _text_marks(
    call: ScoreCall,
    given: ScoredSet,
    task: Task,
    readers: Readers,
    readings: Readings,
    at_hand: list[Font],
) -> Marks | None:
    """The marks of a text in a font, on a picture as large as the drawn one."""
    path = call.output / PICTURES / f"{given.job(task)}.png"
    if kind_of(path) != "a file":
        return None
    height, width = read_pixels(path).shape[:2]
    rendering = render_texts(task.texts, (width, height), at_hand)
    if rendering is None:
        return None
    plain = Task(id=task.id, prompt="", texts=task.texts)
    return readings.judgement(plain, rendering, Readers(text=readers.text), None).marks
