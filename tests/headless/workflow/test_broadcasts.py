"""Wires of cg-use-everywhere: links where the file holds them, else named."""

from __future__ import annotations

import pytest

from inkstone.headless.workflow.node_info import Interface, Socket, Widget
from inkstone.headless.workflow.parse_ui import parse_workflow
from inkstone.headless.workflow.to_api import Flattener

from ...support.ui_builder import graph, node, subgraph

CLASSES = {
    "Load": Interface("Load", (Widget("name", "STRING", ""),), ("MODEL", "CLIP")),
    "Save": Interface("Save", (Socket("model", "MODEL"),), (), "", ("model",)),
    "Use": Interface("Use", (Socket("model", "MODEL"), Socket("clip", "CLIP")), ("MODEL",)),
}
WIRE = {"upstream": "1", "upstream_slot": 0, "controller": 2, "type": "MODEL"}
TO_SAVE = WIRE | {"downstream": 3, "downstream_slot": 0}


def sheet(kind: str = "Anything Everywhere", mode: int = 0, link: int | None = None) -> list[dict]:
    return [
        node(1, "Load", ["q"], [], ["MODEL", "CLIP"]),
        node(2, kind, [], [("anything", "*", 1)], [], mode=mode),
        node(3, "Save", [], [("model", "MODEL", link)]),
        node(4, "Use", [], [("model", "MODEL", None), ("clip", "CLIP", None)], ["MODEL"]),
    ]


def converted(nodes: list[dict], wires: object, *links: list) -> dict:
    extra = {} if wires is None else {"ue_links": wires}
    ui = graph(nodes, [[1, 1, 0, 2, 0, "MODEL"], *links], extra=extra)
    return Flattener(parse_workflow(ui), CLASSES).api()


@pytest.mark.parametrize(
    "kind", ["Anything Everywhere", "Anything Everywhere?", "Prompts Everywhere"]
)
def test_stored_wires_are_links(kind, caplog):
    to_use = WIRE | {"downstream": "4", "downstream_slot": 0}
    api = converted(sheet(kind), [TO_SAVE, to_use])
    assert api["3"]["inputs"] == {"model": ["1", 0]} and api["4"]["inputs"] == {"model": ["1", 0]}
    assert list(api) == ["1", "3", "4"] and not caplog.records


def test_a_node_that_sends_its_own_output():
    nodes = sheet()
    nodes[0]["properties"]["ue_convert"] = True
    wire = {"downstream": 4, "downstream_slot": 1, "upstream": "1", "upstream_slot": 1}
    api = converted(nodes, [wire | {"controller": 1, "type": "CLIP"}])
    assert api["4"]["inputs"] == {"clip": ["1", 1]}


def test_wires_inside_a_subgraph_come_from_its_inputs_and_go_to_its_outputs():
    send = node(2, "Anything Everywhere", [], [("anything", "MODEL", 1)])
    inner = [send, node(3, "Save", [], [("model", "MODEL", None)])]
    held = subgraph(
        "sub", inner, [[1, -10, 0, 2, 0, "MODEL"]], [("m", "MODEL", [1])], [("o", "MODEL", [])]
    )
    wire = WIRE | {"upstream": "-10"}
    held["extra"] = {"ue_links": [wire | {"downstream": k, "downstream_slot": 0} for k in (3, -20)]}
    nodes = [
        node(1, "Load", ["q"], [], ["MODEL", "CLIP"]),
        node(5, "sub", [], [("m", "MODEL", 1)], ["MODEL"]),
        node(6, "Save", [], [("model", "MODEL", 2)]),
    ]
    links = [[1, 1, 0, 5, 0, "MODEL"], [2, 5, 0, 6, 0, "MODEL"]]
    ui = graph(nodes, links, definitions={"subgraphs": [held]})
    api = Flattener(parse_workflow(ui), CLASSES).api()
    assert api["5:3"]["inputs"] == api["6"]["inputs"] == {"model": ["1", 0]}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"controller": 4}, "node 4 sends nothing"),
        ({"controller": 9}, "node 9 sends nothing"),
        ({"upstream": "4"}, "node 2 is not connected to that output"),
        ({"upstream_slot": 1}, "node 2 is not connected to that output"),
        ({"downstream_slot": 7}, "a node has no such socket"),
        ({"downstream": 8}, "a node has no such socket"),
        ({"downstream": 4, "downstream_slot": 1}, "the types differ"),
        ({"downstream_slot": -1}, "it is no wire"),
        ({"type": None}, "it is no wire"),
    ],
)
def test_a_stored_wire_that_does_not_fit_is_named(change, words, caplog):
    assert not converted(sheet(), [TO_SAVE | change])["3"]["inputs"]
    assert f"is not in the API graph, because {words}" in caplog.text


@pytest.mark.parametrize("mode", [2, 4])
def test_a_muted_sender_sends_nothing(mode, caplog):
    assert not converted(sheet(mode=mode), [TO_SAVE])["3"]["inputs"]
    assert "node 2 sends nothing" in caplog.text


def test_a_real_link_and_two_wires_to_one_input(caplog):
    api = converted(sheet(link=2), [TO_SAVE], [2, 4, 0, 3, 0, "MODEL"])
    assert api["3"]["inputs"] == {"model": ["4", 0]} and "a link goes there" in caplog.text
    assert not converted(sheet(), [TO_SAVE, dict(TO_SAVE)])["3"]["inputs"]
    assert "another goes there too" in caplog.text


@pytest.mark.parametrize("wires", [None, "x", {}])
def test_without_stored_wires_the_open_inputs_are_named(wires, caplog):
    converted(sheet("Anything Everywhere?"), wires)
    (line,) = [r.getMessage() for r in caplog.records if "without wires" in r.getMessage()]
    assert line.startswith("node 2: Anything Everywhere? connects inputs without wires")
    assert "It may feed, in the graph: 3.model, 4.model." in line
