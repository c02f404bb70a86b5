"""What a conversion cannot carry over, named in one line each: the page's own scripts would add it.

A pack may make widgets in the page that its class does not declare (rows of a LoRA list). Rows
whose names are known are kept.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Mapping

from ..node_types import Json
from .node_info import Interface
from .parse_ui import UINode

log = logging.getLogger(__name__)

# class -> (key that a row has, start of the names that its script gives rows: lora_1, lora_2)
_ROWS = {"Power Lora Loader (rgthree)": ("lora", "lora_")}
_MOST_LINES = 20
_EXPORT = "Export the graph in ComfyUI with File > Export (API)"


def undeclared(
    node: UINode, place: str, declared: Iterable[str], rest: list[Json]
) -> dict[str, Json]:
    """Values of widgets that the class does not declare, by the names that the page sends; those
    without a name are named in a log line. rest: what follows the declared ones in a list.
    """
    if isinstance(node.values, dict):
        known = set(declared)
        return {name: value for name, value in node.values.items() if name not in known}
    key, start = _ROWS.get(node.kind, ("", ""))
    rows = [value for value in rest if key and isinstance(value, dict) and key in value]
    lost = [value for value in rest if value not in (None, "", {}, []) and value not in rows]
    if key:  # its title row is no value
        lost = [value for value in lost if not (isinstance(value, dict) and set(value) == {"type"})]
    if lost:
        shown = ", ".join(json.dumps(value, ensure_ascii=False)[:60] for value in lost[:5])
        log.warning(
            "node %s (%s): values that its class does not declare are not in the API graph (%d): "
            "%s. Another version of the class or a script of the page reads them. %s.",
            place,
            node.kind,
            len(lost),
            shown,
            _EXPORT,
        )
    return {f"{start}{number}": _row(row, node) for number, row in enumerate(rows, 1)}


def _row(row: dict[str, Json], node: UINode) -> dict[str, Json]:
    """A row as the page sends it: a second strength only if the node shows two."""
    if node.properties.get("Show Strengths") == "Separate Model & Clip":
        second = row.get("strengthTwo")
        return row | {"strengthTwo": 1 if second is None else second}
    return {name: value for name, value in row.items() if name != "strengthTwo"}


def name_choices(chosen: Mapping[str, list[str]]) -> None:
    """One log line for all `{a|b}` of the prompts, by node: the page picks one at random."""
    if chosen:
        shown = [f"node {key}: {', '.join(some)[:200]}" for key, some in chosen.items()]
        more = f"; {len(shown) - _MOST_LINES} more nodes" if len(shown) > _MOST_LINES else ""
        log.warning(
            "of {a|b} in a prompt the first is used, so that a graph gives the same picture each "
            "time; ComfyUI's page picks one at random: %s%s",
            "; ".join(shown[:_MOST_LINES]),
            more,
        )


def name_empty_inputs(
    graph: Mapping[str, Mapping[str, Json]],
    classes: Mapping[str, Interface],
    places: Mapping[str, str],
) -> None:
    """A log line for each required socket that nothing is connected to. places: the names of the
    subgraphs around a node, by its id.
    """
    lines = [
        f"node {key} ({entry['class_type']}{places.get(key, '')}): its required input {name!r} is "
        "not connected"
        for key, entry in graph.items()
        for name in classes[entry["class_type"]].required
        if name not in entry["inputs"]
    ]
    for line in lines[:_MOST_LINES]:
        log.warning("%s", line)
    if len(lines) > _MOST_LINES:
        log.warning("%d more required inputs are not connected", len(lines) - _MOST_LINES)
