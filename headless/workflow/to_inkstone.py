"""`inkstone convert --to-inkstone`: core's Qwen-Image loaders in a graph exchanged for ours.

A loader becomes two nodes: ours, which reads the file, and a bridge, which stands under the old
node's id on its wires. Everything behind stays as it was. UI graphs stay UI graphs (subgraphs too),
API graphs stay API graphs. What is not exchanged is named with its reason.

Unusual: file names are looked at, nowhere else in this pack: a graph says no more of a file, and
graphs hold loaders of other models too. The loaders themselves judge by what is in the file.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ...nodes import ToCLIP, ToModel, ToVAE
from ...nodes.load import LoadDiffusionModel, LoadTextEncoder, LoadVAE

_INPUT = -10  # a subgraph's own inputs, as a node
_LEFT = 380  # how far left of the old node ours stands
_QWEN = re.compile(r"qwen", re.IGNORECASE)
_ENCODER = re.compile(r"qwen[-_ ]?2[._]?5[-_ ]?vl", re.IGNORECASE)
_NEWER = re.compile(r"qwen[-_ ]?image[-_ ]?2[._]1", re.IGNORECASE)


@dataclass(frozen=True)
class Exchange:
    """A core loader: its file widget and place, our loader and its file widget, our bridge."""

    file: str
    ours: str
    wanted: str
    wire: str
    bridge: str
    socket: str  # type of the wire between the two

    def widgets(self, name: str, variant: str) -> dict[str, Any]:
        """Values of our loader, in the page's order."""
        found: dict[str, Any] = {self.wanted: name, "dtype": "auto"}
        return found | ({"variant": variant} if self.wanted == "model" else {})


def _exchange(file: str, loader: Any, bridge: Any) -> Exchange:
    """The exchange of a core loader with this file widget, from the schemas of our two nodes."""
    socket = bridge.define_schema().inputs[0]
    (widget,) = loader.FILES
    return Exchange(file, loader.ID, widget, socket.id, bridge.ID, socket.get_io_type())


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
# starts of nodes' names that ask for core's own weights, which packed ones cannot be
REASONS = {
    start: "merges or saves the weights of a model, which ours keeps packed"
    for start in ("ModelMerge", "ModelSave", "ModelAdd", "ModelSubtract", "CheckpointSave")
}
NEWER = "TextEncodeQwenImage21"  # of a graph for Qwen-Image-2.1


