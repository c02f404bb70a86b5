"""`--set NODE.INPUT=VALUE` for inputs that only a UI graph has: of subgraphs and primitives."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from ...errors import CallError, InkstoneError
from ..graph.api_graph import Graph
from ..graph.set_input import Settings
from ..node_types import Json, NodeClasses
from .link_tracing import Level
from .load import interfaces
from .node_info import Interface
from .parse_ui import INPUT_NODE, PRIMITIVES, Workflow, parse_workflow
from .proxy_widgets import settle

Aliases = dict[tuple[str, str], list[str]]


def apply_settings(
    graph: Graph, settings: Sequence[str], nodes: NodeClasses, ui: Mapping[str, Json] | None
) -> Graph:
    """The graph with each NODE.INPUT=VALUE applied; NODE may be a subgraph or primitive of the
    page. The page's graph is read once for all.

    Raises CallError that names the setting.
    """
    if not settings:
        return graph
    aliases = input_aliases(ui, interfaces(nodes)) if ui is not None else {}
    changed = Settings(graph, nodes)
    for setting in settings:
        path, equals, value = setting.partition("=")
        node, _, name = path.rpartition(".")
        targets = aliases.get((node, name)) or aliases.get((node.lower(), name)) or [path]
        try:
            changed.apply(f"{target}={value}" if equals else setting for target in targets)
        except InkstoneError as error:
            raise CallError(f"--set {setting}: {error}") from error
    return changed.graph


def input_aliases(
    ui: Mapping[str, Json], classes: Mapping[str, Interface] | None = None
) -> Aliases:
    """Inputs of subgraph instances, and primitives -> the inputs ("ID.NAME") that they feed.

    Keys are (id or title in lower case, input name); a primitive's input is "value".
    """
    workflow = parse_workflow(dict(ui))
    settle(workflow, classes or {})
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
