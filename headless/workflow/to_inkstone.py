"""`inkstone convert --to-inkstone`: core's Qwen-Image loaders in a graph, replaced by ours.

A loader becomes two nodes: our loader, which reads the file, and a bridge, which takes over the old
node's id and wires. Everything behind stays unchanged. UI graphs stay UI graphs (with subgraphs),
API graphs stay API graphs. Each loader that is left in place gets a line with the reason.

What is exchanged, by the names of files and nodes: graph_facts.py.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from ...nodes import ToCLIP, ToModel, ToVAE
from ...nodes.load import LoadDiffusionModel, LoadTextEncoder, LoadVAE
from ..graph.api_graph import parse_graph
from ..graph.input_values import schema_of, socket_type
from ..node_types import Json, NodeClass
from .graph_facts import QWEN, GraphFacts, facts_of
from .model_files import LoaderNode
from .parse_ui import as_list, as_object, is_ui_graph, parse_workflow
from .ui_level import UILevel, list_of

_LEFT = 380  # how far left of the old node our loader is placed


@dataclass(frozen=True)
class Exchange:
    """A core loader with its file widget; our loader with its file widget; our bridge."""

    file: str
    loader: str
    loader_file: str
    wire: str
    bridge: str
    socket: str  # type of the wire between loader and bridge

    def widgets(self, name: str, variant: str) -> dict[str, str]:
        """Values of our loader, in the page's order."""
        values = {self.loader_file: name, "dtype": "auto"}
        return values | ({"variant": variant} if self.loader_file == "model" else {})


def _exchange(file: str, loader: LoaderNode, bridge: NodeClass) -> Exchange:
    """The exchange of a core loader with this file widget, from the schemas of our two nodes."""
    schema = schema_of(bridge)
    assert schema.inputs is not None
    wire = schema.inputs[0]
    (widget,) = loader.FILES
    return Exchange(
        file=file,
        loader=loader.ID,
        loader_file=widget,
        wire=wire.id,
        bridge=schema.node_id,
        socket=socket_type(wire),
    )


_MODEL = _exchange("unet_name", LoadDiffusionModel, ToModel)
_CLIP = _exchange("clip_name", LoadTextEncoder, ToCLIP)
EXCHANGES = {
    "UNETLoader": _MODEL,
    "UnetLoaderGGUF": _MODEL,
    "UnetLoaderGGUFAdvanced": _MODEL,
    "CLIPLoader": _CLIP,
    "CLIPLoaderGGUF": _CLIP,
    "VAELoader": _exchange("vae_name", LoadVAE, ToVAE),
}
# core's loaders of a file with several models -> the input that names it
WHOLE = {name: "ckpt_name" for name in ("CheckpointLoaderSimple", "CheckpointLoader")}


def to_inkstone(graph: Mapping[str, Json]) -> tuple[dict[str, Json], list[str]]:
    """A copy of the graph with our loaders, and a line for each loader, replaced or left in place.

    graph: UI JSON (it has "nodes") or an API graph. Raises InkstoneError for one that breaks the
    format.
    """
    changed = copy.deepcopy(dict(graph))
    if is_ui_graph(changed):
        parse_workflow(changed)
        report = _ui(changed)
    else:
        if changed:
            parse_graph(changed)
        report = _api(changed)
    return changed, (report.replaced or ["nothing was exchanged"]) + report.unchanged


@dataclass(frozen=True)
class _Report:
    """A line for each loader."""

    replaced: list[str] = field(default_factory=list)
    unchanged: list[str] = field(default_factory=list)

    def add(self, node: object, old: str, name: str, change: Exchange, variant: str) -> None:
        """A loader was replaced."""
        known = change.loader_file == "model" and variant != "auto"
        suffix = f", variant {variant}" if known else ""
        self.replaced.append(f"{node}: {old} {name} -> {change.loader} and {change.bridge}{suffix}")

    def leave_whole(self, node: object, old: str, name: Json) -> None:
        """A loader of a whole checkpoint was left in place."""
        why = "is not of Qwen-Image, by its name"
        if isinstance(name, str) and QWEN.search(name):
            why = (
                "holds several models in one file. Load it with Inkstone Load All and connect "
                f"{ToModel.ID}, {ToCLIP.ID} and {ToVAE.ID} in its place"
            )
        self.leave(node, old, name, why)

    def leave(self, node: object, old: str, name: Json, why: str) -> None:
        """A loader was left in place."""
        self.unchanged.append(f"{node}: {old} {name} stays: {why}")


# --- API graphs


def _api(graph: dict[str, Json]) -> _Report:
    nodes = {key: node for key, node in graph.items() if isinstance(node, dict)}
    kinds = {str(node.get("class_type")) for node in nodes.values()}
    inputs = [node.get("inputs") or {} for node in nodes.values()]
    facts = facts_of(kinds, {str(i.get("reference_latents_method")) for i in inputs})
    report = _Report()
    new_id = 1 + max((int(k) for k in nodes if k.isdecimal()), default=0)
    for key, node in nodes.items():
        old = str(node.get("class_type"))
        change = EXCHANGES.get(old)
        if old in WHOLE:
            report.leave_whole(key, old, (node.get("inputs") or {}).get(WHOLE[old]))
        if change is None:
            continue
        name = (node.get("inputs") or {}).get(change.file)
        if not isinstance(name, str):
            report.leave(key, old, name, "takes its file by a wire")
        elif why := facts.why_not(change.loader_file, name):
            report.leave(key, old, name, why)
        else:
            variant = facts.variant_of(name)
            widgets = change.widgets(name, variant)
            graph[str(new_id)] = {"class_type": change.loader, "inputs": widgets}
            graph[key] = {"class_type": change.bridge, "inputs": {change.wire: [str(new_id), 0]}}
            report.add(key, old, name, change, variant)
            new_id += 1
    return report


