"""The values of a node's widgets as a workflow file stores them: by position or by name."""

from __future__ import annotations

from ..node_types import Json
from .node_info import Interface, Socket, Widget
from .parse_ui import UINode


def widget_values(interface: Interface, node: UINode) -> list[tuple[Widget, Json]]:
    """(widget, value) of a node; a widget without a value has its default."""
    if isinstance(node.values, dict):
        return [(w, node.values.get(w.name, value)) for w, value in interface.values([])]
    return list(interface.values(without_forced(interface, node.values)))


def without_forced(interface: Interface, values: list[Json]) -> list[Json]:
    """The values without places for forced sockets, which old files keep; detected by the count."""
    forced: list[bool] = []
    for item in interface.inputs:
        if isinstance(item, Socket):
            forced += [True] * item.places
        elif item.place:
            forced += [False] * (1 + int(item.has_control))
    if True not in forced or len(forced) != len(values):
        return values
    return [value for value, drop in zip(values, forced, strict=True) if not drop]
