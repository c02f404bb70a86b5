"""Switches of a graph whose choice is a constant, taken before a run.

Core's If/Else Switch computes only the branch that it chooses, so a graph may name models for the
other one that nobody has. Here the other branch is left out of the graph: its files are not asked
for. A switch that is chosen by a computed value stays, and chooses during the run.
"""

from __future__ import annotations

from dataclasses import replace

from ...errors import InkstoneError
from ..core_nodes.texts import REFUSED
from ..core_nodes.values import ComfySwitchNode
from ..graph.api_graph import Graph, Link, Node
from ..graph.validation import needed_nodes, output_nodes
from ..node_types import NodeClasses, Value

_PRIMITIVES = {
    bool: "PrimitiveBoolean",
    int: "PrimitiveInt",
    float: "PrimitiveFloat",
    str: "PrimitiveStringMultiline",
}


def settle_switches(graph: Graph, nodes: NodeClasses) -> Graph:
    """The graph with constant switches taken and without what only their other branches need.

    Raises InkstoneError where a node that runs in ComfyUI only is needed all the same.
    """
    settled = dict(graph)
    for key, node in graph.items():
        if node.class_type == ComfySwitchNode.ID:
            choice = _constant(settled, node.inputs.get("switch"))
            if isinstance(choice, bool):
                _take(settled, key, node.inputs.get("on_true" if choice else "on_false"))
    if settled != graph and all(node.class_type in nodes for node in settled.values()):
        needed = set(needed_nodes(settled, output_nodes(settled, nodes)))
        settled = {key: node for key, node in settled.items() if key in needed}
    for node in settled.values():
        if node.class_type in REFUSED:
            raise InkstoneError(
                f"node {node.id} ({node.title}): {node.class_type} {REFUSED[node.class_type]}."
            )
    return settled


def _constant(graph: Graph, value: Value) -> Value:
    """The value of an input where it is known before the run; None where it is computed."""
    if not isinstance(value, Link):
        return value
    source = graph.get(value.node)
    is_primitive = source is not None and source.class_type in _PRIMITIVES.values()
    return _constant(graph, source.inputs.get("value")) if source and is_primitive else None


def _take(graph: Graph, key: str, chosen: Value) -> None:
    """Put what a switch gives in its place: the link, or a node with the constant."""
    if not isinstance(chosen, Link):
        kind = _PRIMITIVES.get(type(chosen))
        if kind is not None:
            graph[key] = replace(graph[key], class_type=kind, inputs={"value": chosen})
        return
    old = Link(key, 0)
    for name, node in list(graph.items()):
        if old in node.links().values():
            inputs = {n: chosen if v == old else v for n, v in node.inputs.items()}
            graph[name] = Node(node.id, node.class_type, node.title, inputs)
    del graph[key]
