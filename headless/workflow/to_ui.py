"""Write the UI form (0.4) of an API graph; ComfyUI's page turns it back into the same graph.

Facts of the page that are encoded here: sockets come before widgets, required inputs before
optional ones; widgets_values is positional over all widgets, linked ones included; a number or
combo with control_after_generate, and an INT named seed or noise_seed, has one more slot ("fixed");
a class with an upload combo has one more at the end ("image"). Bends of wires ("reroutes") change
no graph. layout.py places the nodes, wires.py finds the bends, parse_ui.py reads UI graphs.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping
from dataclasses import replace

from ...errors import InkstoneError
from ..core_nodes.registry import CORE_NODES
from ..graph.api_graph import Graph, Link, Node, parse_graph, to_api, with_defaults
from ..graph.input_values import default_value, schema_of, socket_type
from ..graph.validation import validate
from ..node_types import Json, NodeClasses, SchemaInput, Value
from .app_mode import app_data
from .layout import FRAME_TITLE, GAP, NOTE_COLORS, Layout, Placement, place
from .node_sizes import ROW, SLOT, TITLE, has_control, rows_of
from .stages import prompt_colors
from .wires import MOST, Course, Point, Wire

VIEW, EDGES = (1920, 1080), (80, 120, 50, 60)  # the page's canvas; what its own bars cover of it
LARGEST = 1.0  # zoom at which a graph opens


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
    placement = place(graph, nodes, layout, depths)
    links = _Links(graph, nodes)
    order = sorted(graph, key=lambda key: (depths[key], int(key)))
    schemas = {kind: schema_of(nodes[kind]) for kind in {n.class_type for n in graph.values()}}
    colors = prompt_colors(graph, schemas)
    entries = [
        _node(graph[key], nodes, links)
        | _pos_and_size(placement.boxes[key])
        | {"order": index}
        | (dict(zip(("color", "bgcolor"), colors[key])) if key in colors else {})
        for index, key in enumerate(order)
    ]
    for entry in entries:
        _mark_pack(entry, layout.pack)
    last = max(map(int, graph))
    entries += _notes(layout, placement, last, len(entries))
    return {
        "id": str(uuid.uuid5(uuid.NAMESPACE_URL, json.dumps(to_api(graph), sort_keys=True))),
        "revision": 0,
        "last_node_id": last + len(layout.notes),
        "last_link_id": len(links.table),
        "nodes": entries,
        "links": links.table,
        "groups": _frames(placement),
        "config": {},
        "extra": {
            "ds": _view(placement),
            **_bends(placement, links.table),
            "linearMode": False,
            "linearData": app_data(graph, schemas, depths),
            **({"inkstone": {"name": layout.name}} if layout.name else {}),
        },
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


class _Links:
    """The link table, and the link ids by input (node, name) and output (node, slot)."""

    def __init__(self, graph: Graph, nodes: NodeClasses) -> None:
        self.table: list[list[int | str]] = []
        self.into: dict[tuple[str, str], int] = {}
        self.out_of: dict[tuple[str, int], list[int]] = {}
        for key, node in graph.items():
            rows = rows_of(node, nodes[node.class_type])
            slots = rows.sockets + [w for w in rows.widgets if not w.socketless]
            for slot, item in enumerate(slots):
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
    rows = rows_of(node, node_class)
    slots = [_slot(item, links.into.get((node.id, item.id))) for item in rows.sockets]
    for item in rows.widgets:
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
        "widgets_values": _widget_values(node.inputs, rows.widgets),
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


def _pos_and_size(box: tuple[int, int, int, int]) -> dict[str, Json]:
    return {"pos": [box[0], box[1]], "size": [box[2], box[3]]}


def _frames(placement: Placement) -> list[dict[str, Json]]:
    return [
        {
            "id": number,
            "title": block.title,
            "color": block.color,
            "bounding": list(box),
            "font_size": 24,
            "flags": {},
        }
        for number, (block, box) in enumerate(
            ((block, box) for block, box in placement.frames if block.title), 1
        )
    ]


def _view(placement: Placement) -> dict[str, Json]:
    """Zoom and offset at which a page of 1920x1080 shows all of it."""
    boxes = [box for _, box in placement.frames]
    boxes += [(x, y - TITLE, w, h + TITLE) for x, y, w, h in placement.notes]
    left, top = min(box[0] for box in boxes), min(box[1] for box in boxes)
    width = max(box[0] + box[2] for box in boxes) - left
    height = max(box[1] + box[3] for box in boxes) - top
    free = VIEW[0] - EDGES[0] - EDGES[2], VIEW[1] - EDGES[1] - EDGES[3]
    scale = min(LARGEST, free[0] / width, free[1] / height)
    scale = max(0.1, int(scale * 100) / 100)
    x = EDGES[0] + max(0, free[0] - width * scale) / 2
    y = EDGES[1] + max(0, free[1] - height * scale) / 2
    return {"scale": scale, "offset": [round(x / scale - left), round(y / scale - top)]}


def _course(placement: Placement) -> Course:
    """The free space between nodes: in either look, notes included."""
    boxes, beside = {}, {}
    columns = [c for block in placement.blocks for c in block.columns]
    for column in columns:
        right = column.x + column.width
        edges = (column.x - GAP // 2, right + GAP // 2)
        for key in column.nodes:
            y = placement.boxes[key][1]
            boxes[key] = (column.x, y - TITLE, right, y + placement.rooms[key])
            beside[key] = edges
    for number, (x, y, width, height) in enumerate(placement.notes):
        boxes[f"note {number}"] = (x, y - TITLE, x + width, y + height)
    titles = [(top, top + FRAME_TITLE) for _, (_, top, _, _) in placement.frames]
    return Course(boxes, beside, titles)


def _bends(placement: Placement, links: list[list[int | str]]) -> dict[str, Json]:
    """The page's reroutes, and which link goes through which."""
    if len(links) > MOST:
        return {}
    course = _course(placement)
    reroutes: list[dict[str, Json]] = []
    extensions = []
    shared: dict[tuple[int, int, Point], dict[str, Json]] = {}
    for wire in sorted(_wires(placement, links), key=lambda w: abs(w.end[0] - w.start[0])):
        parent: dict[str, Json] | None = None
        for point in course.bends(wire):
            origin = int(wire.origin[0]), wire.origin[1], point
            reroute = shared.get(origin)
            if reroute is None or parent is not None:
                reroute = {"id": len(reroutes) + 1, "pos": list(point), "linkIds": []}
                if parent is not None:
                    reroute["parentId"] = parent["id"]
                reroutes.append(reroute)
                shared.setdefault(origin, reroute)
            reroute["linkIds"].append(wire.number)
            parent = reroute
        if parent is not None:
            extensions.append({"id": wire.number, "parentId": parent["id"]})
    return {"reroutes": reroutes, "linkExtensions": extensions} if reroutes else {}


def _wires(placement: Placement, links: list[list[int | str]]) -> list[Wire]:
    """The wires from socket to socket."""
    wires = []
    for number, origin, slot, target, at, _ in links:
        x, y, width, _ = placement.boxes[str(origin)]
        to, level, _, _ = placement.boxes[str(target)]
        start = (x + width, y + SLOT + ROW * int(slot))
        end = (to, level + SLOT + ROW * int(at))
        wires.append(Wire(int(number), (str(origin), int(slot)), str(target), start, end))
    return wires


def _notes(layout: Layout, placement: Placement, last: int, order: int) -> list[dict[str, Json]]:
    return [
        {
            "id": last + 1 + index,
            "type": "MarkdownNote",
            **_pos_and_size(box),
            "flags": {},
            "order": order + index,
            "mode": 0,
            "inputs": [],
            "outputs": [],
            "title": note.title,
            "properties": {},
            "widgets_values": [note.text],
            "color": NOTE_COLORS[0],
            "bgcolor": NOTE_COLORS[1],
        }
        for index, (note, box) in enumerate(zip(layout.notes, placement.notes))
    ]
