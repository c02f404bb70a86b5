"""Checks of an API graph against the node schemas, before anything is computed.

Stricter than ComfyUI's server, which silently drops unknown input names: here such a name is an
error that suggests the nearest input. All faults are reported at once.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Iterable, Iterator, Mapping, Sequence

from ...errors import InkstoneError
from ...host.api import io
from ..node_types import NodeClass, NodeClasses, SchemaInput, Value
from .api_graph import Graph, Link, Node, unknown_class
from .input_values import (
    Fault,
    GraphError,
    Problem,
    convert,
    default_value,
    is_widget,
    nearest_input,
    schema_of,
    socket_type,
)


def validate(
    graph: Graph, nodes: NodeClasses, choices: bool = True, targets: Sequence[str] | None = None
) -> Graph:
    """The graph with constants converted to their types. Raises GraphError with all faults.

    All classes are checked; inputs only of nodes that the `targets` need (None: the output nodes).
    Without `choices`, combos and the nodes' own checks are skipped: for graphs whose files are on
    another machine.
    """
    problems = [
        unknown_class(node, nodes) for node in graph.values() if node.class_type not in nodes
    ]
    if problems:
        raise GraphError(problems)
    targets = output_nodes(graph, nodes) if targets is None else targets
    if not targets:
        raise InkstoneError(
            "The graph has no output node, so nothing would be computed. Add SaveImage."
        )
    needed = needed_nodes(graph, targets)
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


def needed_nodes(graph: Graph, targets: Sequence[str]) -> list[str]:
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
    own = own_checks(node_class)
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
            problems.append(node.problem(name, fault.expected, fault.got))
    required = {name: item for name, item in items.items() if not item.optional}
    for name in [name for name in required if name not in node.inputs]:
        default = f" (default {default_value(items[name])!r})" if is_widget(items[name]) else ""
        expected = f"a value of type {socket_type(items[name])}{default}"
        problems.append(node.problem(name, expected, "nothing"))
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


def own_checks(node_class: NodeClass) -> list[str]:
    """The inputs that the node's validate_inputs names (with **names all): built-in limits
    do not apply to them.
    """
    if node_class.validate_inputs.__func__ is io.ComfyNode.validate_inputs.__func__:
        return []
    parameters = inspect.signature(node_class.validate_inputs).parameters
    if any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        return [item.id for item in schema_of(node_class).inputs or []]
    return list(parameters)


def _run_own_checks(node: Node, node_class: NodeClass, names: list[str]) -> list[Problem]:
    answer = node_class.validate_inputs(**node.constants(names))
    if answer is True:
        return []
    expected = "values that the node accepts"
    return [node.problem(", ".join(names), expected, f"its refusal: {answer}".rstrip("."))]


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
    inside = set(needed)
    rest = {key: {link.node for link in graph[key].links().values()} & inside for key in needed}
    users: dict[str, list[str]] = {key: [] for key in needed}
    for key, parents in rest.items():
        for parent in parents:
            users[parent].append(key)
    ready = [key for key, parents in rest.items() if not parents]
    for key in ready:  # grows
        del rest[key]
        for user in users[key]:
            rest[user].discard(key)
            if not rest[user]:
                ready.append(user)
    if rest:
        step = next(iter(rest))
        places: dict[str, int] = {}
        while step not in places:
            places[step] = len(places)
            step = next(iter(rest[step]))
        path = [*list(places)[places[step] :], step]
        node = graph[path[0]]
        yield node.problem(None, "links without a cycle", _way(path))


def _way(path: Sequence[str]) -> str:
    """A cycle for a message, its middle left out when it is long."""
    shown = path if len(path) <= 12 else [*path[:6], f"({len(path) - 12} more)", *path[-6:]]
    return " <- ".join(shown)
