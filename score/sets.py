"""Sets of prompts: the shipped ones by name, files of our own form, and the public sets' files.

What a file is, its content says. Everything that is wrong with it is said by line, before anything
is drawn.
"""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from ..errors import CallError, InkstoneError, shorten
from ..files.json_text import each_once, parse_json
from ..files.paths import kind_of, read_regular
from .own_format import Json, own_task
from .published import character_task, cvtg_tasks, geneval_task, long_text_task
from .task import Task

SHIPPED = {
    "english": "words, lines and regions in English",
    "chinese": "single characters, lines and regions in Chinese",
    "latin": "words and lines with diacritics in 23 languages",
    "objects": "objects, counts, colours and places",
    "edits": "words and shapes of rendered pictures changed, for edit models",
}
FOLDER = Path(__file__).parent / "sets"
MOST_BYTES = 64 << 20  # of a file
MOST_LINE = 1 << 20  # bytes of a line
MOST_TASKS = 20_000
_MOST_LISTED = 20  # faults in one message
_CVTG_PARTS = ("CVTG", "CVTG-Style")


@dataclass(frozen=True)
class PromptSet:
    """A set: its name in results, and its tasks in their order. folder: of its pictures."""

    name: str
    tasks: tuple[Task, ...]
    folder: Path = FOLDER

    def limited(self, count: int | None) -> PromptSet:
        """At most so many tasks, of every group its share, spread evenly over it."""
        if count is None or count >= len(self.tasks):
            return self
        sizes, seen = Counter(task.group for task in self.tasks), Counter[str]()
        order = []
        for task in self.tasks:
            order.append(((seen[task.group] + 0.5) / sizes[task.group], task.number, task))
            seen[task.group] += 1
        kept = {number for _, number, _ in sorted(order, key=lambda key: key[:2])[:count]}
        return replace(self, tasks=tuple(t for t in self.tasks if t.number in kept))


def read_set(given: str) -> PromptSet:
    """A shipped set by its name, or a file, or the folder of CVTG-2K. Raises CallError."""
    if given in SHIPPED:
        return _read(FOLDER / f"{given}.jsonl", given)
    path = Path(given)
    kind = kind_of(path)
    if kind == "a folder":
        return _read_cvtg(path)
    if kind != "a file":
        near = difflib.get_close_matches(given, SHIPPED, 1)
        hint = f" Did you mean {near[0]}?" if near else ""
        raise CallError(
            f"There is no set {shorten(given, 80)!r}: expected a file, or one of "
            f"{', '.join(SHIPPED)}.{hint}"
        )
    return _read(path, path.stem)


def _read(path: Path, name: str) -> PromptSet:
    text = _text(path)
    if path.suffix.lower() == ".json":
        return PromptSet(name, _numbered(path, _whole(path, text, name)), path.parent)
    faults: list[str] = []
    tasks = list(_tasks(text, faults))
    if faults:
        count = f"{len(faults)} line{'s' * (len(faults) > 1)}"
        rest = len(faults) - _MOST_LISTED
        more = [f"and {rest} more"] if rest > 0 else []
        listed = "\n".join([*faults[:_MOST_LISTED], *more])
        raise CallError(f"{path}: {count} cannot be used, nothing was drawn.\n{listed}")
    return PromptSet(name, _numbered(path, tasks), path.parent)


def _text(path: Path) -> str:
    try:
        return read_regular(path, MOST_BYTES).decode("utf-8-sig")
    except OSError as error:
        raise CallError(f"{path}: cannot be read: {error.strerror}. Check the path.") from None
    except UnicodeDecodeError as error:
        raise CallError(f"{path} is not UTF-8: {error}. Save it as UTF-8 text.") from None


def _tasks(text: str, faults: list[str]) -> Iterator[Task]:
    """The tasks of a file of lines; what is wrong goes to `faults`."""
    reader: Callable[[str], Task] | None = None
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            if len(line) > MOST_LINE:
                raise InkstoneError(
                    f"has {len(line)} characters: expected one prompt of at most {MOST_LINE}."
                )
            reader = reader or _reader_of(line)
            yield reader(line)
        except InkstoneError as error:
            faults.append(f"line {number}: {error}")
            if len(faults) > MOST_TASKS:
                return


def _reader_of(line: str) -> Callable[[str], Task]:
    """How the lines of a file are read, by its first one."""
    if not line.lstrip().startswith("{"):
        return character_task
    keys = set(_object(line))
    if "include" in keys:
        return lambda text: geneval_task(_object(text))
    if "prompt_id" in keys:
        return lambda text: long_text_task(_object(text))
    return lambda text: own_task(_object(text))


def _object(line: str) -> dict[str, Json]:
    try:
        data = parse_json(line, object_pairs_hook=each_once(_twice))
    except InkstoneError:
        raise
    except ValueError as error:
        raise InkstoneError(f"is not JSON: {shorten(str(error))}.") from None
    if not isinstance(data, dict):
        raise InkstoneError('is no JSON object: expected such as {"prompt": "...", "texts": []}.')
    return data


def _twice(name: str) -> InkstoneError:
    return InkstoneError(f'has "{shorten(name, 60)}" twice: keep one.')


def _whole(path: Path, text: str, name: str) -> list[Task]:
    """The tasks of a file that is one JSON value."""
    try:
        return cvtg_tasks(parse_json(text, object_pairs_hook=each_once(_twice)), name)
    except InkstoneError as error:
        raise CallError(f"{path}: {error}") from None
    except ValueError as error:
        raise CallError(f"{path} is not JSON: {shorten(str(error))}.") from None


def _read_cvtg(folder: Path) -> PromptSet:
    """CVTG/2.json to CVTG-Style/5.json of a folder."""
    files = [folder / part / f"{n}.json" for part in _CVTG_PARTS for n in range(2, 6)]
    files = [file for file in files if kind_of(file) == "a file"]
    if not files:
        raise CallError(
            f"{folder} is a folder and not CVTG-2K: expected files such as CVTG/2.json in it. "
            "Name the file of the set."
        )
    tasks = [
        task
        for file in files
        for task in _whole(file, _text(file), f"{file.parent.name}-{file.stem}")
    ]
    return PromptSet(folder.name, _numbered(folder, tasks), folder)


def _numbered(path: Path, tasks: list[Task]) -> tuple[Task, ...]:
    """The tasks with their numbers, and ids where they have none; an id of two is refused."""
    if not tasks:
        raise CallError(
            f"{path} has no prompts. Write one JSON object per line, such as "
            '{"prompt": "a sign that reads \\"OPEN\\"", "texts": ["OPEN"]}.'
        )
    if len(tasks) > MOST_TASKS:
        raise CallError(
            f"{path} has {len(tasks)} prompts: expected at most {MOST_TASKS}. Split the file."
        )
    places: dict[str, int] = {}
    numbered = []
    for number, task in enumerate(tasks):
        identity = task.id or f"{number:05}"
        if identity in places:
            raise CallError(
                f'{path}: the id "{shorten(identity, 60)}" is that of prompts '
                f"{places[identity] + 1} and {number + 1}. Give each its own."
            )
        places[identity] = number
        numbered.append(replace(task, id=identity, number=number))
    return tuple(numbered)
