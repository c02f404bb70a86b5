"""Traces an input to the real output behind it, through everything that carries no data.

Subgraphs are opened (ids "5:3"); reroutes, Get and Set nodes and bypassed nodes are followed; muted
nodes cut the link. Where a rule is odd it is the page's: a bypassed node passes on by type and
place, not by what is connected.
"""

from __future__ import annotations

from dataclasses import dataclass

from ...errors import InkstoneError
from ..node_types import Json
from .parse_ui import (
    BYPASSED,
    INPUT_NODE,
    MUTED,
    OUTPUT_NODE,
    InputSlot,
    Sheet,
    UILink,
    UINode,
    Workflow,
)

NOTES = {
    "Note",
    "MarkdownNote",
    "Label (rgthree)",
    "Bookmark (rgthree)",
    "Fast Groups Muter (rgthree)",
    "Fast Groups Bypasser (rgthree)",
    "Fast Muter (rgthree)",
    "Fast Bypasser (rgthree)",
    "Mute / Bypass Repeater (rgthree)",
    "Mute / Bypass Relay (rgthree)",
    "Fast Actions Button (rgthree)",
    "Random Unmuter (rgthree)",
    "Node Collector (rgthree)",
}
REROUTES = {"Reroute", "Reroute (rgthree)"}
PRIMITIVES = {"PrimitiveNode"}
SETTERS = {"SetNode", "easy setNode"}
GETTERS = {"GetNode", "easy getNode"}
VIRTUAL = NOTES | REROUTES | PRIMITIVES | SETTERS | GETTERS


@dataclass(frozen=True)
class OutputRef:
    """An output of a node that runs, by its id in the API graph."""

    id: str
    slot: int


@dataclass(frozen=True)
class Constant:
    """The value of a promoted widget of a subgraph."""

    value: Json


Source = OutputRef | Constant | None  # None: not connected
Visited = frozenset[tuple[tuple[str, ...], str, int]]  # outputs on the way: level, node, slot


@dataclass(frozen=True)
class Level:
    """One opened sheet: the root, or a subgraph with the instance that it was opened for."""

    sheet: Sheet
    path: tuple[str, ...] = ()
    outer: Level | None = None
    instance: UINode | None = None

    def name(self, node: UINode) -> str:
        """The node's id in the API graph."""
        return ":".join((*self.path, node.id))

    def inside(self, workflow: Workflow, node: UINode) -> Level:
        """The subgraph of an instance on this level."""
        return Level(workflow.subgraphs[node.kind], (*self.path, node.id), self, node)


