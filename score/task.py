"""One prompt of a set, and what must be in its picture."""

from __future__ import annotations

import re
from dataclasses import dataclass

from .source import Source

PLACES = ("left", "right", "top", "bottom", "center")
RELATIONS = ("left of", "right of", "above", "below")

_HAN = re.compile(r"[\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003134f]")
_PLAIN = re.compile(r"[\x00-\x7f\u2010-\u2027\u20ac]*")

LANGUAGES = {"zh": "Chinese", "en": "English", "latin": "Latin with diacritics"}


@dataclass(frozen=True)
class WantedThing:
    """A thing that a picture must show. least, most: how often; colour, place: "" for any; beside:
    a relation of RELATIONS and the number of another thing of the same task.
    """

    what: str
    least: int = 1
    most: int | None = None
    colour: str = ""
    place: str = ""
    beside: tuple[str, int] | None = None


@dataclass(frozen=True)
class Task:
    """A prompt and what is counted in its picture. texts: what must be read; gone: what must not;
    size: "" for the model's; image: the source of an edit, as the set names it; source: one that
    is rendered; changed: where an edit may change it: left, top, width, height as shares of the
    picture; number: its place in the set, which its seed follows.
    """

    id: str
    prompt: str
    group: str = ""
    texts: tuple[str, ...] = ()
    things: tuple[WantedThing, ...] = ()
    gone: tuple[str, ...] = ()
    size: str = ""
    image: str = ""
    source: Source | None = None
    changed: tuple[float, float, float, float] | None = None
    number: int = 0


def is_han(text: str) -> bool:
    """True where a text has a Chinese character."""
    return bool(_HAN.search(text))


def language_of(text: str) -> str:
    """A key of LANGUAGES."""
    if is_han(text):
        return "zh"
    return "en" if _PLAIN.fullmatch(text) else "latin"
