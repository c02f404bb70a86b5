"""JSON from others: its depth is bounded, so that every later step may walk it by recursion.

`json.loads` raises four kinds of errors, one of them no ValueError, and in some versions of Python
it lets through what `json.dumps` cannot write.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

MAX_LEVELS = 200  # of lists and objects inside one another; 50 nested subgraphs have 150


class TooDeep(ValueError):
    """More levels than MAX_LEVELS."""

    def __init__(self) -> None:
        super().__init__(
            f"nested too deeply: expected at most {MAX_LEVELS} lists and objects in one another"
        )


def parse_json(
    text: str | bytes,
    *,
    object_pairs_hook: Callable[[list[tuple[str, Any]]], Any] | None = None,
    parse_constant: Callable[[str], Any] | None = None,
) -> Any:  # JSON of any shape
    """The value. Raises ValueError with the reason, TooDeep is one; a hook's own errors pass."""
    try:
        value = json.loads(text, object_pairs_hook=object_pairs_hook, parse_constant=parse_constant)
    except RecursionError:
        raise TooDeep from None
    if is_deep(value):
        raise TooDeep
    return value


def each_once(
    refusal: Callable[[str], Exception],
) -> Callable[[list[tuple[str, Any]]], dict[str, Any]]:
    """A hook of `parse_json` for objects whose names appear once. refusal: what is raised for a
    name that comes again.
    """

    def hook(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        data: dict[str, Any] = {}
        for name, value in pairs:
            if name in data:
                raise refusal(name)
            data[name] = value
        return data

    return hook


def is_deep(value: Any) -> bool:
    """True for more than MAX_LEVELS."""
    level = [value]
    for _ in range(MAX_LEVELS + 1):
        inside = (x.values() if isinstance(x, dict) else x for x in level if _is_container(x))
        level = [each for values in inside for each in values if _is_container(each)]
        if not level:
            return False
    return True


def _is_container(value: Any) -> bool:
    return isinstance(value, (dict, list))
