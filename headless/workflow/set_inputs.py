"""`--set NODE.INPUT=VALUE` for inputs that only a UI graph has: of subgraphs and primitives."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from ..graph.api_graph import Graph
from ..graph.set_input import apply_set
from ..node_types import Json, NodeClasses
from .link_tracing import PRIMITIVES, Level
from .parse_ui import INPUT_NODE, Workflow, parse_workflow

Aliases = dict[tuple[str, str], list[str]]


def apply_setting(
    graph: Graph, setting: str, nodes: NodeClasses, ui: Mapping[str, Json] | None
) -> Graph:
    """The graph with NODE.INPUT=VALUE applied; NODE may be a subgraph or primitive of the page.

    Raises InkstoneError that names the setting.
    """
    aliases = input_aliases(ui) if ui is not None else {}
    path, equals, value = setting.partition("=")
    node, _, name = path.rpartition(".")
    targets = aliases.get((node, name)) or aliases.get((node.lower(), name)) or [path]
    for target in targets:
        graph = apply_set(graph, f"{target}={value}" if equals else setting, nodes)
    return graph


def input_aliases(ui: Mapping[str, Json]) -> Aliases:
    """Inputs of subgraph instances, and primitives -> the inputs ("ID.NAME") that they feed.

    Keys are (id or title in lower case, input name); a primitive's input is "value".
    """
    workflow = parse_workflow(dict(ui))
    aliases: Aliases = {}
    for level in _levels(workflow, Level(workflow.root)):
        for node in level.sheet.nodes.values():
            names = {level.name(node), (node.title or "").lower()} - {""}
            if node.kind in workflow.subgraphs:
                inside = level.inside(workflow, node)
                names |= {inside.sheet.title.lower()} - {""}
                for index, item in enumerate(inside.sheet.inputs):
                    targets = list(_targets(workflow, inside, INPUT_NODE, index))
                    for name in names:
                        aliases.setdefault((name, item.name), []).extend(targets)
            elif node.kind in PRIMITIVES:
                targets = list(_targets(workflow, level, node.id, 0))
                for name in names:
                    aliases.setdefault((name, "value"), []).extend(targets)
    return aliases


def _levels(workflow: Workflow, level: Level) -> Iterator[Level]:
    """A level and all levels inside it."""
    yield level
    for node in level.sheet.nodes.values():
        if node.kind in workflow.subgraphs:
            yield from _levels(workflow, level.inside(workflow, node))


def _targets(workflow: Workflow, level: Level, origin: str, slot: int) -> Iterator[str]:
    """The inputs of real nodes that an output feeds, as ID.NAME."""
    for link in level.sheet.leaving(origin, slot):
        node = level.sheet.nodes.get(link.target)
        target = None if node is None else node.input_at(link.target_slot)
        if node is None or target is None:
            continue
        name = target.name
        if node.kind in workflow.subgraphs:
            inside = level.inside(workflow, node)
            index = inside.sheet.input_index(name)
            if index is not None:
                yield from _targets(workflow, inside, INPUT_NODE, index)
        else:
            yield f"{level.name(node)}.{name}"
