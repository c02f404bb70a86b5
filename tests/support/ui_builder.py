"""Builds small UI graphs by hand: nodes, links and subgraph definitions as the page writes them."""

from __future__ import annotations

from typing import Any


def node(number: int, kind: str, values: Any = None, ins: Any = (), outs: Any = (), **more) -> dict:
    """ins: (name, type, link) or (name, type, link, widget); outs: types."""
    inputs = [
        {"name": i[0], "type": i[1], "link": i[2]} | ({"widget": {"name": i[3]}} if i[3:] else {})
        for i in ins
    ]
    entry = {
        "id": number,
        "type": kind,
        "pos": [0, 0],
        "size": [200, 100],
        "flags": {},
        "order": number,
        "mode": 0,
        "inputs": inputs,
        "properties": {"Node name for S&R": kind},
        "outputs": [{"name": o, "type": o, "links": None} for o in outs],
    }
    return entry | ({"widgets_values": values} if values is not None else {}) | more


def graph(nodes: list[dict], links: list[list], **more: Any) -> dict:
    """A 0.4 file; the outputs' link lists are filled in."""
    by_id = {n["id"]: n for n in nodes}
    for link in links:
        origin = by_id.get(link[1])
        if origin is not None:
            slot = origin["outputs"][link[2]]
            slot["links"] = [*(slot["links"] or []), link[0]]
    return {
        "id": "00000000-0000-0000-0000-000000000000",
        "revision": 0,
        "last_node_id": max(by_id),
        "last_link_id": max((k[0] for k in links), default=0),
        "nodes": nodes,
        "links": links,
        "groups": [],
        "config": {},
        "extra": {},
        "version": 0.4,
    } | more


def subgraph(key: str, nodes: list[dict], links: list[list], ins: list, outs: list) -> dict:
    """A definition; ins and outs: (name, type, ids of links)."""
    inner = graph(nodes, links)
    names = ("id", "origin_id", "origin_slot", "target_id", "target_slot", "type")
    ends = [
        [
            {"id": f"{key[:-1]}{n}{side}", "name": name, "type": kind, "linkIds": ids}
            for n, (name, kind, ids) in enumerate(items)
        ]
        for side, items in (("a", ins), ("b", outs))
    ]
    return {
        "id": key,
        "version": 1,
        "revision": 0,
        "config": {},
        "name": f"Sub {key[:4]}",
        "state": {
            "lastGroupId": 0,
            "lastNodeId": inner["last_node_id"],
            "lastLinkId": inner["last_link_id"],
            "lastRerouteId": 0,
        },
        "inputNode": {"id": -10, "bounding": [0, 0, 100, 100]},
        "outputNode": {"id": -20, "bounding": [900, 0, 100, 100]},
        "inputs": ends[0],
        "outputs": ends[1],
        "widgets": [],
        "nodes": nodes,
        "groups": [],
        "links": [dict(zip(names, link, strict=True)) for link in links],
        "extra": {},
    }


def empty(number: int, link: int | None = None, **more) -> dict:
    """EmptyImage; `link` goes into its width."""
    ins = [("width", "INT", link, "width")]
    return node(number, "EmptyImage", [64, 32, 1, 255], ins, ["IMAGE"], **more)


def save(number: int, link: int | None, prefix: str = "x", **more) -> dict:
    return node(number, "SaveImage", [prefix], [("images", "IMAGE", link)], **more)


def batch(number: int, a: int | None, b: int | None, **more) -> dict:
    ins = [("image1", "IMAGE", a), ("image2", "IMAGE", b)]
    return node(number, "ImageBatch", None, ins, ["IMAGE"], **more)


def sink(number: int, link: int, kind: str = "*", **more) -> dict:
    return node(number, "ProbeSink", [64], [("more", kind, link)], **more)


WIDGETS = [5, "fixed", 7, "increment", "b", "randomize", "flt", "words", 0.25, False, "y", "end"]


def probe(values: Any, number: int = 1, ins: Any = (), **more) -> dict:
    return node(number, "ProbeWidgets", values, ins, ["INT", "STRING"], **more)


IMAGE = "IMAGE"
