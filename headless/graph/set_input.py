"""`--set NODE.INPUT=VALUE`: one input of an API graph changed."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Iterable

from ...errors import InkstoneError
from ..node_types import NodeClasses
from .api_graph import Graph, Node, class_of
from .input_values import Fault, GraphError, convert, nearest_input, schema_of
from .validation import own_checks


def apply_set(graph: Graph, setting: str, nodes: NodeClasses) -> Graph:
    """The graph with one `NODE.INPUT=VALUE` applied; NODE is an id, a title, or a unique class.

    VALUE is converted by the schema; it also replaces a link. Raises InkstoneError.
    """
    return Settings(graph, nodes).apply([setting])


class Settings:
    """Applies `NODE.INPUT=VALUE` to a graph; its names are read once for all of them."""

    def __init__(self, graph: Graph, nodes: NodeClasses) -> None:
        self.graph, self.nodes = dict(graph), nodes
        self._titles = _ids_by(graph.values(), "title")
        self._classes = _ids_by(graph.values(), "class_type")

    def apply(self, settings: Iterable[str]) -> Graph:
        """The graph with these applied. Raises InkstoneError."""
        for setting in settings:
            self._apply(setting)
        return self.graph

    def _apply(self, setting: str) -> None:
        path, equals, value = setting.partition("=")
        if not equals or "." not in path:
            raise InkstoneError("expected NODE.INPUT=VALUE, such as --set 3.seed=7.")
        node, name = self._find_node(path)
        node_class = class_of(node, self.nodes)
        items = {item.id: item for item in schema_of(node_class).inputs or []}
        try:
            if name not in items:
                raise Fault(nearest_input(name, items), "an input that the node does not have")
            limits = name not in own_checks(node_class)
            inputs = node.inputs | {name: convert(items[name], value, limits)}
        except Fault as fault:
            raise GraphError([node.problem(name, fault.expected, fault.got)]) from fault
        self.graph[node.id] = dataclasses.replace(node, inputs=inputs)

    def _find_node(self, path: str) -> tuple[Node, str]:
        """The node and the input name in NODE.INPUT; titles and input names may hold dots."""
        parts = path.split(".")
        for cut in range(len(parts) - 1, 0, -1):
            key, name = ".".join(parts[:cut]), ".".join(parts[cut:])
            if key in self.graph:
                return self.graph[key], name
            title = key.lower()
            for ids, own in ((self._titles, title), (self._classes, title.replace(" ", ""))):
                hits = ids.get(own, [])
                if len(hits) > 1:
                    raise InkstoneError(
                        f"{len(hits)} nodes are called {key!r}; use an id: {', '.join(hits)}."
                    )
                if hits:
                    return self.graph[hits[0]], name
        names = [*self.graph, *(node.title for node in self.graph.values())]
        near = difflib.get_close_matches(".".join(parts[:-1]), names, 3, 0.4) or names[:5]
        raise InkstoneError(f"no node has this id, title or class. Nearest: {', '.join(near)}.")


def _ids_by(nodes: Iterable[Node], key: str) -> dict[str, list[str]]:
    """Ids by the value of a field, in lower case."""
    ids: dict[str, list[str]] = {}
    for node in nodes:
        ids.setdefault(getattr(node, key).lower(), []).append(node.id)
    return ids
