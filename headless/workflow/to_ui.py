"""Write the UI form (0.4) of an API graph; ComfyUI's page turns it back into the same graph.

Facts of the page that are encoded here: sockets come before widgets, required inputs before
optional ones; widgets_values is positional over all widgets, linked ones included; a number or
combo with control_after_generate, and an INT named seed or noise_seed, has one more slot ("fixed");
a class with an upload combo has one more at the end ("image"). Layout: one strip per group from
left to right, inside a strip one column per depth; the gap below a node leaves room for the taller
nodes of "Nodes 2.0". parse_ui.py reads UI graphs.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from ...errors import InkstoneError
from ..core_nodes.registry import CORE_NODES
from ..graph.api_graph import Graph, Link, Node, parse_graph, to_api, with_defaults
from ..graph.input_values import SEED_NAMES, default_value, is_widget, schema_of, socket_type
from ..graph.validation import validate
from ..node_types import Json, NodeClass, NodeClasses, SchemaInput, Value

TITLE, ROW, WIDGET, TEXT_BOX, PICTURE = 30, 20, 24, 110, 260  # heights in the page's units
WIDTH, GAP, MARGIN = 320, 40, 20
NEWER_WIDGET, NEWER_EDGE = 28, 38  # as the page's "Nodes 2.0" draws them, measured in 1.58
WIDEST, LABEL, LETTER = 520, 160, 6.6  # wide enough for the file names, measured on both pages

Box = tuple[int, int, int, int]  # x, y, width, height


@dataclass(frozen=True)
class NodeGroup:
    """A coloured frame around nodes (API ids)."""

    title: str
    nodes: tuple[str, ...]
    color: str = "#3f789e"


@dataclass(frozen=True)
class Note:
    """A box of Markdown, drawn left of the graph."""

    text: str
    title: str = "Note"
    size: tuple[int, int] = (420, 320)


@dataclass(frozen=True)
class Layout:
    """Facts that the API graph lacks: frames, notes, sizes by id, the pack's registry id."""

    groups: tuple[NodeGroup, ...] = ()
    notes: tuple[Note, ...] = ()
    sizes: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    pack: str = ""


def ui_from_api(
    api_graph: Mapping[str, Json], nodes: NodeClasses, layout: Layout | None = None
) -> dict[str, Json]:
    """The UI 0.4 JSON of an API graph. Widgets without a value get their defaults.

    Deterministic: equal graphs give equal files. Raises GraphError for a graph that cannot run, and
    InkstoneError for ids that are not whole numbers (the page numbers its nodes).
    """
    layout = layout or Layout()
    graph = full_graph(api_graph, nodes)
    depths = _depths(graph)
    boxes, frames = _place(graph, nodes, layout, depths)
    links = _Links(graph, nodes)
    order = sorted(graph, key=lambda key: (depths[key], int(key)))
    entries = [
        _node(graph[key], nodes, links) | _pos_and_size(boxes[key]) | {"order": index}
        for index, key in enumerate(order)
    ]
    for entry in entries:
        _mark_pack(entry, layout.pack)
    last = max(map(int, graph))
    entries += _notes(layout.notes, last, len(entries))
    return {
        "id": str(uuid.uuid5(uuid.NAMESPACE_URL, json.dumps(to_api(graph), sort_keys=True))),
        "revision": 0,
        "last_node_id": last + len(layout.notes),
        "last_link_id": len(links.table),
        "nodes": entries,
        "links": links.table,
        "groups": frames,
        "config": {},
        "extra": {"ds": {"scale": 0.8, "offset": [40, 60]}},
        "version": 0.4,
    }


def full_graph(api_graph: Mapping[str, Json], nodes: NodeClasses) -> Graph:
    """The checked graph with every widget and title written out, as in the page's own export.

    Combos are not checked: the files that a workflow names need not be on this machine.
    """
    graph = validate(with_defaults(parse_graph(dict(api_graph)), nodes), nodes, choices=False)
    graph = {key: replace(node, title=_title(node, nodes)) for key, node in graph.items()}
    invalid = [key for key in graph if not key.isdecimal() or int(key) == 0]
    if invalid:
        raise InkstoneError(
            f"Node ids must be whole numbers from 1 for the page, got {invalid[:5]}. Rename them."
        )
    return graph


def _title(node: Node, nodes: NodeClasses) -> str:
    """The node's own title, else the class's display name."""
    display_name = schema_of(nodes[node.class_type]).display_name
    return display_name if display_name and node.title == node.class_type else node.title


