"""Results: one record per picture, a JSON file of all, and two such files compared."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from ..errors import CallError, InkstoneError, shorten
from ..files.json_text import parse_json
from ..files.paths import read_regular
from .judge import MEASURES, Marks
from .own_format import Json
from .rates import Difference, by_key, differences, rates

FORM = 1  # of the file
_MOST_BYTES = 256 << 20


@dataclass(frozen=True)
class PictureResult:
    """What was asked of a picture and what came out. file: below the folder of the result."""

    set: str
    id: str
    group: str
    prompt: str
    asked: tuple[str, ...]
    seed: int
    file: str
    read: tuple[str, ...] = ()
    found: tuple[str, ...] = ()
    extra: int = 0
    marks: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    error: str = ""  # why there is no picture

    @property
    def key(self) -> tuple[str, str, str, int]:
        """The same for the same request to two models."""
        return self.set, self.id, self.prompt, self.seed

    @property
    def right(self) -> bool | None:
        """Everything is right; None where that was not judged."""
        right, asked = self.marks.get("all", (0, 0))
        return right == asked if asked else None


@dataclass(frozen=True)
class Result:
    """All pictures of a run. settings: the options that matter to a picture; readers: who read;
    truth: their marks on true renderings, by what was rendered; checks: for each set of the
    embedded model what its own checker says, measure -> (here, there).
    """

    name: str
    settings: Mapping[str, Json]
    readers: Mapping[str, str]
    pictures: Sequence[PictureResult]
    truth: Mapping[str, Marks] = field(default_factory=dict)
    checks: Mapping[str, Mapping[str, tuple[float, float]]] = field(default_factory=dict)
    notes: Sequence[str] = ()

    def sets(self) -> dict[str, list[PictureResult]]:
        """The pictures by their set."""
        result: dict[str, list[PictureResult]] = {}
        for picture in self.pictures:
            result.setdefault(picture.set, []).append(picture)
        return result

    def text(self) -> str:
        """As JSON, rates included."""
        sets = {}
        for name, pictures in self.sets().items():
            groups = by_key((picture.group, picture.marks) for picture in pictures)
            sets[name] = {
                "rates": _facts(p.marks for p in pictures),
                "groups": {group: _facts(marks) for group, marks in groups.items()},
            }
        facts = {
            "inkstone_score": FORM,
            "name": self.name,
            "settings": self.settings,
            "readers": self.readers,
            "truth": self.truth,
            "checks": self.checks,
            "notes": list(self.notes),
            "sets": sets,
            "pictures": [asdict(picture) for picture in self.pictures],
        }
        return json.dumps(facts, ensure_ascii=False, indent=1)


def _facts(marks: Json) -> dict[str, object]:
    return {measure: rate.facts() for measure, rate in rates(marks).items()}


def read_result(path: Path) -> Result:
    """A file that `Result.text` wrote. CallError for anything else."""
    try:
        data = parse_json(read_regular(path, _MOST_BYTES))
    except OSError as error:
        raise CallError(f"{path}: cannot be read: {error.strerror}. Check the path.") from None
    except ValueError as error:
        raise CallError(f"{path} is not JSON: {shorten(str(error))}.") from None
    try:
        return _result(data)
    except (InkstoneError, KeyError, TypeError, ValueError, AttributeError) as error:
        reason = shorten(f"{type(error).__name__}: {error}", 120)
        raise CallError(
            f"{path} is no result of `inkstone score` ({reason}). Name the score.json of two runs."
        ) from None


def _result(data: Json) -> Result:
    if data["inkstone_score"] != FORM:
        raise InkstoneError(f"form {data['inkstone_score']!r}, expected {FORM}")
    pictures = [_picture(item) for item in data["pictures"]]
    if len({picture.key for picture in pictures}) < len(pictures):
        raise InkstoneError("a picture is in it twice")
    return Result(
        name=_text(data["name"]),
        settings=dict(data["settings"]),
        readers={_text(k): _text(v) for k, v in data["readers"].items()},
        pictures=pictures,
        truth={_text(name): _marks(marks) for name, marks in data["truth"].items()},
        checks={
            _text(name): {_text(k): (float(a), float(b)) for k, (a, b) in check.items()}
            for name, check in data["checks"].items()
        },
        notes=tuple(_text(note) for note in data["notes"]),
    )


def _picture(item: Json) -> PictureResult:
    return PictureResult(
        set=_text(item["set"]),
        id=_text(item["id"]),
        group=_text(item["group"]),
        prompt=_text(item["prompt"]),
        asked=tuple(map(_text, item["asked"])),
        seed=int(item["seed"]),
        file=_text(item["file"]),
        read=tuple(map(_text, item["read"])),
        found=tuple(map(_text, item["found"])),
        extra=int(item["extra"]),
        marks=_marks(item["marks"]),
        error=_text(item["error"]),
    )


def _text(value: Json) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{shorten(repr(value), 40)} is no text")
    return value


def _marks(marks: Json) -> dict[str, tuple[int, int]]:
    result = {}
    for measure, (right, asked) in marks.items():
        whole = isinstance(right, int) and isinstance(asked, int) and 0 <= right <= asked
        if measure not in MEASURES or not whole or asked > 1_000_000:
            raise ValueError(f"{shorten(repr(measure), 40)} has the marks {right!r} of {asked!r}")
        result[measure] = right, asked
    return result


@dataclass(frozen=True)
class Comparison:
    """b against a. pairs: pictures of the same requests; alone: how many only a and only b has."""

    a: Result
    b: Result
    pairs: Sequence[tuple[PictureResult, PictureResult]]
    alone: tuple[int, int]

    def by_set(self) -> dict[str, dict[str, Difference]]:
        """The differences of every set; of several also of all together, as "all sets"."""
        groups: dict[str, list[tuple[Marks, Marks]]] = {}
        for first, second in self.pairs:
            groups.setdefault(first.set, []).append((first.marks, second.marks))
        if len(groups) > 1:
            groups["all sets"] = [pair for pairs in groups.values() for pair in pairs]
        return {name: differences(pairs) for name, pairs in groups.items()}

    def facts(self) -> dict[str, object]:
        """As JSON."""
        return {
            "a": self.a.name,
            "b": self.b.name,
            "pairs": len(self.pairs),
            "only_a": self.alone[0],
            "only_b": self.alone[1],
            "sets": {
                name: {
                    measure: {**difference.facts(), "sentence": difference.sentence(measure)}
                    for measure, difference in measures.items()
                }
                for name, measures in self.by_set().items()
            },
        }


def compared(a: Result, b: Result) -> Comparison:
    """Two results on their common requests. CallError where there is none, or other readers read:
    what they read differently would look like a difference of the models.
    """
    for role in sorted({*a.readers, *b.readers}):
        first, second = a.readers.get(role), b.readers.get(role)
        if first and second and first != second:
            raise CallError(
                f"The results have other readers ({role}): {first} in {a.name}, {second} in "
                f"{b.name}. Score both with the same."
            )
    others = {picture.key: picture for picture in b.pictures}
    pairs = [(p, others[p.key]) for p in a.pictures if p.key in others]
    if not pairs:
        raise CallError(
            f"{a.name} and {b.name} have no request in common (set, prompt and seed). Score both "
            "with the same sets, --limit and --seed."
        )
    return Comparison(a, b, pairs, (len(a.pictures) - len(pairs), len(b.pictures) - len(pairs)))