@dataclass(frozen=True)
class LinkTracer:
    """Follows links in a workflow."""

    workflow: Workflow

    def source(
        self, level: Level, node: UINode, index: int, kind: str, visited: Visited = frozenset()
    ) -> Source:
        """The real output or constant behind input `index` of a node; kind: its type."""
        if index >= len(node.inputs):
            return None
        return self._behind(level, node.inputs[index], kind, visited)

    def _behind(self, level: Level, slot: InputSlot, kind: str, visited: Visited) -> Source:
        link = level.sheet.links.get(slot.link) if slot.link is not None else None
        return None if link is None else self._origin(level, link, kind, visited)

    def _origin(self, level: Level, link: UILink, kind: str, visited: Visited) -> Source:
        place = (level.path, link.origin, link.origin_slot)
        if place in visited:
            raise InkstoneError(
                f"The links of {level.sheet.name} go in a circle through node {link.origin}. "
                "Remove one of them."
            )
        visited = visited | {place}
        if link.origin == INPUT_NODE:
            return self._outside(level, link.origin_slot, kind, visited)
        origin = level.sheet.nodes.get(link.origin)
        if origin is None or origin.mode == MUTED:
            return None
        if origin.mode == BYPASSED:
            index = passed_through(origin, link.origin_slot, kind)
            return None if index is None else self.source(level, origin, index, kind, visited)
        if origin.kind in self.workflow.subgraphs:
            inside = level.inside(self.workflow, origin)
            for inner in inside.sheet.links.values():
                if inner.target == OUTPUT_NODE and inner.target_slot == link.origin_slot:
                    return self._origin(inside, inner, kind, visited)
            return None
        if origin.kind in GETTERS:
            return self._setter(level, origin, kind, visited)
        if origin.kind in PRIMITIVES:
            return None
        if origin.kind in VIRTUAL:
            return self.source(level, origin, link.origin_slot, kind, visited)
        return OutputRef(level.name(origin), link.origin_slot)

    def _setter(self, level: Level, getter: UINode, kind: str, visited: Visited) -> Source:
        """A Get node is connected to the Set node of its name, on its sheet or further out."""
        name = _first(getter.values)
        place: Level | None = level
        while place is not None:
            for node in place.sheet.nodes.values():
                if node.kind in SETTERS and _first(node.values) == name:
                    return self.source(place, node, 0, kind, visited)
            place = place.outer
        raise InkstoneError(
            f"Node {getter.id} gets {name!r}, but no Set node has this name. Add one, or delete "
            "the Get node."
        )

    def _outside(self, level: Level, index: int, kind: str, visited: Visited) -> Source:
        """Input `index` of a subgraph: the instance's link, else the value of its widget."""
        outer, instance, sheet = level.outer, level.instance, level.sheet
        if outer is None or instance is None or index >= len(sheet.inputs):
            return None
        name = sheet.inputs[index].name
        slot = next((slot for slot in instance.inputs if slot.name == name), None)
        if slot is not None and slot.link is not None:
            return self._behind(outer, slot, kind, visited)
        values = promoted_values(self.workflow, instance, sheet)
        # without a value of its own, the inner widget's applies
        return Constant(values[name]) if name in values else None


def promoted_values(workflow: Workflow, instance: UINode, sheet: Sheet) -> dict[str, Json]:
    """Values of an instance's own widgets by the name of the subgraph's input."""
    if isinstance(instance.values, dict):
        return dict(instance.values)
    names = [
        slot.name for index, slot in enumerate(sheet.inputs) if feeds_widget(workflow, sheet, index)
    ]
    return dict(zip(names, instance.values, strict=False))


def feeds_widget(workflow: Workflow, sheet: Sheet, index: int) -> bool:
    """True when a subgraph's input feeds a widget inside, at any depth."""
    for link in sheet.leaving(INPUT_NODE, index):
        node = sheet.nodes.get(link.target)
        if node is None or link.target_slot >= len(node.inputs):
            continue
        slot = node.inputs[link.target_slot]
        inner = workflow.subgraphs.get(node.kind)
        if inner is None:
            if slot.widget is not None:
                return True
            continue
        inner_index = inner.input_index(slot.name)
        if inner_index is not None and feeds_widget(workflow, inner, inner_index):
            return True
    return False


def passed_through(node: UINode, slot: int, kind: str) -> int | None:
    """The input that a bypassed node passes on to an output, as the page chooses it."""
    kinds = [item.kind for item in node.inputs]
    if kind in ("*", ""):
        return slot if slot < len(kinds) else (0 if kinds else None)
    own = node.outputs[slot] if slot < len(node.outputs) else "*"
    if slot < len(kinds) and fits(kinds[slot], own) and fits(kinds[slot], kind):
        return slot
    if kind in kinds:
        return kinds.index(kind)
    return next((i for i, item in enumerate(kinds) if fits(item, kind)), None)


def fits(one: str, other: str) -> bool:
    """True when the page would connect these two types."""
    left, right = (
        {part.strip().lower() for part in kind.split(",")} for kind in (one or "*", other or "*")
    )
    return "*" in left or "*" in right or bool(left & right)


def _first(values: list[Json] | dict[str, Json]) -> Json:
    return next(iter(values.values() if isinstance(values, dict) else values), None)
