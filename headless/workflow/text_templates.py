"""Texts that ComfyUI's page changes before it sends them: prompt choices, places in file names.

Where the page picks one of `{a|b}` at random, the first is picked: a graph is deterministic.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping

_COMMENT = re.compile(r"/\*.*?\*/|//[^\n]*", re.DOTALL)
_BAD_IN_NAMES = re.compile(r'[/?<>\\:*|"\x00-\x1f\x7f]')
_DATE = re.compile(r"d{1,2}|M{1,2}|h{1,2}|m{1,2}|s{1,2}|yyyy|yy|y")


def expand_choices(text: str, pick: Callable[[int], int] = lambda count: 0) -> str:
    """A prompt without comments, with one choice of each `{a|b}`; `\\{` is a literal brace."""
    chosen = _choose(_COMMENT.sub("", text), pick)
    return re.sub(r"\\([{}|])", r"\1", chosen)


def _choose(text: str, pick: Callable[[int], int]) -> str:
    parts, place = [], 0
    while place < len(text):
        char = text[place]
        if char == "\\":
            parts.append(text[place : place + 2])
            place += 2
        elif char == "{":
            options, place = _options(text, place + 1)
            parts.append(_choose(options[pick(len(options))], pick))
        else:
            parts.append(char)
            place += 1
    return "".join(parts)


def _options(text: str, place: int) -> tuple[list[str], int]:
    """The choices of an opened block, and the place behind it."""
    options, depth = [""], 0
    while place < len(text):
        char = text[place]
        piece = text[place : place + 2] if char == "\\" else char
        place += len(piece)
        if char == "}" and depth == 0:
            break
        if char == "|" and depth == 0:
            options.append("")
            continue
        depth += {"{": 1, "}": -1}.get(char, 0)
        options[-1] += piece
    return options, place


def fill_places(
    text: str, values: Mapping[str, Mapping[str, object]], now: time.struct_time | None = None
) -> str:
    """A file name with `%date:FORMAT%` and `%NODE.WIDGET%` filled in; unknown places stay.

    values: node name or title -> widget -> value.
    """

    def replacement(match: re.Match[str]) -> str:
        inside = match[1]
        if inside.startswith("date:"):
            return _date(inside[5:], now or time.localtime())
        node, dot, widget = inside.partition(".")
        if not dot or widget not in values.get(node, {}):
            return match[0]
        return _BAD_IN_NAMES.sub("_", str(values[node][widget]))

    return re.sub(r"%([^%]+)%", replacement, text)


def _date(form: str, now: time.struct_time) -> str:
    parts = {"d": now.tm_mday, "M": now.tm_mon, "h": now.tm_hour, "m": now.tm_min, "s": now.tm_sec}

    def replacement(match: re.Match[str]) -> str:
        code = match[0]
        if code[0] == "y":
            return str(now.tm_year)[2:] if code == "yy" else str(now.tm_year)
        return f"{parts[code[0]]:0{len(code)}d}"

    return _DATE.sub(replacement, form)
