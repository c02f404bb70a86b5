"""Inkstone's own form of a set: one JSON object per line.

{"id": "sign-1", "prompt": "a shop sign that reads \"OPEN\"", "texts": ["OPEN"]}
{"id": "dogs-1", "prompt": "two dogs", "things": [{"what": "dog", "least": 2, "most": 2}]}
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from ..errors import InkstoneError, shorten
from .colours import COLOURS, plain_colour
from .source import MOST_ITEMS, Source, SourceItem, check_source
from .task import PLACES, RELATIONS, Task, WantedThing

Json = Any  # whatever a set holds

KEYS = ("id", "prompt", "group", "texts", "things", "gone", "size", "image", "source", "changed")
THING_KEYS = ("what", "least", "most", "colour", "place", "beside")
MOST_PROMPT = 20_000  # characters
MOST_TEXTS, MOST_THINGS, MOST_COUNT = 100, 20, 100
MOST_TEXT = 5000  # characters of all texts of a prompt
MOST_ID = 200


def own_task(data: Mapping[str, Json]) -> Task:
    """The task of a line. Raises InkstoneError with the end of a sentence about it."""
    known(data, KEYS)
    texts, gone = texts_of(data, "texts"), texts_of(data, "gone")
    things = data.get("things", [])
    if not isinstance(things, list) or len(things) > MOST_THINGS:
        raise InkstoneError(f'"things" is no list of at most {MOST_THINGS} objects.')
    wanted = tuple(_thing(thing, number) for number, thing in enumerate(things))
    task = Task(
        id=text_of(data, "id", MOST_ID, ""),
        prompt=text_of(data, "prompt", MOST_PROMPT),
        group=text_of(data, "group", MOST_ID, ""),
        texts=texts,
        things=wanted,
        gone=gone,
        size=_size(text_of(data, "size", 20, "")),
        image=text_of(data, "image", 1000, ""),
        source=_source(data.get("source")),
        changed=_part(data.get("changed")),
    )
    if task.image and task.source:
        raise InkstoneError('has an "image" and a "source": the picture that it edits is one.')
    if not (texts or things or gone or task.image or task.source):
        raise InkstoneError(
            'says nothing that can be counted: give it "texts" (to be read), "things" (to be '
            'found) or "image" (the source of an edit).'
        )
    return task


def known(data: Mapping[str, Json], keys: tuple[str, ...]) -> None:
    """Raises InkstoneError for a name that no part of the program reads."""
    unknown = [key for key in data if key not in keys]
    if unknown:
        raise InkstoneError(
            f'has the unknown name "{shorten(unknown[0], 60)}": expected {", ".join(keys)}.'
        )


def text_of(data: Mapping[str, Json], key: str, most: int, usual: str | None = None) -> str:
    """A text that is not blank. usual: where there is none; None where there must be one."""
    if key not in data and usual is not None:
        return usual
    value = data.get(key)
    if isinstance(value, int) and not isinstance(value, bool) and key == "id":
        value = str(value)
    if not isinstance(value, str) or not value.strip():
        raise InkstoneError(f'"{key}" is missing, blank or no text: expected a text.')
    if len(value) > most:
        raise InkstoneError(f'"{key}" has {len(value)} characters: expected at most {most}.')
    if re.search("[\ud800-\udfff]", value):
        raise InkstoneError(f'"{key}" has half a character (\\ud800 to \\udfff alone). Remove it.')
    return value


def texts_of(data: Mapping[str, Json], key: str) -> tuple[str, ...]:
    """A list of texts, or one; () without."""
    value = data.get(key, [])
    items = [value] if isinstance(value, str) else value
    if not isinstance(items, list) or not all(isinstance(t, str) and t.strip() for t in items):
        raise InkstoneError(f'"{key}" is no list of texts: expected such as ["OPEN", "24 HOURS"].')
    if len(items) > MOST_TEXTS or sum(map(len, items)) > MOST_TEXT:
        raise InkstoneError(
            f'"{key}" has {len(items)} texts of {sum(map(len, items))} characters: expected at '
            f"most {MOST_TEXTS} of {MOST_TEXT}."
        )
    return tuple(items)


def _thing(data: Json, number: int) -> WantedThing:
    if not isinstance(data, dict):
        raise InkstoneError('"things" holds what is no object: expected {"what": "dog"}.')
    known(data, THING_KEYS)
    least = count_of(data, "least", 1)
    most = count_of(data, "most", None)
    place = text_of(data, "place", 20, "")
    if place and place not in PLACES:
        raise InkstoneError(f'"place" is {place!r}: expected {", ".join(PLACES)}.')
    assert least is not None  # it has a usual value
    if most is not None and most < least:
        raise InkstoneError(f'"most" is {most}, less than "least", {least}.')
    return WantedThing(
        what=text_of(data, "what", 100),
        least=least,
        most=most,
        colour=colour_of(data, "colour"),
        place=place,
        beside=relation(data.get("beside"), number),
    )


def count_of(data: Mapping[str, Json], key: str, usual: int | None) -> int | None:
    """A number of things."""
    value = data.get(key)
    if value is None:
        return usual
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= MOST_COUNT:
        raise InkstoneError(f'"{key}" is no whole number from 0 to {MOST_COUNT}.')
    return value


def colour_of(data: Mapping[str, Json], key: str) -> str:
    """A name of COLOURS; "" without."""
    name = text_of(data, key, 40, "")
    if name and not plain_colour(name):
        raise InkstoneError(f'"{key}" is {name!r}: expected {", ".join(COLOURS)}.')
    return plain_colour(name)


def relation(value: Json, number: int) -> tuple[str, int] | None:
    """["left of", 0]: the relation to an earlier thing; number: that of the thing itself."""
    if value is None:
        return None
    pair = isinstance(value, list) and len(value) == 2
    if not pair or value[0] not in RELATIONS or value[1] not in range(number):
        raise InkstoneError(
            f"the place of thing {number} is {shorten(str(value), 60)}: expected one of "
            f'{", ".join(RELATIONS)} and the number of an earlier thing, such as ["left of", 0].'
        )
    return str(value[0]), int(value[1])


def _size(text: str) -> str:
    if text and not re.fullmatch(r"[1-9]\d{1,4}x[1-9]\d{1,4}", text):
        raise InkstoneError(f'"size" is {text!r}: expected WIDTHxHEIGHT, such as 1328x1328.')
    return text


def _source(value: Json) -> Source | None:
    if value is None:
        return None
    items = value.get("items", []) if isinstance(value, dict) else None
    if not isinstance(items, list) or len(items) > MOST_ITEMS:
        raise InkstoneError(
            '"source" is no object such as {"size": "1024x1024", "ground": "white", "items": '
            '[{"text": "OPEN", "colour": "red", "box": [0.3, 0.4, 0.4, 0.2]}]}.'
        )
    known(value, ("size", "ground", "items"))
    width, _, height = _size(text_of(value, "size", 20)).partition("x")
    source = Source(
        width=int(width),
        height=int(height),
        ground=text_of(value, "ground", 40),
        items=tuple(map(_source_item, items)),
    )
    check_source(source)
    return source


def _source_item(value: Json) -> SourceItem:
    if not isinstance(value, dict):
        raise InkstoneError('"items" of its source holds what is no object.')
    known(value, ("text", "shape", "colour", "box"))
    box = _part(value.get("box"), "box")
    if box is None:
        raise InkstoneError('an item of its source has no "box": left, top, width, height.')
    return SourceItem(
        colour=text_of(value, "colour", 40),
        box=box,
        text=text_of(value, "text", 200, ""),
        shape=text_of(value, "shape", 40, ""),
    )


def _part(value: Json, key: str = "changed") -> tuple[float, float, float, float] | None:
    if value is None:
        return None
    numbers = value if isinstance(value, list) else []
    plain = [v for v in numbers if isinstance(v, (int, float)) and not isinstance(v, bool)]
    if len(numbers) != 4 or len(plain) != 4 or not all(abs(v) <= 1 for v in plain):
        raise InkstoneError(
            f'"{key}" is no list of four shares: left, top, width, height, from 0 to 1.'
        )
    left, top, width, height = map(float, plain)
    if min(left, top) < 0 or min(width, height) <= 0 or max(left + width, top + height) > 1.001:
        raise InkstoneError(f'"{key}" leads out of the picture: its shares are from 0 to 1.')
    return left, top, width, height
