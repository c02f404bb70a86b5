"""Texts that ComfyUI's page changes before it sends them: prompt choices, places in file names.

Where the page picks one of `{a|b}` at random, the first is picked: a graph is deterministic.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping

_COMMENT = re.compile(r"/\*|//[^\n]*")  # the start of one, or the whole
_BAD_IN_NAMES = re.compile(r'[/?<>\\:*|"\x00-\x1f\x7f]')
_DATE = re.compile(r"d{1,2}|M{1,2}|h{1,2}|m{1,2}|s{1,2}|yyyy|yy|y")


def expand_choices(text: str, pick: Callable[[int], int] = lambda count: 0) -> str:
    """A prompt without comments, with one choice of each `{a|b}`; `\\{` is a literal brace."""
    chosen = _choose(_without_comments(text), pick)
    return re.sub(r"\\([{}|])", r"\1", chosen)


def first_choices(text: str) -> list[str]:
    """The `{a|b}` of a prompt that offer a choice, as "{a|b} -> a"; not those inside others."""
    text, end, found = _without_comments(text), 0, []
    for place, edges in sorted(_blocks(text).items()):
        if place >= end and len(edges) > 2:
            end = edges[-1] + 1
            found.append(f"{text[place:end]} -> {text[edges[0] + 1 : edges[1]]}")
    return found


def _without_comments(text: str) -> str:
    """The text without // and /* */; one that never closes is no comment."""
    parts, place, last = [], 0, text.rfind("*/")
    while match := _COMMENT.search(text, place):
        whole = match[0] != "/*"
        kept = match.start() if whole or match.end() <= last else match.end()
        parts.append(text[place:kept])
        if kept == match.start() and not whole:
            place = text.index("*/", match.end()) + 2
        else:
            place = match.end()
    return "".join(parts) + text[place:]


def _choose(text: str, pick: Callable[[int], int]) -> str:
    """One option of every block; each place of the text is read once, however deep blocks are."""
    blocks, parts = _blocks(text), []
    ranges = [(0, len(text))]  # still to read, the next one last
    while ranges:
        place, end = ranges.pop()
        start = place
        while place < end and place not in blocks:
            place += 1
        parts.append(text[start:place])
        if place < end:
            edges = blocks[place]  # of its options: {, every |, and } or the end of the text
            option = pick(len(edges) - 1)
            ranges.append((min(edges[-1] + 1, end), end))
            ranges.append((edges[option] + 1, edges[option + 1]))
    return "".join(parts)


def _blocks(text: str) -> dict[int, list[int]]:
    """The edges of every block by the place of its brace."""
    blocks: dict[int, list[int]] = {}
    open_blocks: list[int] = []
    for match in re.finditer(r"\\.?|[{|}]", text, re.DOTALL):
        char, place = match[0], match.start()
        if char == "{":
            blocks[place] = [place]
            open_blocks.append(place)
        elif open_blocks and char in "|}":
            blocks[open_blocks[-1]].append(place)
            if char == "}":
                open_blocks.pop()
    for place in open_blocks:
        blocks[place].append(len(text))
    return blocks


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
