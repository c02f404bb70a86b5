"""The UI form of an API graph, read back as the page reads it."""

from __future__ import annotations

import json
import time

import pytest

from inkstone.errors import InkstoneError
from inkstone.headless.graph.api_graph import parse_graph, to_api
from inkstone.headless.workflow.blocks import NodeGroup
from inkstone.headless.workflow.layout import Layout, Note
from inkstone.headless.workflow.to_ui import _depths, full_graph, ui_from_api

from ...support.fake_nodes import ALL, number, save, show


def as_the_page_reads(ui, nodes):
    """An independent reading of the UI form: the page's rules, from the schemas and positions."""
    links = {link[0]: link for link in ui["links"]}
    api = {}
    for node in ui["nodes"]:
        if node["type"] == "MarkdownNote":
            continue
        schema = nodes[node["type"]].define_schema()
        values, inputs = list(node["widgets_values"]), {}
        for item in sorted(schema.inputs, key=lambda item: item.optional):
            if item.get_io_type() in ("INT", "FLOAT", "STRING", "BOOLEAN", "COMBO"):
                inputs[item.id] = values.pop(0)
                if getattr(item, "control_after_generate", None) or item.id in (
                    "seed",
                    "noise_seed",
                ):
                    assert values.pop(0) == "fixed"
                if getattr(item, "upload", None):
                    assert values.pop(0) == "image"
        assert not values
        for slot, entry in enumerate(node["inputs"]):
            if entry["link"] is not None:
                number_, origin, out, target, at, kind = links[entry["link"]]
                source = next(other for other in ui["nodes"] if other["id"] == origin)
                assert (target, at) == (node["id"], slot)
                assert number_ in source["outputs"][out]["links"]
                assert source["outputs"][out]["type"] == kind
                inputs[entry["name"]] = [str(origin), out]
        title = node.get("title") or schema.display_name or node["type"]
        api[str(node["id"])] = {
            "class_type": node["type"],
            "inputs": inputs,
            "_meta": {"title": title},
        }
    return api


def test_ui_form_reads_back_as_the_same_graph():
    data = {
        "1": number(7, flip=True),
        "2": {"class_type": "PrimitiveInt", "inputs": {"value": 3}},
        "3": {"class_type": "Add", "inputs": {"a": ["1", 0], "b": ["1", 0], "extra": ["2", 0]}},
        "4": show("3"),
        "6": save("8"),
        "8": {"class_type": "LoadImage", "inputs": {"image": "a.png"}},
    }
    groups = (NodeGroup("Draw", ("1", "2", "3")), NodeGroup("Out", ("4",)))
    layout = Layout(groups=groups, notes=(Note("# Files", "Files"),), pack="inkstone")
    ui = ui_from_api(data, ALL, layout)
    assert as_the_page_reads(json.loads(json.dumps(ui)), ALL) == to_api(full_graph(data, ALL))
    assert ui == ui_from_api(data, ALL, layout)
    assert [frame["title"] for frame in ui["groups"]] == ["Draw", "Out"]
    assert ui["last_node_id"] == 9
    assert not overlapping(ui["nodes"])


def overlapping(nodes):
    boxes = [
        (*n["pos"], n["pos"][0] + n["size"][0], n["pos"][1] + n["size"][1] + 30) for n in nodes
    ]
    return [
        (a, b)
        for i, a in enumerate(boxes)
        for b in boxes[:i]
        if a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]
    ]


def test_ui_form_refuses_names_as_ids():
    with pytest.raises(InkstoneError, match="whole numbers"):
        ui_from_api({"one": number(), "2": show("one")}, ALL)


@pytest.mark.slow
@pytest.mark.parametrize("backwards", [False, True])
def test_a_long_chain_takes_linear_time(backwards):
    """0.5 s; a pass over all nodes for each would take hours."""
    chain = {"1": number(), **{str(k): show(str(k - 1)) for k in range(2, 80_000)}}
    graph = parse_graph(dict(reversed(chain.items())) if backwards else chain)
    began = time.process_time()
    assert _depths(graph)["79999"] == 79_998
    assert time.process_time() - began < 10