# --- UI graphs

# (id of the subgraph, id of the old node, its widget) -> (id of our loader, its widget)
_Moved = dict[tuple[str, str, str], tuple[int, str]]


def _ui(graph: dict[str, Json]) -> _Report:
    definitions = as_object(graph.get("definitions"), "definitions")
    subgraphs = as_list(definitions.get("subgraphs"), "definitions.subgraphs")
    levels = [UILevel(graph, True), *(UILevel(data, False) for data in subgraphs)]
    facts, report = _ui_facts(levels), _Report()
    moved: _Moved = {}
    for level in levels:
        for node in list(level.nodes):
            old = str(node.get("type"))
            change = EXCHANGES.get(old)
            name = next((v for v in _values(node) if isinstance(v, str)), "")
            if old in WHOLE:
                report.leave_whole(node["id"], old, name)
            if change is None:
                continue
            why = facts.why_not(change.loader_file, name)
            if why:
                report.leave(node["id"], old, name, why)
                continue
            variant = facts.variant_of(name)
            report.add(node["id"], old, name, change, variant)
            instances = [n for each in levels for n in each.nodes if str(n.get("type")) == level.id]
            widgets = change.widgets(name, variant)
            loader = _split(level, node, change, widgets, instances)
            moved[level.id, str(node["id"]), change.file] = loader, change.loader_file
    _move_promoted(levels, moved)
    return report


def _ui_facts(levels: Sequence[UILevel]) -> GraphFacts:
    nodes = [node for level in levels for node in level.nodes]
    methods = {
        str(value)
        for node in nodes
        if str(node.get("type")) == "FluxKontextMultiReferenceLatentMethod"
        for value in _values(node)
    }
    return facts_of({str(node.get("type")) for node in nodes}, methods)


def _values(node: Mapping[str, Json]) -> list[Json]:
    values = node.get("widgets_values")
    return list(values.values()) if isinstance(values, dict) else list_of(values)


def _split(
    level: UILevel,
    node: dict[str, Json],
    change: Exchange,
    widgets: Mapping[str, str],
    instances: Sequence[dict[str, Json]],
) -> int:
    """Add our loader next to the node, which becomes the bridge; return the loader's id."""
    number = level.new_node_id()
    link = level.add_link(number, node["id"], change.socket)
    loader = _loader(number, node, change, widgets)
    loader["outputs"] = [{"name": change.wire, "type": change.socket, "links": [link]}]
    # before the wires change: removing an input looks at the nodes at their ends
    level.nodes.append(loader)
    for entry in node.get("inputs") or []:
        if entry.get("link") is None:
            continue
        widget = entry.get("widget")
        name = widget.get("name") if isinstance(widget, dict) else entry.get("name")
        if name == change.file:
            level.retarget(entry["link"], number, 0)
            named = {"name": change.loader_file}
            slot = {**named, "type": "COMBO", "widget": named, "link": entry["link"]}
            loader["inputs"].append(slot)
        else:
            level.remove_link(entry["link"], instances)
    node["type"] = change.bridge
    node["inputs"] = [{"name": change.wire, "type": change.socket, "link": link}]
    node["properties"] = {"Node name for S&R": change.bridge}
    node["widgets_values"] = []
    node.pop("widgets_values_named", None)
    return number


def _loader(
    number: int, node: Mapping[str, Json], change: Exchange, widgets: Mapping[str, str]
) -> dict[str, Json]:
    """Our loader, left of the node whose file it takes over."""
    x, y = _position(node)
    properties = node.get("properties") or {}
    models = {"models": properties["models"]} if "models" in properties else {}
    return {
        "id": number,
        "type": change.loader,
        "pos": [x - _LEFT, y],
        "size": [340, 110],
        "flags": {},
        "order": node.get("order", 0),
        "mode": node.get("mode", 0),
        "inputs": [],
        "outputs": [],
        "properties": {"Node name for S&R": change.loader, **models},
        "widgets_values": list(widgets.values()),
    }


def _position(node: Mapping[str, Json]) -> tuple[float, float]:
    at = node.get("pos")
    values = [at.get("0"), at.get("1")] if isinstance(at, dict) else [*list_of(at), 0, 0][:2]
    x, y = (v if isinstance(v, (int, float)) else 0 for v in values)
    return x, y


def _move_promoted(levels: Sequence[UILevel], moved: _Moved) -> None:
    """Point widgets that subgraphs promote from old loaders at our loaders."""
    ids = {level.id for level in levels if not level.root}
    for level in levels:
        for node in level.nodes:
            kind = str(node.get("type"))
            promoted = as_object(node.get("properties"), "properties").get("proxyWidgets")
            if kind in ids and isinstance(promoted, list):
                entries = map(_renamer(kind, moved), promoted)
                node["properties"]["proxyWidgets"] = [e for e in entries if e is not None]


def _renamer(kind: str, moved: _Moved) -> Callable[[list[Json]], list[Json] | None]:
    """kind -> a function that renames a promoted widget, or drops it: None."""
    replaced = {node for level, node, _ in moved if level == kind}

    def rename(entry: list[Json]) -> list[Json] | None:
        if not isinstance(entry, list) or len(entry) < 2:
            return entry
        node, widget = str(entry[0]), str(entry[1])
        target = moved.get((kind, node, widget))
        if target is not None:
            return [str(target[0]), target[1], *entry[2:]]
        return None if node in replaced else entry

    return rename
