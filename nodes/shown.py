"""Which widgets the page shows: conditions on other inputs of the same node.

They travel in the node's definition (/object_info) as extra data of an input, which ComfyUI passes
on unread; web/widgets.js hides a widget none of whose conditions holds. What a node refuses or
ignores is decided in its `execute`: hosts without a page never read these.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence

from ..host.api import io

KEY = "inkstone_shown"

Condition = tuple[str, str, list[object]]  # input, how, values


def among(name: str, values: Iterable[object]) -> Condition:
    """The input has one of these values."""
    return name, "among", list(values)


def other_than(name: str, value: object) -> Condition:
    """The input has another value than this."""
    return name, "other than", [value]


def unconnected(name: str) -> Condition:
    """Nothing is connected to the input."""
    return name, "unconnected", []


def shown_if(widget: io.Input, *ways: list[Condition]) -> io.Input:
    """The input, whose widget is shown if all conditions of one of these lists hold."""
    widget.extra_dict = {**(widget.extra_dict or {}), KEY: [list(way) for way in ways]}
    return widget


def is_shown(
    ways: Sequence[Sequence[Condition]], values: Mapping[str, object], connected: Collection[str]
) -> bool:
    """True if the page shows a widget with these conditions (its KEY), as web/widgets.js decides
    it: values by input, and the names of the connected ones.
    """

    def holds(condition: Condition) -> bool:
        name, how, chosen = condition
        if how == "unconnected":
            return name not in connected
        return name in connected or (values.get(name) in chosen) == (how == "among")

    return any(all(map(holds, way)) for way in ways)
