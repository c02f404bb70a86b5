"""`--set NODE.INPUT=VALUE`: one input of an API graph changed."""

from __future__ import annotations

import dataclasses
import difflib

from ...errors import InkstoneError
from ..node_types import NodeClasses
from .api_graph import Graph, Node, class_of
from .input_values import Fault, GraphError, convert, nearest_input, schema_of
from .validation import own_checks


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
    items = {item.id: item for item in schema_of(class_of(node, nodes)).inputs or []}
    try:
        if name not in items:
            raise Fault(nearest_input(name, items), "an input that the node does not have")
        limits = name not in own_checks(nodes[node.class_type])
        inputs = node.inputs | {name: convert(items[name], value, limits)}
    except Fault as fault:
        raise GraphError([node.problem(name, fault.expected, fault.got)]) from fault
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
