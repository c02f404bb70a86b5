"""Reads workflow files as ComfyUI's page saves them: nodes, links and subgraphs as plain records.

Accepts every form that was ever written: links as lists (0.4) or objects (1.0), subgraph
definitions at the root or inside one another, ids as numbers or texts. Everything is checked here,
so that code on the records can rely on them: a file that breaks a rule is refused with the place.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field
from functools import cached_property

from ...errors import InkstoneError
from ..node_types import Json

RUN, MUTED, BYPASSED = 0, 2, 4
INPUT_NODE, OUTPUT_NODE = "-10", "-20"  # the two ends inside a subgraph
PRIMITIVES = {"PrimitiveNode"}
_MAX_NODES, _MAX_DEPTH = 100_000, 50  # nodes once subgraphs are opened; nested subgraphs


@dataclass(frozen=True)
class InputSlot:
    """An input of a node in the file. widget: the name of its widget, if it has one."""

    name: str
    kind: str
    link: str | None
    widget: str | None


@dataclass(frozen=True)
class UILink:
    """A link from an output to an input, by node id and slot number."""

    origin: str
    origin_slot: int
    target: str
    target_slot: int
    kind: str


@dataclass
class UINode:
    """One box on the page. values: of its widgets, a positional list or by name."""

    id: str
    kind: str
    mode: int = RUN
    order: int = 0
    title: str | None = None
    inputs: list[InputSlot] = field(default_factory=list)
    outputs: list[str] = field(default_factory=list)  # types
    values: list[Json] | dict[str, Json] = field(default_factory=list)
    properties: dict[str, Json] = field(default_factory=dict)

    def input_at(self, index: int) -> InputSlot | None:
        """The input at a slot number of the file, which may be any number."""
        return self.inputs[index] if 0 <= index < len(self.inputs) else None

    def pack(self) -> str | None:
        """The pack of the class, as the file names it."""
        for key in ("cnr_id", "aux_id"):
            pack = self.properties.get(key)
            if isinstance(pack, str):
                return pack
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
    wires: list[Json] | None = None  # that a script of the page stored (broadcasts.py)

    def leaving(self, node: str, slot: int | None = None) -> list[UILink]:
        """The links from a node, of one output or all."""
        return [x for x in self._by_origin.get(node, ()) if slot in (None, x.origin_slot)]

    def input_index(self, name: str) -> int | None:
        """The position of the first input of this name."""
        return self._input_places.get(name)

    def changed(self) -> None:
        """Forget the indexes: nodes, links or inputs were changed."""
        for index in ("_by_origin", "_by_output", "_input_places"):
            self.__dict__.pop(index, None)

    def output_link(self, slot: int) -> UILink | None:
        """The first link into an output of this subgraph."""
        return self._by_output.get(slot)

    # the sheet is complete when it is searched: each index is made once

    @cached_property
    def _by_origin(self) -> dict[str, list[UILink]]:
        by_origin: dict[str, list[UILink]] = {}
        for link in self.links.values():
            by_origin.setdefault(link.origin, []).append(link)
        return by_origin

    @cached_property
    def _by_output(self) -> dict[int, UILink]:
        links = reversed(self.links.values())
        return {link.target_slot: link for link in links if link.target == OUTPUT_NODE}

    @cached_property
    def _input_places(self) -> dict[str, int]:
        return {slot.name: i for i, slot in reversed(list(enumerate(self.inputs)))}


@dataclass
class Workflow:
    """A whole file: the root, and subgraph definitions by id."""

    root: Sheet
    subgraphs: dict[str, Sheet] = field(default_factory=dict)
    inner_first: list[str] = field(default_factory=list)  # ids of subgraphs, each after its own
    frontend: tuple[int, ...] = ()  # version of the page that wrote the file, if it says so

    def sheets(self) -> list[Sheet]:
        """The root and every definition."""
        return [self.root, *self.subgraphs.values()]


def is_ui_graph(data: Json) -> bool:
    """True for a workflow as the page saves it; an API graph has ids at its top."""
    return isinstance(data, dict) and isinstance(data.get("nodes"), list)


def parse_workflow(data: dict[str, Json]) -> Workflow:
    """The records of a UI graph. Raises InkstoneError for a file that breaks the format."""
    extra = as_object(data.get("extra"), "extra")
    as_object(extra.get("groupNodes"), "extra.groupNodes")
    workflow = Workflow(_sheet(data, "the graph"), frontend=_version(extra.get("frontendVersion")))
    _read_definitions(data, workflow.subgraphs, 0)
    count = sum(len(sheet.nodes) for sheet in workflow.sheets())
    if count > _MAX_NODES:
        raise InkstoneError(f"The graph has {count} nodes; expected at most {_MAX_NODES}.")
    workflow.inner_first = _inner_first(workflow)
    _refuse_bombs(workflow)
    return workflow


def _version(text: Json) -> tuple[int, ...]:
    """The numbers of a version such as 1.45.21; () for anything else."""
    match = re.match(
        r"v?(\d{1,6})\.(\d{1,6})(?:\.(\d{1,6}))?", text if isinstance(text, str) else ""
    )
    return tuple(int(number) for number in match.groups("0")) if match else ()


def _read_definitions(data: dict[str, Json], into: dict[str, Sheet], depth: int) -> None:
    if depth > _MAX_DEPTH:
        raise InkstoneError(f"Subgraph definitions are nested more than {_MAX_DEPTH} deep.")
    definitions = as_object(data.get("definitions"), "definitions")
    for entry in as_list(definitions.get("subgraphs"), "definitions.subgraphs"):
        entry = as_object(entry, "a subgraph definition", needed=True)
        name = f"the subgraph {str(entry.get('name') or entry.get('id'))[:60]!r}"
        sheet = _sheet(entry, name)
        sheet.title = str(entry.get("name") or "")
        sheet.inputs = [_slot(item, name) for item in as_list(entry.get("inputs"), name)]
        sheet.outputs = [_slot(item, name) for item in as_list(entry.get("outputs"), name)]
        into.setdefault(str(entry.get("id")), sheet)
        _read_definitions(entry, into, depth + 1)


def _inner_first(workflow: Workflow) -> list[str]:
    """Ids of the subgraphs, each after those inside it. Refuses some that contain themselves."""
    waits: dict[str, int] = {}
    users: dict[str, list[str]] = {key: [] for key in workflow.subgraphs}
    for key, sheet in workflow.subgraphs.items():
        inside = {node.kind for node in sheet.nodes.values() if node.kind in workflow.subgraphs}
        waits[key] = len(inside)
        for kind in inside:
            users[kind].append(key)
    order = [key for key, count in waits.items() if not count]
    for key in order:  # grows
        for user in users[key]:
            waits[user] -= 1
            if not waits[user]:
                order.append(user)
    if len(order) < len(waits):
        names = sorted(workflow.subgraphs[key].name for key, count in waits.items() if count)
        raise InkstoneError(
            f"Subgraphs contain themselves, so the graph has no end: {', '.join(names[:20])}."
        )
    return order


def _refuse_bombs(workflow: Workflow) -> None:
    """Count the nodes and the depth that opened subgraphs would have, without opening them."""
    size: dict[str, int] = {}
    depth: dict[str, int] = {}

    def opened(sheet: Sheet) -> tuple[int, int]:
        kinds = Counter(node.kind for node in sheet.nodes.values())
        inner = {kind: count for kind, count in kinds.items() if kind in size}
        total = len(sheet.nodes) + sum(count * size[kind] for kind, count in inner.items())
        # beyond the limit the number itself does not matter, and it could have thousands of digits
        return min(total, 10**15), 1 + max((depth[kind] for kind in inner), default=-1)

    for key in workflow.inner_first:
        size[key], depth[key] = opened(workflow.subgraphs[key])
    count, deep = opened(workflow.root)
    if deep > _MAX_DEPTH:
        raise InkstoneError(
            f"Subgraphs of the graph are nested {deep} deep: expected at most {_MAX_DEPTH}. "
            "Unpack some of them in ComfyUI."
        )
    if count > _MAX_NODES:
        raise InkstoneError(
            f"The graph has {count} nodes once its subgraphs are opened: expected at most "
            f"{_MAX_NODES}. Use fewer instances of its subgraphs."
        )


def _sheet(data: dict[str, Json], name: str) -> Sheet:
    extra = data.get("extra")
    wires = extra.get("ue_links") if isinstance(extra, dict) else None
    sheet = Sheet(name, wires=wires if isinstance(wires, list) else None)
    for entry in as_list(data.get("nodes"), f"nodes of {name}"):
        node = _node(as_object(entry, f"a node of {name}", needed=True), name)
        if node.id in sheet.nodes:
            raise InkstoneError(f"Two nodes of {name} have the id {node.id}.")
        sheet.nodes[node.id] = node
    for entry in as_list(data.get("links"), f"links of {name}"):
        if entry is not None:
            key, link = _link(entry, name)
            sheet.links[key] = link
    return sheet


def _node(entry: dict[str, Json], sheet: str) -> UINode:
    if not isinstance(entry.get("type"), str) or not isinstance(entry.get("id"), (int, str)):
        raise InkstoneError(
            f"A node of {sheet} has no id or type: got id {entry.get('id')!r}, type "
            f"{str(entry.get('type'))[:40]!r}."
        )
    place = f"node {entry['id']} of {sheet}"
    values, title = entry.get("widgets_values"), entry.get("title")
    mode, order = entry.get("mode"), entry.get("order")
    as_object(entry.get("widgets_values_named"), f"widgets_values_named of {place}")
    return UINode(
        id=str(entry["id"]),
        kind=entry["type"],
        mode=mode if isinstance(mode, int) else RUN,
        order=order if isinstance(order, int) else 0,
        title=title if isinstance(title, str) and title else None,
        inputs=[_slot(item, place) for item in as_list(entry.get("inputs"), f"inputs of {place}")],
        outputs=[
            _kind(as_object(item, f"an output of {place}").get("type"))
            for item in as_list(entry.get("outputs"), f"outputs of {place}")
        ],
        values=values if isinstance(values, (list, dict)) else [],
        properties=as_object(entry.get("properties"), f"properties of {place}"),
    )


def _slot(entry: Json, place: str) -> InputSlot:
    entry = as_object(entry, f"a socket of {place}")
    widget = entry.get("widget")
    name = widget.get("name") if isinstance(widget, dict) else None
    link = entry.get("link")
    return InputSlot(
        name=str(entry.get("name", "")),
        kind=_kind(entry.get("type")),
        link=None if link is None else str(link),
        widget=name if isinstance(name, str) else None,
    )


def _kind(kind: Json) -> str:
    """A type as text; old files have 0, -1 or a list of choices in its place."""
    if isinstance(kind, str):
        return kind
    return "COMBO" if isinstance(kind, list) else "*"


_LINK_FIELDS = ("id", "origin_id", "origin_slot", "target_id", "target_slot", "type")


def _link(entry: Json, sheet: str) -> tuple[str, UILink]:
    if isinstance(entry, dict):
        entry = [entry.get(name) for name in _LINK_FIELDS]
    if not isinstance(entry, list) or len(entry) < 5:
        raise InkstoneError(
            f"A link of {sheet} is not a list of id, origin, slot, target, slot, type: "
            f"{str(entry)[:80]}."
        )
    number, origin, origin_slot, target, target_slot = entry[:5]
    try:
        slots = int(origin_slot), int(target_slot)
    except (TypeError, ValueError, OverflowError):
        raise InkstoneError(
            f"Link {str(number)[:40]} of {sheet} has slots that are not numbers: "
            f"{str(origin_slot)[:40]!r}, {str(target_slot)[:40]!r}."
        ) from None
    kind = _kind(entry[5] if len(entry) > 5 else None)
    return str(number), UILink(
        origin=str(origin),
        origin_slot=slots[0],
        target=str(target),
        target_slot=slots[1],
        kind=kind,
    )


def as_list(value: Json, label: str) -> list[Json]:
    """A list of the file, also where an old one has an object. Raises InkstoneError."""
    if value is None:
        return []
    if isinstance(value, dict):  # old files: an object with numbers as names
        return list(value.values())
    if not isinstance(value, list):
        raise InkstoneError(f"Expected a list for {label}, got {type(value).__name__}.")
    return value


def as_object(value: Json, label: str, needed: bool = False) -> dict[str, Json]:
    """An object of the file; {} where there is none. Raises InkstoneError."""
    if value is None and not needed:
        return {}
    if not isinstance(value, dict):
        if isinstance(value, list) and not value:
            return {}
        raise InkstoneError(f"Expected an object for {label}, got {type(value).__name__}.")
    return value
