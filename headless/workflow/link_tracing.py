"""Traces an input to the real output behind it, through everything that carries no data.

Subgraphs are opened (ids "5:3"); reroutes, Get and Set nodes and bypassed nodes are followed; muted
nodes cut the link. Where a rule is odd it is the page's: a bypassed node passes on by type and
place, not by what is connected.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field

from ...errors import InkstoneError
from ..node_types import Json
from .parse_ui import (
    BYPASSED,
    INPUT_NODE,
    MUTED,
    PRIMITIVES,
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
Place = tuple[tuple[str, ...], str, int, str]  # an output on the way: level, node, slot, type


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

    def titles(self) -> str:
        """The names of the subgraphs down to this level."""
        names, level = [], self
        while level.outer is not None:
            names.append((level.sheet.title or level.sheet.name)[:40])
            level = level.outer
        return " > ".join(reversed(names))

    def inside(self, workflow: Workflow, node: UINode) -> Level:
        """The subgraph of an instance on this level."""
        return Level(workflow.subgraphs[node.kind], (*self.path, node.id), self, node)


@dataclass(frozen=True)
class Hop:
    """A link on the way, on its level."""

    level: Level
    link: UILink


@dataclass(frozen=True)
class _Instance:
    """An instance of a subgraph: its inputs by name, and the values of its own widgets."""

    slots: dict[str, InputSlot]
    values: dict[str, Json]


@dataclass
class LinkTracer:
    """Follows links in a workflow, each stretch once, however many inputs lie behind it. Values of
    instances are by name, as proxy_widgets.py leaves them.
    """

    workflow: Workflow
    _known: dict[Place, Source] = field(default_factory=dict, repr=False)
    _opened: dict[tuple[str, ...], _Instance] = field(default_factory=dict, repr=False)
    _setters: dict[tuple[str, ...], dict[str, UINode]] = field(default_factory=dict, repr=False)

    def source(self, level: Level, node: UINode, index: int, kind: str) -> Source:
        """The real output or constant behind input `index` of a node; kind: its type."""
        step: Hop | Source = _input_link(level, node, index)
        way: dict[Place, None] = {}
        while isinstance(step, Hop):
            place = (step.level.path, step.link.origin, step.link.origin_slot, kind)
            if place in way:
                raise InkstoneError(
                    f"The links of {step.level.sheet.name} go in a circle through node "
                    f"{step.link.origin}. Remove one of them."
                )
            if place in self._known:
                step = self._known[place]
                break
            way[place] = None
            step = self._behind(step.level, step.link, kind)
        self._known.update(dict.fromkeys(way, step))
        return step

    def _behind(self, level: Level, link: UILink, kind: str) -> Hop | Source:
        """One step from the start of a link: the link before it, or the end of the way."""
        if link.origin == INPUT_NODE:
            return self._outside(level, link.origin_slot)
        origin = level.sheet.nodes.get(link.origin)
        if origin is None or origin.mode == MUTED or link.origin_slot < 0:
            return None
        if origin.mode == BYPASSED:
            index = passed_through(origin, link.origin_slot, kind)
            return None if index is None else _input_link(level, origin, index)
        if origin.kind in self.workflow.subgraphs:
            inside = level.inside(self.workflow, origin)
            inner = inside.sheet.output_link(link.origin_slot)
            return None if inner is None else Hop(inside, inner)
        if origin.kind in GETTERS:
            return self._setter(level, origin)
        if origin.kind in PRIMITIVES:
            return None
        if origin.kind in VIRTUAL:
            return _input_link(level, origin, link.origin_slot)
        return OutputRef(level.name(origin), link.origin_slot)

    def _setter(self, level: Level, getter: UINode) -> Hop | None:
        """A Get node is connected to the Set node of its name, on its sheet or further out."""
        name = _first(getter.values)
        place: Level | None = level
        while place is not None:
            if place.path not in self._setters:
                nodes = reversed(place.sheet.nodes.values())
                self._setters[place.path] = {
                    json.dumps(_first(node.values)): node for node in nodes if node.kind in SETTERS
                }
            node = self._setters[place.path].get(json.dumps(name))
            if node is not None:
                return _input_link(place, node, 0)
            place = place.outer
        raise InkstoneError(
            f"Node {getter.id} gets {name!r}, but no Set node has this name. Add one, or delete "
            "the Get node."
        )

    def _outside(self, level: Level, index: int) -> Hop | Constant | None:
        """Input `index` of a subgraph: the instance's link, else the value of its widget."""
        outer, instance, sheet = level.outer, level.instance, level.sheet
        if outer is None or instance is None or not 0 <= index < len(sheet.inputs):
            return None
        if level.path not in self._opened:
            slots = {slot.name: slot for slot in reversed(instance.inputs)}
            values = instance.values if isinstance(instance.values, dict) else {}
            self._opened[level.path] = _Instance(slots, values)
        own, name = self._opened[level.path], sheet.inputs[index].name
        slot = own.slots.get(name)
        if slot is not None and slot.link is not None:
            return self._fed(_link_of(outer, slot))
        # without a value of its own, the inner widget's applies
        return Constant(own.values[name]) if name in own.values else None

    def _fed(self, hop: Hop | None) -> Hop | Constant | None:
        """A link into a subgraph; a primitive's value where the page that wrote the file uses it:
        from 1.47 it does not.
        """
        page = self.workflow.frontend
        if hop is not None and page and page < (1, 47):
            origin = hop.level.sheet.nodes.get(hop.link.origin)
            if origin is not None and origin.kind in PRIMITIVES:
                return Constant(_first(origin.values))
        return hop


def _input_link(level: Level, node: UINode, index: int) -> Hop | None:
    slot = node.input_at(index)
    return None if slot is None else _link_of(level, slot)


def _link_of(level: Level, slot: InputSlot) -> Hop | None:
    link = level.sheet.links.get(slot.link) if slot.link is not None else None
    return None if link is None else Hop(level, link)


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
