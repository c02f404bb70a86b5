"""What a setting of a training is to a user: its kind, its help, its limits. No torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias, cast

from ..errors import shorten
from ..files.paths import path_fault
from .devices import LEAST_MEMORY

MOST_RANK = 1024


@dataclass(frozen=True)
class Option:
    """What a field is to a user. kind: path, paths, text, texts, whole, number, choice, flag,
    memory, device or ranks; `low` to `high` for numbers.
    """

    kind: str
    text: str
    low: float = 0
    high: float = 0
    choices: tuple[str, ...] = ()
    metavar: str = ""

    def fault(self, value: object) -> str | None:
        """Why a value is refused, as "expected ..."; None if it is one."""
        check = _CHECKS[self.kind]
        return None if check(self, value) else f"expected {self.expected}"

    @property
    def expected(self) -> str:
        """What a value has to be."""
        if self.kind in ("whole", "number"):
            name = "a whole number" if self.kind == "whole" else "a number"
            return f"{name} from {self.low:.10g} to {self.high:.10g}"
        if self.kind == "choice":
            return f"one of {', '.join(self.choices)}"
        return _EXPECTED[self.kind]


_Check: TypeAlias = Callable[[Option, object], bool]

_EXPECTED = {
    "path": "a path",
    "paths": "a list of paths",
    "text": "a text",
    "texts": "a list of texts",
    "flag": "true or false",
    "memory": "an amount of memory such as '12GB', or bytes, 100 MB at least",
    "device": "a text such as cuda or cpu",
    "ranks": 'ranks of layers from 0 to 1024, such as {"0-9": 32}',
}


def _is_number(option: Option, value: object) -> bool:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return number and option.low <= cast(float, value) <= option.high


def _is_whole(option: Option, value: object) -> bool:
    return isinstance(value, int) and _is_number(option, value)


def _is_path(option: Option, value: object) -> bool:
    return isinstance(value, Path) and path_fault(str(value)) is None


def _all(check: _Check) -> _Check:
    return lambda option, value: (
        isinstance(value, (tuple, list)) and all(check(option, item) for item in value)
    )


def _is_text(_: Option, value: object) -> bool:
    return isinstance(value, str) and "\0" not in value


def is_rank(pair: object) -> bool:
    """True for a pattern and its rank."""
    if not isinstance(pair, (tuple, list)) or len(pair) != 2:
        return False
    pattern, rank = pair
    return isinstance(pattern, str) and type(rank) is int and 0 <= rank <= MOST_RANK


def _is_ranks(_: Option, value: object) -> bool:
    return isinstance(value, (tuple, list)) and all(map(is_rank, value))


_CHECKS: dict[str, _Check] = {
    "path": _is_path,
    "paths": _all(_is_path),
    "text": _is_text,
    "texts": _all(_is_text),
    "whole": _is_whole,
    "number": _is_number,
    "choice": lambda option, value: isinstance(value, str) and value in option.choices,
    "flag": lambda _, value: isinstance(value, bool),
    "memory": lambda _, value: type(value) is int and value >= LEAST_MEMORY,
    "device": lambda option, value: _is_text(option, value) and value != "",
    "ranks": _is_ranks,
}


def flag_of(name: str) -> str:
    """The option of a setting: --lr-schedule."""
    return "DATA" if name == "data" else "--" + name.replace("_", "-")


def shown(value: object) -> str:
    """A value in a sentence."""
    if isinstance(value, Path):
        return shorten(str(value))
    return shorten(repr(list(value) if isinstance(value, tuple) else value))


def flags(names: Sequence[str]) -> str:
    """Options in a sentence: "--lr, --rank and --steps"."""
    each = [flag_of(name) for name in names]
    return " and ".join([", ".join(each[:-1]), each[-1]] if len(each) > 1 else each)
