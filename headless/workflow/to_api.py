"""A workflow file as the API graph that ComfyUI's page would send: the rules of its conversion.

Subgraphs are opened (ids "5:3"), reroutes, Get and Set nodes and bypassed nodes are followed, muted
ones cut off, primitives written into the widgets that they feed. Where a rule is odd it is the
page's: a bypassed node passes on by type and place, not by what is connected.
Differences, on purpose: of `{a|b}` in a prompt the first is taken; values that a file keeps by name
are used; a class that is not known is refused by name, where the page sends it all the same.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from ...errors import InkstoneError
from .node_info import Interface, Socket, Widget
from .parse_ui import BYPASSED, INPUT_NODE, MUTED, OUTPUT_NODE, Sheet, UILink, UINode, Workflow
from .text_templates import filled, resolved

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
# classes whose filename_prefix may hold %date:...% and %Node.widget%
_NAMED_BY_PREFIX = {
    "SaveImage",
    "SaveLatent",
    "CLIPSave",
    "VAESave",
    "ModelSave",
    "LoraSave",
    "SaveAnimatedWEBP",
    "SaveAnimatedPNG",
    "SaveSVGNode",
    "SaveAudio",
    "SaveAudioMP3",
    "SaveAudioOpus",
    "SaveWEBM",
    "SaveVideo",
    "SaveImageAdvanced",
    "SaveGLB",
}


class UnknownClasses(InkstoneError):
    """Nodes of classes that are not known; `found` has (class, pack or None) with their counts."""

    def __init__(self, nodes: list[UINode]) -> None:
        self.found = Counter((node.kind, node.pack()) for node in nodes)
        said = [
            kind + (f" x{count}" if count > 1 else "") + (f" (of the pack {pack})" if pack else "")
            for (kind, pack), count in self.found.items()
        ]
        super().__init__(f"Node classes that are not known here: {', '.join(said)}.")


@dataclass(frozen=True)
class OutputRef:
    """An output of a node that really runs, by its id in the API graph."""

    id: str
    slot: int


@dataclass(frozen=True)
class Constant:
    """What a promoted widget of a subgraph holds."""

    value: Any


@dataclass(frozen=True)
class Level:
    """One opened sheet: the root, or a subgraph with the instance that it was opened for."""

    sheet: Sheet
    path: tuple[str, ...] = ()
    outer: Level | None = None
    instance: UINode | None = None

    def name(self, node: UINode) -> str:
        return ":".join((*self.path, node.id))


@dataclass
class Flattener:
    """One conversion; `api()` gives the graph."""

    workflow: Workflow
    classes: Mapping[str, Interface]
    pick: Callable[[int], int] = lambda count: 0
    fed: dict[tuple[str, str], Any] = field(default_factory=dict)  # (node, widget) of primitives

    def api(self) -> dict[str, Any]:
        """{id: {"class_type", "inputs", "_meta"}} in the page's order. Raises InkstoneError."""
        unknown = list(self._unknown(Level(self.workflow.root)))
        if unknown:
            raise UnknownClasses(unknown)
        root = Level(self.workflow.root)
        self._feed(root)
        made = {key: entry for key, entry in self._entries(root)}
        for entry in made.values():
            inputs = entry["inputs"]
            for name in [n for n, v in inputs.items() if _is_link(v) and v[0] not in made]:
                del inputs[name]
        return made

    # -- which nodes are entries --

    def _unknown(self, level: Level) -> Iterator[UINode]:
        for node in level.sheet.nodes.values():
            if node.mode in (MUTED, BYPASSED) or node.kind in VIRTUAL:
                continue
            if node.kind in self.workflow.subgraphs:
                yield from self._unknown(self._inside(level, node))
            elif node.kind.startswith(("workflow>", "workflow/")):
                raise InkstoneError(
                    f"Node {level.name(node)} is the old group node {node.kind[9:]!r}. Open the "
                    'graph in ComfyUI and choose "Convert to Nodes" or save it as a subgraph.'
                )
            elif node.kind not in self.classes:
                yield node

    def _inside(self, level: Level, node: UINode) -> Level:
        sheet = self.workflow.subgraphs[node.kind]
        return Level(sheet, (*level.path, node.id), level, node)

    def _entries(self, level: Level) -> Iterator[tuple[str, dict[str, Any]]]:
        for node in sorted(level.sheet.nodes.values(), key=lambda node: node.order):
            if node.mode in (MUTED, BYPASSED) or node.kind in VIRTUAL:
                continue
            if node.kind in self.workflow.subgraphs:
                yield from self._entries(self._inside(level, node))
                continue
            title = node.title or self.classes[node.kind].title or node.kind
            inputs = self._inputs(level, node)
            yield (
                level.name(node),
                {"inputs": inputs, "class_type": node.kind, "_meta": {"title": title}},
            )

    # -- the inputs of one node --

    def _inputs(self, level: Level, node: UINode) -> dict[str, Any]:
        made = {}
        for widget, value in self._widgets(level, node):
            if widget.sent:
                made[widget.name] = _wrapped(self._text(node, widget, value))
        for index, slot in enumerate(node.inputs):
            found = self._incoming(level, node, index, slot.kind, frozenset())
            if isinstance(found, OutputRef):
                made[slot.widget or slot.name] = [found.id, found.slot]
            elif isinstance(found, Constant):
                made[slot.widget or slot.name] = _wrapped(found.value)
        return made

    def _widgets(self, level: Level, node: UINode) -> list[tuple[Widget, Any]]:
        """(widget, value) of a node, primitives written in."""
        name = level.name(node)
        found = _widget_values(self.classes[node.kind], node)
        return [(w, self.fed.get((name, w.name), value)) for w, value in found]

    def _text(self, node: UINode, widget: Widget, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        if widget.dynamic:
            return resolved(value, self.pick)
        if widget.name == "filename_prefix" and node.kind in _NAMED_BY_PREFIX and "%" in value:
            return filled(value, self._named_values())
        return value

    def _named_values(self) -> dict[str, dict[str, Any]]:
        """Widget values of the root's nodes by "Node name for S&R", else by title."""
        made: dict[str, dict[str, Any]] = {}
        root = Level(self.workflow.root)
        for node in self.workflow.root.nodes.values():
            if node.kind not in self.classes:
                continue
            values = {w.name: value for w, value in self._widgets(root, node)}
            for name in (node.title, node.properties.get("Node name for S&R")):
                if isinstance(name, str):
                    made.setdefault(name, values)
        return made

    # -- primitives --

    def _feed(self, level: Level) -> None:
        """Writes the value of each primitive into the widgets that it is connected to."""
        for node in level.sheet.nodes.values():
            if node.kind in self.workflow.subgraphs:
                self._feed(self._inside(level, node))
            elif node.kind in PRIMITIVES and isinstance(node.values, list) and node.values:
                for link in level.sheet.leaving(node.id):  # not through reroutes
                    target = level.sheet.nodes.get(link.target)
                    if target is not None and link.target_slot < len(target.inputs):
                        slot = target.inputs[link.target_slot]
                        name = slot.widget or slot.name
                        self.fed[level.name(target), name] = node.values[0]

    # -- following links --

    def _incoming(
        self, level: Level, node: UINode, index: int, kind: str, seen: frozenset
    ) -> OutputRef | Constant | None:
        """What an input is connected to in the end; None: nothing."""
        if index >= len(node.inputs) or node.inputs[index].link is None:
            return None
        link = level.sheet.links.get(node.inputs[index].link)
        return None if link is None else self._from(level, link, kind, seen)

    def _from(
        self, level: Level, link: UILink, kind: str, seen: frozenset
    ) -> OutputRef | Constant | None:
        place = (level.path, link.origin, link.origin_slot)
        if place in seen:
            raise InkstoneError(
                f"The links of {level.sheet.name} go in a circle through node {link.origin}."
            )
        seen = seen | {place}
        if link.origin == INPUT_NODE:
            return self._from_outside(level, link.origin_slot, kind, seen)
        origin = level.sheet.nodes.get(link.origin)
        if origin is None or origin.mode == MUTED:
            return None
        if origin.mode == BYPASSED:
            index = _passed_through(origin, link.origin_slot, kind)
            return None if index is None else self._incoming(level, origin, index, kind, seen)
        if origin.kind in self.workflow.subgraphs:
            inside = self._inside(level, origin)
            for inner in inside.sheet.links.values():
                if inner.target == OUTPUT_NODE and inner.target_slot == link.origin_slot:
                    return self._from(inside, inner, kind, seen)
            return None
        if origin.kind in GETTERS:
            return self._from_setter(level, origin, kind, seen)
        if origin.kind in PRIMITIVES:
            return None
        if origin.kind in VIRTUAL:
            return self._incoming(level, origin, link.origin_slot, kind, seen)
        return OutputRef(level.name(origin), link.origin_slot)

    def _from_setter(
        self, level: Level, getter: UINode, kind: str, seen: frozenset
    ) -> OutputRef | Constant | None:
        """A Get node is connected to the Set node of its name, on the same sheet or further out."""
        name = _first(getter.values)
        while level is not None:
            for node in level.sheet.nodes.values():
                if node.kind in SETTERS and _first(node.values) == name:
                    return self._incoming(level, node, 0, kind, seen)
            level = level.outer
        raise InkstoneError(f"Node {getter.id} gets {name!r}, but no Set node has this name.")

    def _from_outside(
        self, level: Level, index: int, kind: str, seen: frozenset
    ) -> OutputRef | Constant | None:
        """Input `index` of a subgraph: the instance's link, else the value of its widget."""
        outer, instance, sheet = level.outer, level.instance, level.sheet
        if outer is None or instance is None or index >= len(sheet.inputs):
            return None
        name = sheet.inputs[index].name
        at = next((i for i, slot in enumerate(instance.inputs) if slot.name == name), None)
        if at is not None and instance.inputs[at].link is not None:
            link = outer.sheet.links.get(instance.inputs[at].link)
            return None if link is None else self._from(outer, link, kind, seen)
        values = promoted_values(self.workflow, instance, sheet)  # None: the inner widget's counts
        return Constant(values[name]) if name in values else None


def promoted_values(workflow: Workflow, instance: UINode, sheet: Sheet) -> dict[str, Any]:
    """Values of an instance's own widgets by the name of the subgraph's input."""
    if isinstance(instance.values, dict):
        return dict(instance.values)
    names = [
        slot.name for index, slot in enumerate(sheet.inputs) if feeds_widget(workflow, sheet, index)
    ]
    return dict(zip(names, instance.values, strict=False))


def feeds_widget(workflow: Workflow, sheet: Sheet, index: int) -> bool:
    """True when a subgraph's input leads to a widget inside, at any depth."""
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
        at = next((i for i, item in enumerate(inner.inputs) if item.name == slot.name), None)
        if at is not None and feeds_widget(workflow, inner, at):
            return True
    return False


def _widget_values(told: Interface, node: UINode) -> list[tuple[Widget, Any]]:
    if isinstance(node.values, dict):
        return [(widget, node.values.get(widget.name, value)) for widget, value in told.values([])]
    return list(told.values(_without_forced(told, node.values)))


def _without_forced(told: Interface, values: list[Any]) -> list[Any]:
    """Old files keep a place for inputs that are sockets by force; they are known by the count."""
    forced: list[bool] = []
    for item in told.inputs:
        if isinstance(item, Socket):
            forced += [True] * item.places
        elif item.place:
            forced += [False] * (1 + int(item.asked))
    if True not in forced or len(forced) != len(values):
        return values
    return [value for value, drop in zip(values, forced, strict=True) if not drop]


def _passed_through(node: UINode, slot: int, kind: str) -> int | None:
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


def _first(values: list[Any] | dict[str, Any]) -> Any:
    return next(iter(values.values() if isinstance(values, dict) else values), None)


def _is_link(value: Any) -> bool:
    return isinstance(value, list)


def _wrapped(value: Any) -> Any:
    """Lists are links in an API graph, so a list of values is put into an object."""
    return {"__value__": value} if isinstance(value, list) else value