def _inputs(node: Node, node_class: NodeClass) -> tuple[list[SchemaInput], list[SchemaInput]]:
    """(sockets, widgets) in the page's order. Of a growing input ("images.picture_1", ...) only the
    sockets in use: the page adds a free one, and would show others as unknown inputs.
    """
    items = sorted(schema_of(node_class).inputs or [], key=lambda item: bool(item.optional))
    sockets = [i for i in items if not is_widget(i) and ("." not in i.id or i.id in node.inputs)]
    return sockets, [i for i in items if is_widget(i)]


class _Links:
    """The link table, and the link ids by input (node, name) and output (node, slot)."""

    def __init__(self, graph: Graph, nodes: NodeClasses) -> None:
        self.table: list[list[int | str]] = []
        self.into: dict[tuple[str, str], int] = {}
        self.out_of: dict[tuple[str, int], list[int]] = {}
        for key, node in graph.items():
            sockets, widgets = _inputs(node, nodes[node.class_type])
            for slot, item in enumerate(sockets + [w for w in widgets if not w.socketless]):
                link = node.inputs.get(item.id)
                if isinstance(link, Link):
                    outputs = schema_of(nodes[graph[link.node].class_type]).outputs or []
                    kind, number = socket_type(outputs[link.slot]), len(self.table) + 1
                    self.table.append([number, int(link.node), link.slot, int(key), slot, kind])
                    self.into[key, item.id] = number
                    self.out_of.setdefault((link.node, link.slot), []).append(number)


def _node(node: Node, nodes: NodeClasses, links: _Links) -> dict[str, Json]:
    node_class = nodes[node.class_type]
    schema = schema_of(node_class)
    sockets, widgets = _inputs(node, node_class)
    slots = [_slot(item, links.into.get((node.id, item.id))) for item in sockets]
    for item in widgets:
        if not item.socketless:
            slot = _slot(item, links.into.get((node.id, item.id)))
            slots.append(slot | {"widget": {"name": item.id}})
    entry = {
        "id": int(node.id),
        "type": node.class_type,
        "flags": {},
        "mode": 0,
        "inputs": slots,
        "outputs": [
            {
                "name": item.display_name or socket_type(item),
                "type": socket_type(item),
                "slot_index": index,
                "links": links.out_of.get((node.id, index)),
            }
            for index, item in enumerate(schema.outputs or [])
        ],
        "properties": {"Node name for S&R": node.class_type},
        "widgets_values": _widget_values(node.inputs, widgets),
    }
    if node.title not in (node.class_type, schema.display_name):
        entry["title"] = node.title
    return entry


def _slot(item: SchemaInput, link: int | None) -> dict[str, Json]:
    slot: dict[str, Json] = {"name": item.id, "type": socket_type(item), "link": link}
    if item.display_name:
        slot["label"] = item.display_name
    return slot | ({"shape": 7} if item.optional else {})


def _widget_values(inputs: Mapping[str, Value], widgets: list[SchemaInput]) -> list[Json]:
    """Positional values; linked widgets keep their slot with the default."""
    values: list[Json] = []
    for item in widgets:
        value = inputs.get(item.id)
        values.append(default_value(item) if isinstance(value, Link) else value)
        if has_control(item):
            values.append("fixed")
    uploads = any(getattr(item, "upload", None) is not None for item in widgets)
    return values + ["image"] * uploads


def has_control(item: SchemaInput) -> bool:
    """True when the page adds a "control after generate" widget behind this one."""
    if getattr(item, "control_after_generate", None):
        return True
    return socket_type(item) == "INT" and item.id in SEED_NAMES


def _mark_pack(entry: dict[str, Json], pack: str) -> None:
    name = "comfy-core" if entry["type"] in CORE_NODES else pack
    if name:
        entry["properties"]["cnr_id"] = name


def _depths(graph: Graph) -> dict[str, int]:
    """The longest path from a node without links to each node."""
    parents = {key: {link.node for link in node.links().values()} for key, node in graph.items()}
    waits = {key: len(above) for key, above in parents.items()}
    children: dict[str, list[str]] = {key: [] for key in graph}
    for key, above in parents.items():
        for parent in above & graph.keys():
            children[parent].append(key)
    depths: dict[str, int] = {}
    ready = [key for key, count in waits.items() if not count]
    for key in ready:  # grows
        depths[key] = 1 + max((depths[parent] for parent in parents[key]), default=-1)
        for child in children[key]:
            waits[child] -= 1
            if not waits[child]:
                ready.append(child)
    if len(depths) < len(graph):
        rest = sorted(set(graph) - set(depths))
        raise InkstoneError(f"Nodes {rest} have links in a cycle or to nodes that do not exist.")
    return depths


