"""A workflow file as the API graph that ComfyUI's page would send: the rules of its conversion.

Subgraphs are opened (ids "5:3"), links are followed to real outputs (link_tracing.py), muted nodes
are dropped, primitives are written into the widgets that they feed.
Deliberate differences: of `{a|b}` in a prompt the first is taken; values that a file stores by name
are used; an unknown class is refused by name, where the page sends it all the same.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property

from ...errors import InkstoneError
from ..node_types import Json
from .broadcasts import SENDERS, connect
from .link_tracing import VIRTUAL, Constant, Level, LinkTracer, OutputRef
from .losses import name_choices, name_empty_inputs, undeclared
from .node_info import Interface, Widget
from .parse_ui import BYPASSED, MUTED, PRIMITIVES, UINode, Workflow
from .proxy_widgets import settle
from .text_templates import expand_choices, fill_places, first_choices
from .widget_values import widget_values, without_forced

# classes whose filename_prefix may hold %date:...% and %Node.widget%
_WITH_PLACES = {
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
    """Nodes of unknown classes; the message names each class with its count and pack."""

    def __init__(self, nodes: list[UINode]) -> None:
        counts = Counter((node.kind, node.pack()) for node in nodes)
        names = [
            kind + (f" x{count}" if count > 1 else "") + (f" (of the pack {pack})" if pack else "")
            for (kind, pack), count in counts.items()
        ]
        super().__init__(f"Node classes that are not known here: {', '.join(names)}.")


@dataclass
class Flattener:
    """One conversion; `api()` gives the graph."""

    workflow: Workflow
    classes: Mapping[str, Interface]
    pick: Callable[[int], int] = lambda count: 0
    # (node, widget) -> the value of the primitive that feeds it
    fed: dict[tuple[str, str], Json] = field(default_factory=dict)

    _chosen: dict[str, list[str]] = field(default_factory=dict)  # of {a|b}, by node
    _places: dict[str, str] = field(default_factory=dict)  # names of the subgraphs around a node

    def __post_init__(self) -> None:
        connect(self.workflow)
        settle(self.workflow, self.classes)
        self._tracer = LinkTracer(self.workflow)

    def api(self) -> dict[str, Json]:
        """{id: {"class_type", "inputs", "_meta"}} in the page's order. Raises InkstoneError."""
        root = Level(self.workflow.root)
        unknown = list(self._unknown(root))
        if unknown:
            raise UnknownClasses(unknown)
        self._feed(root)
        graph = dict(self._entries(root))
        for entry in graph.values():
            inputs = entry["inputs"]
            for name in [n for n, v in inputs.items() if _is_link(v) and v[0] not in graph]:
                del inputs[name]
        name_empty_inputs(graph, self.classes, self._places)
        name_choices(self._chosen)
        return graph

    # -- which nodes are entries --

    def _unknown(self, level: Level) -> Iterator[UINode]:
        for node in level.sheet.nodes.values():
            if node.mode in (MUTED, BYPASSED) or node.kind in VIRTUAL:
                continue
            if node.kind in self.workflow.subgraphs:
                yield from self._unknown(level.inside(self.workflow, node))
            elif node.kind.startswith(("workflow>", "workflow/")):
                raise InkstoneError(
                    f"Node {level.name(node)} is the old group node {node.kind[9:]!r}. Open the "
                    'graph in ComfyUI and choose "Convert to Nodes" or save it as a subgraph.'
                )
            elif node.kind not in self.classes and node.kind not in SENDERS:
                yield node

    def _entries(self, level: Level) -> Iterator[tuple[str, dict[str, Json]]]:
        for node in sorted(level.sheet.nodes.values(), key=lambda node: node.order):
            if node.mode in (MUTED, BYPASSED) or node.kind in VIRTUAL:
                continue
            if node.kind in self.workflow.subgraphs:
                yield from self._entries(level.inside(self.workflow, node))
                continue
            if node.kind not in self.classes:  # a sender, which computes nothing
                continue
            title = node.title or self.classes[node.kind].title or node.kind
            inputs = self._inputs(level, node)
            if level.path:
                self._places[level.name(node)] = f", in {level.titles()}"
            yield (
                level.name(node),
                {"inputs": inputs, "class_type": node.kind, "_meta": {"title": title}},
            )

    # -- the inputs of one node --

    def _inputs(self, level: Level, node: UINode) -> dict[str, Json]:
        inputs: dict[str, Json] = {}
        for widget, value in self._widgets(level, node):
            if widget.sent:
                inputs[widget.name] = _wrapped(self._text(level.name(node), node, widget, value))
        inputs |= {name: _wrapped(value) for name, value in self._undeclared(level, node).items()}
        for index, slot in enumerate(node.inputs):
            source = self._tracer.source(level, node, index, slot.kind)
            if isinstance(source, OutputRef):
                inputs[slot.widget or slot.name] = [source.id, source.slot]
            elif isinstance(source, Constant):
                inputs[slot.widget or slot.name] = _wrapped(source.value)
        return inputs

    def _undeclared(self, level: Level, node: UINode) -> dict[str, Json]:
        interface = self.classes[node.kind]
        if isinstance(node.values, dict):
            names = [widget.name for widget, _ in widget_values(interface, node)]
            sockets = [item.name for item in interface.inputs]
            return undeclared(node, level.name(node), [*names, *sockets], [])
        rest = interface.rest(without_forced(interface, node.values))
        return undeclared(node, level.name(node), (), rest)

    def _widgets(self, level: Level, node: UINode) -> list[tuple[Widget, Json]]:
        """(widget, value) of a node, with the values of primitives."""
        name = level.name(node)
        values = widget_values(self.classes[node.kind], node)
        return [(widget, self.fed.get((name, widget.name), value)) for widget, value in values]

    def _text(self, key: str, node: UINode, widget: Widget, value: Json) -> Json:
        if not isinstance(value, str):
            return value
        if widget.dynamic:
            if choices := first_choices(value):
                self._chosen.setdefault(key, []).extend(choices)
            return expand_choices(value, self.pick)
        if widget.name == "filename_prefix" and node.kind in _WITH_PLACES and "%" in value:
            return fill_places(value, self._values_by_name)
        return value

    @cached_property
    def _values_by_name(self) -> dict[str, dict[str, Json]]:
        """Widget values of the root's nodes by "Node name for S&R", else by title."""
        by_name: dict[str, dict[str, Json]] = {}
        root = Level(self.workflow.root)
        for node in self.workflow.root.nodes.values():
            if node.kind not in self.classes:
                continue
            values = {widget.name: value for widget, value in self._widgets(root, node)}
            for name in (node.title, node.properties.get("Node name for S&R")):
                if isinstance(name, str):
                    by_name.setdefault(name, values)
        return by_name

    # -- primitives --

    def _feed(self, level: Level) -> None:
        """Write the value of each primitive into the widgets that it is connected to."""
        for node in level.sheet.nodes.values():
            if node.kind in self.workflow.subgraphs:
                self._feed(level.inside(self.workflow, node))
            elif node.kind in PRIMITIVES and isinstance(node.values, list) and node.values:
                for link in level.sheet.leaving(node.id):  # not through reroutes
                    target = level.sheet.nodes.get(link.target)
                    slot = None if target is None else target.input_at(link.target_slot)
                    if target is not None and slot is not None:
                        name = slot.widget or slot.name
                        self.fed[level.name(target), name] = node.values[0]


def _is_link(value: Json) -> bool:
    return isinstance(value, list)


def _wrapped(value: Json) -> Json:
    """A list of values inside an object, because a bare list is a link in an API graph."""
    return {"__value__": value} if isinstance(value, list) else value
