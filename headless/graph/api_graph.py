"""API graphs: nodes by id whose inputs are constants or links, from JSON and back.

validation.py checks them against the node schemas.
"""

from __future__ import annotations

import dataclasses
import difflib

from ...errors import InkstoneError
from ..node_types import Json, NodeClass, NodeClasses, Value
from .input_values import GraphError, Problem, default_value, is_widget, schema_of, short

_ADVICE_API = "Save it in ComfyUI with File > Export (API)."


@dataclasses.dataclass(frozen=True)
class Link:
    """The value of output `slot` of node `node`."""

    node: str
    slot: int


@dataclasses.dataclass(frozen=True)
class Node:
    """One entry of a graph: inputs are constants or Links."""

    id: str
    class_type: str
    title: str
    inputs: dict[str, Value]

    def problem(self, input: str | None, expected: str, got: str) -> Problem:
        """A fault of this node, or of one of its inputs."""
        return Problem(node=self.id, title=self.title, input=input, expected=expected, got=got)

    def links(self) -> dict[str, Link]:
        """The linked inputs by name."""
        return {name: value for name, value in self.inputs.items() if isinstance(value, Link)}

    def constants(self, names: list[str]) -> dict[str, Value]:
        """The constants of these inputs; None where an input is linked or absent."""
        values = {name: self.inputs.get(name) for name in names}
        return {name: None if isinstance(value, Link) else value for name, value in values.items()}


Graph = dict[str, Node]
# boxes with text for readers: they carry no data and no run needs them
NOTE_CLASSES = ("Note", "MarkdownNote")


def parse_graph(data: Json) -> Graph:
    """A Graph from parsed API JSON (also the body of POST /prompt), without note boxes.

    Raises InkstoneError for a UI graph or anything else that is not an API graph, GraphError for
    malformed entries.
    """
    if isinstance(data, dict) and isinstance(data.get("prompt"), dict):
        data = data["prompt"]
    if isinstance(data, dict) and isinstance(data.get("nodes"), list):
        raise InkstoneError(f"This is a UI graph; expected an API graph. {_ADVICE_API}")
    if not isinstance(data, dict) or not data:
        kind = "an empty graph" if data == {} else type(data).__name__
        raise InkstoneError(
            f"Expected an API graph, an object of node id -> node, got {kind}. {_ADVICE_API}"
        )
    problems: list[Problem] = []
    graph = {str(key): _parse_node(str(key), entry, problems) for key, entry in data.items()}
    if problems:
        raise GraphError(problems)
    return {key: node for key, node in graph.items() if node.class_type not in NOTE_CLASSES}


def _parse_node(key: str, entry: Json, problems: list[Problem]) -> Node:
    kind = entry.get("class_type") if isinstance(entry, dict) else None
    if not isinstance(kind, str) or not isinstance(entry.get("inputs", {}), dict):
        node = Node(key, "", "?", {})
        expected = 'an object with "class_type" and "inputs"'
        problems.append(node.problem(None, expected, short(entry)))
        return node
    meta = entry.get("_meta")
    title = meta.get("title") if isinstance(meta, dict) else None
    node = Node(key, kind, str(title or kind), {})
    for name, value in entry.get("inputs", {}).items():
        try:
            node.inputs[name] = _parse_value(value)
        except ValueError as error:
            expected = 'a constant or a link ["ID", slot]'
            problems.append(node.problem(name, expected, str(error)))
    return node


def _parse_value(value: Json) -> Value:
    """A constant or a Link. Raises ValueError for a list that is neither."""
    if isinstance(value, dict) and set(value) == {"__value__"}:
        return value["__value__"]
    if not isinstance(value, list):
        return value
    slot_ok = len(value) == 2 and isinstance(value[1], int) and not isinstance(value[1], bool)
    if slot_ok and isinstance(value[0], (str, int)):
        return Link(str(value[0]), value[1])
    raise ValueError(short(value))


def to_api(graph: Graph) -> dict[str, Json]:
    """The JSON form of a graph."""

    def plain(value: Value) -> Json:
        if isinstance(value, Link):
            return [value.node, value.slot]
        return {"__value__": value} if isinstance(value, list) else value

    return {
        node.id: {
            "class_type": node.class_type,
            "_meta": {"title": node.title},
            "inputs": {name: plain(value) for name, value in node.inputs.items()},
        }
        for node in graph.values()
    }


def with_defaults(graph: Graph, nodes: NodeClasses) -> Graph:
    """The graph with a value for every widget, as the page writes it."""
    full = {}
    for key, node in graph.items():
        widgets = {
            item.id: default_value(item)
            for item in schema_of(class_of(node, nodes)).inputs or []
            if is_widget(item)
        }
        full[key] = dataclasses.replace(node, inputs=widgets | node.inputs)
    return full


def class_of(node: Node, nodes: NodeClasses) -> NodeClass:
    """The node's class. Raises GraphError if it is not known here."""
    if node.class_type not in nodes:
        raise GraphError([unknown_class(node, nodes)])
    return nodes[node.class_type]


def unknown_class(node: Node, nodes: NodeClasses) -> Problem:
    """The fault of a node whose class is not known here."""
    near = difflib.get_close_matches(node.class_type, nodes, 1, 0.6)
    hint = f"nearest: {near[0]}" if near else "known: Inkstone's nodes and the basic core nodes"
    expected = f"a node class that is installed here ({hint})"
    return node.problem(None, expected, repr(node.class_type))
