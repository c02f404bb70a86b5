"""Reads workflow files as ComfyUI's page saves them: nodes, links and subgraphs as plain records.

Takes every form that was ever written: links as lists (0.4) or objects (1.0), subgraph definitions
at the root or inside one another, ids as numbers or texts. Everything is checked here, so what
works on the records need not doubt them: a file that breaks a rule is refused with the place.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from ...errors import InkstoneError

RUN, MUTED, BYPASSED = 0, 2, 4
INPUT_NODE, OUTPUT_NODE = "-10", "-20"  # the two ends inside a subgraph
_MOST_NODES = 100_000


@dataclass(frozen=True)
class InputSlot:
    """An input of a node in the file: `widget` is the name of the widget it stands for."""

    name: str
    kind: str
    link: str | None
    widget: str | None


@dataclass(frozen=True)
class UILink:
    """From an output to an input, by node id and slot number."""

    origin: str
    origin_slot: int
    target: str
    target_slot: int
    kind: str


@dataclass
class UINode:
    """One box on the page. `values`: positional list, or by name."""

    id: str
    kind: str
    mode: int = RUN
    order: int = 0
    title: str | None = None
    inputs: list[InputSlot] = field(default_factory=list)
    outputs: list[str] = field(default_factory=list)  # types
    values: list[Any] | dict[str, Any] = field(default_factory=list)
    named: dict[str, Any] = field(default_factory=dict)
    properties: dict[str, Any] = field(default_factory=dict)

    def input_named(self, name: str) -> tuple[int, InputSlot] | None:
        """The position and slot of an input, also by the name of its widget."""
        for index, slot in enumerate(self.inputs):
            if name in (slot.name, slot.widget):
                return index, slot
        return None

    def pack(self) -> str | None:
        """The pack that the file says the class comes from."""
        for key in ("cnr_id", "aux_id"):
            if isinstance(self.properties.get(key), str):
                return self.properties[key]
        return None


@dataclass
class Sheet:
    """Nodes and links of the root or of one subgraph definition."""

    name: str  # for messages
    title: str = ""
    nodes: dict[str, UINode] = field(default_factory=dict)
    links: dict[str, UILink] = field(default_factory=dict)
    inputs: list[InputSlot] = field(default_factory=list)
    outputs: list[InputSlot] = field(default_factory=list)

    def leaving(self, node: str, slot: int | None = None) -> list[UILink]:
        """The links from a node, of one output or all."""
        return [
            link
            for link in self.links.values()
            if link.origin == node and slot in (None, link.origin_slot)
        ]


@dataclass
class Workflow:
    """A whole file: the root, subgraph definitions by id, and what lies beside them."""

    root: Sheet
    subgraphs: dict[str, Sheet] = field(default_factory=dict)
    groups: dict[str, Any] = field(default_factory=dict)  # old group nodes by name
    extra: dict[str, Any] = field(default_factory=dict)

    def sheets(self) -> list[Sheet]:
        """The root and every definition."""
        return [self.root, *self.subgraphs.values()]


def is_ui_graph(data: Any) -> bool:
    """True for what the page saves; an API graph has ids at its top."""
    return isinstance(data, dict) and isinstance(data.get("nodes"), list)


def parse_workflow(data: dict[str, Any]) -> Workflow:
    """The records of a UI graph. Raises InkstoneError for a file that breaks the format."""
    extra = _object(data.get("extra"), "extra")
    made = Workflow(_sheet(data, "the graph"), extra=extra)
    _read_definitions(data, made.subgraphs, 0)
    made.groups = _object(extra.get("groupNodes"), "extra.groupNodes")
    count = sum(len(sheet.nodes) for sheet in made.sheets())
    if count > _MOST_NODES:
        raise InkstoneError(f"The graph has {count} nodes; {_MOST_NODES} are the most.")
    _refuse_cycles(made)
    return made


def _read_definitions(data: dict[str, Any], into: dict[str, Sheet], depth: int) -> None:
    if depth > 50:
        raise InkstoneError("Subgraph definitions lie in one another more than 50 deep.")
    definitions = _object(data.get("definitions"), "definitions")
    for entry in _list(definitions.get("subgraphs"), "definitions.subgraphs"):
        entry = _object(entry, "a subgraph definition", needed=True)
        name = f"the subgraph {str(entry.get('name') or entry.get('id'))[:60]!r}"
        sheet = _sheet(entry, name)
        sheet.title = str(entry.get("name") or "")
        sheet.inputs = [_slot(item, name) for item in _list(entry.get("inputs"), name)]
        sheet.outputs = [_slot(item, name) for item in _list(entry.get("outputs"), name)]
        into.setdefault(str(entry.get("id")), sheet)
        _read_definitions(entry, into, depth + 1)


def _refuse_cycles(workflow: Workflow) -> None:
    """A subgraph that holds itself, at any depth, has no end."""
    inside = {
        key: {node.kind for node in sheet.nodes.values() if node.kind in workflow.subgraphs}
        for key, sheet in workflow.subgraphs.items()
    }
    while ready := [key for key, kinds in inside.items() if not kinds]:
        inside = {key: kinds.difference(ready) for key, kinds in inside.items() if key not in ready}
    if inside:
        names = ", ".join(sorted(workflow.subgraphs[key].name for key in inside))
        raise InkstoneError(f"Subgraphs hold themselves, so the graph has no end: {names}.")


def _sheet(data: dict[str, Any], name: str) -> Sheet:
    sheet = Sheet(name)
    for entry in _list(data.get("nodes"), f"nodes of {name}"):
        node = _node(_object(entry, f"a node of {name}", needed=True), name)
        if node.id in sheet.nodes:
            raise InkstoneError(f"Two nodes of {name} have the id {node.id}.")
        sheet.nodes[node.id] = node
    for entry in _list(data.get("links"), f"links of {name}"):
        if entry is not None:
            key, link = _link(entry, name)
            sheet.links[key] = link
    return sheet


def _node(entry: dict[str, Any], sheet: str) -> UINode:
    if not isinstance(entry.get("type"), str) or not isinstance(entry.get("id"), (int, str)):
        raise InkstoneError(
            f"A node of {sheet} has no id or type: got id {entry.get('id')!r}, type "
            f"{str(entry.get('type'))[:40]!r}."
        )
    place = f"node {entry['id']} of {sheet}"
    values = entry.get("widgets_values")
    title = entry.get("title")
    return UINode(
        id=str(entry["id"]),
        kind=entry["type"],
        mode=entry.get("mode") if isinstance(entry.get("mode"), int) else RUN,
        order=entry.get("order") if isinstance(entry.get("order"), int) else 0,
        title=title if isinstance(title, str) and title else None,
        inputs=[_slot(item, place) for item in _list(entry.get("inputs"), f"inputs of {place}")],
        outputs=[
            _kind(_object(item, f"an output of {place}").get("type"))
            for item in _list(entry.get("outputs"), f"outputs of {place}")
        ],
        values=values if isinstance(values, (list, dict)) else [],
        named=_object(entry.get("widgets_values_named"), f"widgets_values_named of {place}"),
        properties=_object(entry.get("properties"), f"properties of {place}"),
    )


def _slot(entry: Any, place: str) -> InputSlot:
    entry = _object(entry, f"a socket of {place}")
    widget = entry.get("widget")
    name = widget.get("name") if isinstance(widget, dict) else None
    link = entry.get("link")
    return InputSlot(
        str(entry.get("name", "")),
        _kind(entry.get("type")),
        None if link is None else str(link),
        name if isinstance(name, str) else None,
    )


def _kind(kind: Any) -> str:
    """A type as text: 0, -1 and lists of choices are what old files have in its place."""
    if isinstance(kind, str):
        return kind
    return "COMBO" if isinstance(kind, list) else "*"


_LINK_FIELDS = ("id", "origin_id", "origin_slot", "target_id", "target_slot", "type")


def _link(entry: Any, sheet: str) -> tuple[str, UILink]:
    if isinstance(entry, dict):
        entry = [entry.get(name) for name in _LINK_FIELDS]
    if not isinstance(entry, list) or len(entry) < 5:
        raise InkstoneError(
            f"A link of {sheet} is no list of id, origin, slot, target, slot, type: "
            f"{str(entry)[:80]}."
        )
    number, origin, origin_slot, target, target_slot = entry[:5]
    try:
        slots = int(origin_slot), int(target_slot)
    except (TypeError, ValueError, OverflowError):
        raise InkstoneError(
            f"Link {str(number)[:40]} of {sheet} has slots that are no numbers: "
            f"{str(origin_slot)[:40]!r}, {str(target_slot)[:40]!r}."
        ) from None
    kind = _kind(entry[5] if len(entry) > 5 else None)
    return str(number), UILink(str(origin), slots[0], str(target), slots[1], kind)


def _list(value: Any, what: str) -> Iterable[Any]:
    if value is None:
        return []
    if isinstance(value, dict):  # old files: an object with numbers as names
        return list(value.values())
    if not isinstance(value, list):
        raise InkstoneError(f"Expected a list for {what}, got {type(value).__name__}.")
    return value


def _object(value: Any, what: str, needed: bool = False) -> dict[str, Any]:
    if value is None and not needed:
        return {}
    if not isinstance(value, dict):
        if isinstance(value, list) and not value:
            return {}
        raise InkstoneError(f"Expected an object for {what}, got {type(value).__name__}.")
    return value