def _place(
    graph: Graph, nodes: NodeClasses, layout: Layout, depths: dict[str, int]
) -> tuple[dict[str, Box], list[dict[str, Json]]]:
    """Boxes (x, y, width, height) by id, and the frames of the groups."""
    grouped = {key for group in layout.groups for key in group.nodes}
    unknown = sorted(grouped - set(graph))
    if unknown:
        raise InkstoneError(f"The layout's groups name nodes that are not in the graph: {unknown}.")
    rest = tuple(key for key in graph if key not in grouped)
    strips = [*layout.groups, *([NodeGroup("", rest)] if rest else [])]
    boxes: dict[str, Box] = {}
    frames: list[dict[str, Json]] = []
    x = GAP + max((note.size[0] + GAP for note in layout.notes), default=0)
    for strip in strips:
        new = _strip(graph, nodes, layout, {key: depths[key] for key in strip.nodes}, x + MARGIN)
        boxes |= new
        right = max(box[0] + box[2] for box in new.values()) + MARGIN
        bottom = max(box[1] + box[3] for box in new.values()) + MARGIN
        if strip.title:
            top = -TITLE - 50
            frames.append(
                {
                    "id": len(frames) + 1,
                    "title": strip.title,
                    "color": strip.color,
                    "bounding": [x, top, right - x, bottom - top],
                    "font_size": 24,
                    "flags": {},
                }
            )
        x = right + GAP
    return boxes, frames


def _strip(
    graph: Graph, nodes: NodeClasses, layout: Layout, depths: dict[str, int], x: int
) -> dict[str, Box]:
    """Boxes of one strip: a column per depth, nodes of a column one below the other."""
    boxes: dict[str, Box] = {}
    columns: dict[int, list[str]] = {}
    for key in graph:
        if key in depths:
            columns.setdefault(depths[key], []).append(key)
    for _, column in sorted(columns.items()):
        sizes = {key: layout.sizes.get(key) or _size(graph[key], nodes) for key in column}
        y, widest = 0, max(width for width, _ in sizes.values())
        for key, (width, height) in sizes.items():
            boxes[key] = (x, y, width if key in layout.sizes else widest, height)
            y += max(height, _newer_height(graph[key], nodes)) + TITLE + GAP
        x += widest + GAP
    return boxes


def _size(node: Node, nodes: NodeClasses) -> tuple[int, int]:
    """Width and height of a node's body from its sockets, widgets and file names."""
    schema = schema_of(node_class := nodes[node.class_type])
    sockets, widgets = _inputs(node, node_class)
    height = 10 + ROW * max(len(sockets), len(schema.outputs or [])) + WIDGET * len(widgets)
    height += WIDGET * sum(has_control(item) for item in widgets)
    height += TEXT_BOX * sum(bool(getattr(item, "multiline", False)) for item in widgets)
    has_picture = schema.is_output_node or any(
        getattr(item, "upload", None) is not None for item in widgets
    )
    values = [node.inputs.get(i.id) for i in widgets if socket_type(i) == "COMBO"]
    longest = max((len(value) for value in values if isinstance(value, str)), default=0)
    width = min(WIDEST, max(WIDTH, LABEL + round(LETTER * longest)))
    return width, height + (PICTURE if has_picture else 0)


def _newer_height(node: Node, nodes: NodeClasses) -> int:
    """The minimum height of a node's body in "Nodes 2.0"."""
    sockets, widgets = _inputs(node, node_class := nodes[node.class_type])
    rows = max(len(sockets), len(schema_of(node_class).outputs or []))
    return NEWER_EDGE + ROW * rows + NEWER_WIDGET * len(widgets)


def _pos_and_size(box: Box) -> dict[str, Json]:
    return {"pos": [box[0], box[1]], "size": [box[2], box[3]]}


def _notes(notes: tuple[Note, ...], last: int, order: int) -> list[dict[str, Json]]:
    entries: list[dict[str, Json]] = []
    y = 0
    for index, note in enumerate(notes):
        entries.append(
            {
                "id": last + 1 + index,
                "type": "MarkdownNote",
                "pos": [0, y],
                "size": list(note.size),
                "flags": {},
                "order": order + index,
                "mode": 0,
                "inputs": [],
                "outputs": [],
                "title": note.title,
                "properties": {},
                "widgets_values": [note.text],
                "color": "#432",
                "bgcolor": "#000",
            }
        )
        y += note.size[1] + TITLE + GAP
    return entries
