"""API graphs: parsing, checking against the node schemas, and `--set NODE.INPUT=VALUE`.

Stricter than ComfyUI's server, which silently drops unknown input names: here such a name is an
error that suggests the nearest input. All faults are reported at once.
"""

from __future__ import annotations

import dataclasses
import difflib
import inspect
from collections.abc import Iterable, Iterator, Mapping, Sequence

from ...errors import InkstoneError
from ...host.api import io
from ..node_types import Json, NodeClass, NodeClasses, SchemaInput, Value
from .input_values import (
    Fault,
    GraphError,
    Problem,
    convert,
    default_value,
    is_widget,
    nearest_input,
    schema_of,
    short,
    socket_type,
)

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
        problems.append(
            Problem(key, "?", None, 'an object with "class_type" and "inputs"', short(entry))
        )
        return Node(key, "", "?", {})
    meta = entry.get("_meta")
    title = meta.get("title") if isinstance(meta, dict) else None
    inputs = {}
    for name, value in entry.get("inputs", {}).items():
        try:
            inputs[name] = _parse_value(value)
        except ValueError as error:
            expected = 'a constant or a link ["ID", slot]'
            problems.append(Problem(key, str(title or kind), name, expected, str(error)))
    return Node(key, kind, str(title or kind), inputs)


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
            for item in schema_of(_class_of(node, nodes)).inputs or []
            if is_widget(item)
        }
        full[key] = dataclasses.replace(node, inputs=widgets | node.inputs)
    return full


def _class_of(node: Node, nodes: NodeClasses) -> NodeClass:
    if node.class_type not in nodes:
        raise GraphError([_unknown_class(node, nodes)])
    return nodes[node.class_type]


def _unknown_class(node: Node, nodes: NodeClasses) -> Problem:
    near = difflib.get_close_matches(node.class_type, nodes, 1, 0.6)
    hint = f"nearest: {near[0]}" if near else "known: Inkstone's nodes and the basic core nodes"
    expected = f"a node class that is installed here ({hint})"
    return Problem(node.id, node.title, None, expected, repr(node.class_type))


def validate(
    graph: Graph, nodes: NodeClasses, choices: bool = True, targets: Sequence[str] | None = None
) -> Graph:
    """The graph with constants converted to their types. Raises GraphError with all faults.

    All classes are checked; inputs only of nodes that the `targets` need (None: the output nodes).
    Without `choices`, combos and the nodes' own checks are skipped: for graphs whose files are on
    another machine.
    """
    problems = [
        _unknown_class(node, nodes) for node in graph.values() if node.class_type not in nodes
    ]
    if problems:
        raise GraphError(problems)
    targets = output_nodes(graph, nodes) if targets is None else targets
    if not targets:
        raise InkstoneError(
            "The graph has no output node, so nothing would be computed. Add SaveImage."
        )
    needed = _needed(graph, targets)
    checked = {}
    for key in needed:
        checked[key], faults = _check_node(graph, graph[key], nodes, choices)
        problems.extend(faults)
    problems.extend(_cycle(graph, needed))
    if problems:
        raise GraphError(problems)
    return {key: checked.get(key, node) for key, node in graph.items()}


def output_nodes(graph: Graph, nodes: NodeClasses) -> list[str]:
    """Ids of the nodes whose class is an output node, in graph order."""
    return [key for key, node in graph.items() if schema_of(nodes[node.class_type]).is_output_node]


def _needed(graph: Graph, targets: Sequence[str]) -> list[str]:
    """Ids of the targets and all their ancestors, in graph order."""
    needed: set[str] = set()
    stack = list(targets)
    while stack:
        key = stack.pop()
        if key not in needed and key in graph:
            needed.add(key)
            stack.extend(link.node for link in graph[key].links().values())
    return [key for key in graph if key in needed]


def _check_node(
    graph: Graph, node: Node, nodes: NodeClasses, choices: bool
) -> tuple[Node, list[Problem]]:
    """The node with converted constants, and its faults."""
    node_class = nodes[node.class_type]
    problems: list[Problem] = []
    items = {item.id: item for item in schema_of(node_class).inputs or []}
    items |= _grown(node_class, items, node.inputs)
    own = _own_checks(node_class)
    converted: dict[str, Value] = {}
    for name, value in node.inputs.items():
        try:
            if name not in items:
                raise Fault(nearest_input(name, items), "an input that the node does not have")
            if isinstance(value, Link):
                _check_link(graph, items[name], value, nodes)
                converted[name] = value
            else:
                limits = name not in own and (choices or socket_type(items[name]) != "COMBO")
                converted[name] = convert(items[name], value, limits)
        except Fault as fault:
            problems.append(Problem(node.id, node.title, name, fault.expected, fault.got))
    required = {name: item for name, item in items.items() if not item.optional}
    for name in [name for name in required if name not in node.inputs]:
        default = f" (default {default_value(items[name])!r})" if is_widget(items[name]) else ""
        expected = f"a value of type {socket_type(items[name])}{default}"
        problems.append(Problem(node.id, node.title, name, expected, "nothing"))
    checked = dataclasses.replace(node, inputs=converted)
    if own and choices and not required.keys() - converted.keys():
        problems.extend(_run_own_checks(checked, node_class, own))
    return checked, problems