def to_inkstone(graph: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """The graph with our loaders, and one line for each exchange and each thing left as it is.

    graph: UI JSON (it has "nodes") or an API graph. The one that comes in stays as it is.
    """
    made = copy.deepcopy(dict(graph))
    return _ui(made) if isinstance(made.get("nodes"), list) else _api(made)


def _variant(kinds: set[str], methods: set[str]) -> str:
    """What a graph's encode nodes say of its model."""
    if "index_timestep_zero" in methods:
        return "edit-2511"
    if "TextEncodeQwenImageEditPlus" in kinds:
        return "edit-2509"
    return "edit" if "TextEncodeQwenImageEdit" in kinds else "auto"


@dataclass(frozen=True)
class _Whole:
    """What the nodes of a whole graph say: the variant of its model, and what stands against an
    exchange."""

    variant: str
    newer: bool
    lines: tuple[str, ...]  # of nodes that need core's own network

    def why_not(self, change: Exchange, name: str) -> str:
        """Why a loader stays; "" where it is exchanged."""
        if self.newer or _NEWER.search(name):
            return "is of Qwen-Image-2.1, another network that is not in this version"
        if self.lines and change.wanted == "model":
            return self.lines[0].rstrip(".")
        mark = _ENCODER if change.wanted == "text_encoder" else _QWEN
        return "" if mark.search(name) else "is not of Qwen-Image, by its name"


def _whole(kinds: set[str], methods: set[str]) -> _Whole:
    lines = tuple(
        f"{kind} {reason}."
        for kind in sorted(kinds)
        for start, reason in REASONS.items()
        if kind.startswith(start)
    )
    return _Whole(_variant(kinds, methods), NEWER in kinds, lines)


def _notes(done: list[str], kept: list[str]) -> list[str]:
    return (done or ["nothing was exchanged"]) + kept


# --- API graphs


def _api(graph: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    nodes = {key: node for key, node in graph.items() if isinstance(node, dict)}
    kinds = {str(node.get("class_type")) for node in nodes.values()}
    inputs = [node.get("inputs") or {} for node in nodes.values()]
    methods = {str(i.get("reference_latents_method")) for i in inputs}
    whole, done, kept = _whole(kinds, methods), [], []
    fresh = 1 + max((int(k) for k in nodes if k.isdecimal()), default=0)
    for key, node in nodes.items():
        change = EXCHANGES.get(str(node.get("class_type")))
        if change is None:
            continue
        values = node.get("inputs") or {}
        name, old = values.get(change.file), node["class_type"]
        why = whole.why_not(change, name) if isinstance(name, str) else "takes its file by a wire"
        if why:
            kept.append(f"{key}: {old} {name} stays: {why}")
            continue
        widgets = change.widgets(name, whole.variant)
        graph[str(fresh)] = {"class_type": change.ours, "inputs": widgets}
        graph[key] = {"class_type": change.bridge, "inputs": {change.wire: [str(fresh), 0]}}
        done.append(_said(key, old, name, change, whole.variant))
        fresh += 1
    return graph, _notes(done, kept)


def _said(key: object, old: str, name: object, change: Exchange, variant: str) -> str:
    as_ = f", variant {variant}" if change.wanted == "model" and variant != "auto" else ""
    return f"{key}: {old} {name} -> {change.ours} and {change.bridge}{as_}"


# --- UI graphs


@dataclass
class _Page:
    """A level of a UI graph: the root (links are lists) or a subgraph (links are objects)."""

    level: dict[str, Any]
    root: bool

    @property
    def nodes(self) -> list[dict[str, Any]]:
        return self.level["nodes"]

    def fresh(self, what: str) -> int:
        """A new id of a node or a link."""
        if self.root:
            key, holder = f"last_{what.lower()}_id", self.level
        else:
            key, holder = f"last{what}Id", self.level.setdefault("state", {})
        used = [n["id"] for n in self.nodes] if what == "Node" else [x["id"] for x in self.links()]
        whole = [i for i in used if isinstance(i, int)]
        holder[key] = max([holder.get(key) or 0, *whole]) + 1
        return holder[key]

    def links(self) -> Iterator[dict[str, Any]]:
        """All links as objects; those of the root are copies."""
        names = ("id", "origin_id", "origin_slot", "target_id", "target_slot", "type")
        for link in self.level.get("links") or []:
            yield link if isinstance(link, dict) else dict(zip(names, link))

    def add(self, origin: int, target: int, kind: str) -> int:
        """A link from slot 0 to slot 0."""
        number = self.fresh("Link")
        made = {
            "id": number,
            "origin_id": origin,
            "origin_slot": 0,
            "target_id": target,
            "target_slot": 0,
            "type": kind,
        }
        self.level.setdefault("links", []).append(list(made.values()) if self.root else made)
        return number

    def retarget(self, number: int, node: int, slot: int) -> None:
        """Ends a link at another node."""
        for link in self.level["links"]:
            if isinstance(link, dict) and link["id"] == number:
                link["target_id"], link["target_slot"] = node, slot
            elif isinstance(link, list) and link[0] == number:
                link[3], link[4] = node, slot

    def cut(self, number: int, instances: Sequence[dict[str, Any]]) -> None:
        """Takes a link out; an input of the subgraph that fed nothing else goes with it, here and
        where the subgraph stands.
        """
        link = next((x for x in self.links() if x["id"] == number), None)
        self.level["links"] = [
            x for x in self.level["links"] if (x["id"] if isinstance(x, dict) else x[0]) != number
        ]
        if self.root or link is None or link["origin_id"] != _INPUT:
            return
        slot, entries = link["origin_slot"], self.level["inputs"]
        entries[slot]["linkIds"] = [i for i in entries[slot].get("linkIds") or [] if i != number]
        if entries[slot]["linkIds"]:
            return
        place = sum(map(self._is_widget, range(slot)))
        gone = entries.pop(slot)
        for other in self.level["links"]:
            if other["origin_id"] == _INPUT and other["origin_slot"] > slot:
                other["origin_slot"] -= 1
        for node in instances:
            node["inputs"] = [x for x in node.get("inputs") or [] if x.get("name") != gone["name"]]
            values = node.get("widgets_values")
            if isinstance(values, list) and place < len(values):
                del values[place]

    def _is_widget(self, slot: int) -> bool:
        """An input of this subgraph that shows a widget of a node inside."""
        nodes = {node["id"]: node for node in self.nodes}
        for link in self.links():
            if link["origin_id"] == _INPUT and link["origin_slot"] == slot:
                inner = (nodes.get(link["target_id"]) or {}).get("inputs") or []
                return any(x.get("link") == link["id"] and x.get("widget") for x in inner)
        return False


def _ui(graph: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    subgraphs = (graph.get("definitions") or {}).get("subgraphs") or []
    pages = [_Page(graph, True), *(_Page(level, False) for level in subgraphs)]
    kinds = {str(n.get("type")) for page in pages for n in page.nodes}
    methods = {
        str(v)
        for page in pages
        for n in page.nodes
        for v in _values(n)
        if str(n.get("type")) == "FluxKontextMultiReferenceLatentMethod"
    }
    whole, done, kept, renamed = _whole(kinds, methods), [], [], {}
    for page in pages:
        for node in list(page.nodes):
            change = EXCHANGES.get(str(node.get("type")))
            if change is None:
                continue
            name = next((v for v in _values(node) if isinstance(v, str)), "")
            why = whole.why_not(change, name)
            if why:
                kept.append(f"{node['id']}: {node['type']} {name} stays: {why}")
                continue
            done.append(_said(node["id"], node["type"], name, change, whole.variant))
            same = [n for p in pages for n in p.nodes if n.get("type") == page.level.get("id")]
            ours = _split(page, node, change, change.widgets(name, whole.variant), same)
            renamed[str(page.level.get("id")), str(node["id"]), change.file] = ours, change.wanted
    _promote(pages, renamed)
    return graph, _notes(done, kept)


def _values(node: Mapping[str, Any]) -> list[Any]:
    values = node.get("widgets_values")
    return list(values.values() if isinstance(values, dict) else values or [])


def _split(
    page: _Page,
    node: dict[str, Any],
    change: Exchange,
    widgets: Mapping[str, Any],
    instances: Sequence[dict[str, Any]],
) -> int:
    """Our loader beside the node, which becomes the bridge; returns the loader's id."""
    number = page.fresh("Node")
    link = page.add(number, node["id"], change.socket)
    linked: list[dict[str, Any]] = []
    # before the wires change: what is counted below looks at the nodes at their ends
    page.nodes.append(_loader(number, node, change, widgets, linked, link))
    for entry in node.get("inputs") or []:
        if entry.get("link") is None:
            continue
        if (entry.get("widget") or {}).get("name", entry.get("name")) == change.file:
            page.retarget(entry["link"], number, 0)
            shown = {"name": change.wanted}
            linked.append({**shown, "type": "COMBO", "widget": shown, "link": entry["link"]})
        else:
            page.cut(entry["link"], instances)
    node["type"] = change.bridge
    node["inputs"] = [{"name": change.wire, "type": change.socket, "link": link}]
    node["properties"] = {"Node name for S&R": change.bridge}
    node["widgets_values"] = []
    node.pop("widgets_values_named", None)
    return number


def _loader(
    number: int,
    node: Mapping[str, Any],
    change: Exchange,
    widgets: Mapping[str, Any],
    linked: list[dict[str, Any]],
    link: int,
) -> dict[str, Any]:
    """Our loader, left of the node that it takes the file of."""
    x, y = _place(node)
    properties = node.get("properties") or {}
    models = {k: properties[k] for k in ("models",) if k in properties}
    return {
        "id": number,
        "type": change.ours,
        "pos": [x - _LEFT, y],
        "size": [340, 110],
        "flags": {},
        "order": node.get("order", 0),
        "mode": node.get("mode", 0),
        "inputs": linked,
        "outputs": [{"name": change.wire, "type": change.socket, "links": [link]}],
        "properties": {"Node name for S&R": change.ours, **models},
        "widgets_values": list(widgets.values()),
    }


def _place(node: Mapping[str, Any]) -> tuple[float, float]:
    at = node.get("pos") or (0, 0)
    return (at.get("0", 0), at.get("1", 0)) if isinstance(at, dict) else (at[0], at[1])


def _promote(pages: list[_Page], renamed: Mapping[tuple[str, str, str], tuple[int, str]]) -> None:
    """Widgets of old loaders that a subgraph shows outside become those of ours."""
    ids = {str(page.level.get("id")): page for page in pages if not page.root}
    for page in pages:
        for node in page.nodes:
            kind = str(node.get("type"))
            shown = (node.get("properties") or {}).get("proxyWidgets")
            if kind not in ids or not isinstance(shown, list):
                continue
            level = ids[kind]
            node["properties"]["proxyWidgets"] = [
                e for e in map(_renamer(kind, level, renamed), shown) if e is not None
            ]


def _renamer(
    kind: str, page: _Page, renamed: Mapping[tuple[str, str, str], tuple[int, str]]
) -> Callable[[list], list | None]:
    exchanged = {node for level, node, _ in renamed if level == kind}

    def rename(entry: list) -> list | None:
        found = renamed.get((kind, str(entry[0]), str(entry[1])))
        if found is not None:
            return [str(found[0]), found[1], *entry[2:]]
        return None if str(entry[0]) in exchanged else entry

    return rename