def _grown(
    node_class: NodeClass, items: Mapping[str, SchemaInput], names: Iterable[str]
) -> dict[str, SchemaInput]:
    """Sockets past those that a class lists here: a newer ComfyUI grows them as they are connected.
    GROWS of a class: (start of their names, how many there can be).
    """
    start, most = getattr(node_class, "GROWS", ("", 0))
    new = [n for n in names if n not in items and n.removeprefix(start) in map(str, range(1, most))]
    listed = next((item for name, item in items.items() if start and name.startswith(start)), None)
    return {name: listed for name in new if listed is not None and name.startswith(start)}


def _own_checks(node_class: NodeClass) -> list[str]:
    """The inputs that the node's validate_inputs names: built-in limits do not apply to them."""
    if node_class.validate_inputs.__func__ is io.ComfyNode.validate_inputs.__func__:
        return []
    return list(inspect.signature(node_class.validate_inputs).parameters)


def _run_own_checks(node: Node, node_class: NodeClass, names: list[str]) -> list[Problem]:
    answer = node_class.validate_inputs(**node.constants(names))
    if answer is True:
        return []
    return [
        Problem(node.id, node.title, ", ".join(names), "values that the node accepts", str(answer))
    ]


def _check_link(graph: Graph, item: SchemaInput, link: Link, nodes: NodeClasses) -> None:
    source = graph.get(link.node)
    if source is None:
        near = ", ".join(list(graph)[:8])
        raise Fault(f"a link from a node in the graph ({near}...)", f"a link to node {link.node!r}")
    outputs = schema_of(nodes[source.class_type]).outputs or []
    if not 0 <= link.slot < len(outputs):
        raise Fault(
            f"an output slot 0..{len(outputs) - 1} of node {source.id} ({source.title})"
            if outputs
            else f"a node with outputs, but node {source.id} ({source.title}) has none",
            f"slot {link.slot}",
        )
    have, want = socket_type(outputs[link.slot]), socket_type(item)
    if "*" not in (have, want) and not set(have.split(",")) & set(want.split(",")):
        raise Fault(f"a link of type {want}", f"{have} from node {source.id} ({source.title})")


def _cycle(graph: Graph, needed: list[str]) -> Iterator[Problem]:
    """The first cycle of links, if there is one."""
    rest = {
        key: {link.node for link in graph[key].links().values()} & set(needed) for key in needed
    }
    while ready := [key for key, parents in rest.items() if not parents]:
        rest = {key: parents.difference(ready) for key, parents in rest.items() if key not in ready}
    if rest:
        path = [next(iter(rest))]
        while path[-1] not in path[:-1]:
            path.append(next(iter(rest[path[-1]])))
        path = path[path.index(path[-1]) :]
        node = graph[path[0]]
        yield Problem(node.id, node.title, None, "links without a cycle", " <- ".join(path))


def apply_set(graph: Graph, setting: str, nodes: NodeClasses) -> Graph:
    """The graph with one `NODE.INPUT=VALUE` applied; NODE is an id, a title, or a unique class.

    VALUE is converted by the schema; it also replaces a link. Raises InkstoneError.
    """
    path, equals, value = setting.partition("=")
    if not equals or "." not in path:
        raise InkstoneError(
            f"--set {setting!r}: expected NODE.INPUT=VALUE, such as --set 3.seed=7."
        )
    node, name = _find_node(graph, path)
    items = {item.id: item for item in schema_of(_class_of(node, nodes)).inputs or []}
    try:
        if name not in items:
            raise Fault(nearest_input(name, items), "an input that the node does not have")
        limits = name not in _own_checks(nodes[node.class_type])
        inputs = node.inputs | {name: convert(items[name], value, limits)}
    except Fault as fault:
        raise GraphError([Problem(node.id, node.title, name, fault.expected, fault.got)]) from fault
    return graph | {node.id: dataclasses.replace(node, inputs=inputs)}


def _find_node(graph: Graph, path: str) -> tuple[Node, str]:
    """The node and the input name in NODE.INPUT; titles and input names may hold dots."""
    parts = path.split(".")
    for cut in range(len(parts) - 1, 0, -1):
        key, name = ".".join(parts[:cut]), ".".join(parts[cut:])
        if key in graph:
            return graph[key], name
        for kind in ("title", "class_type"):
            hits = [node for node in graph.values() if getattr(node, kind).lower() == key.lower()]
            if len(hits) > 1:
                ids = ", ".join(node.id for node in hits)
                raise InkstoneError(
                    f"--set {path}: {len(hits)} nodes are called {key!r}; use an id: {ids}."
                )
            if hits:
                return hits[0], name
    names = [*graph, *(node.title for node in graph.values())]
    near = difflib.get_close_matches(".".join(parts[:-1]), names, 3, 0.4) or names[:5]
    raise InkstoneError(
        f"--set {path}: no node has this id, title or class. Nearest: {', '.join(near)}."
    )
