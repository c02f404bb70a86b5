"""What a workflow file holds beyond declared inputs: kept in the API graph, or named."""

from __future__ import annotations

import pytest

from inkstone.headless.workflow.node_info import Interface, Socket, Widget
from inkstone.headless.workflow.parse_ui import parse_workflow
from inkstone.headless.workflow.text_templates import first_choices
from inkstone.headless.workflow.to_api import Flattener

from ...support.ui_builder import graph, node, subgraph

POWER, SAVE = "Power Lora Loader (rgthree)", "Save"
CLASSES = {
    "Load": Interface("Load", (Widget("name", "STRING", ""),), ("MODEL",)),
    POWER: Interface(POWER, (Socket("model", "MODEL"), Socket("clip", "CLIP")), ("MODEL",)),
    "Text": Interface("Text", (Widget("text", "STRING", "", dynamic=True),), ("MODEL",)),
    SAVE: Interface(SAVE, (Socket("model", "MODEL"),), (), "", ("model",)),
    "Rows": Interface("Rows", (Widget("first", "INT", 0),), ("MODEL",)),
    "Anything Everywhere": Interface("Anything Everywhere", (Socket("anything", "*"),)),
}
ROWS = [
    {},
    {"type": "PowerLoraLoaderHeaderWidget"},
    {"on": True, "lora": "a.safetensors", "strength": 0.8, "strengthTwo": None},
    {"on": False, "lora": None, "strength": 1, "strengthTwo": 0.5},
    {},
    "",
]


def converted(middle: dict, saved: bool = True) -> dict:
    nodes = [node(1, "Load", ["q"], [], ["MODEL"]), middle]
    nodes.append(node(3, SAVE, [], [("model", "MODEL", 2 if saved else None)]))
    links = [[1, 1, 0, 2, 0, "MODEL"], [2, 2, 0, 3, 0, "MODEL"]]
    return Flattener(parse_workflow(graph(nodes, links)), CLASSES).api()


def loader(**more) -> dict:
    return node(2, POWER, ROWS, [("model", "MODEL", 1), ("clip", "CLIP", None)], ["MODEL"], **more)


def test_rows_of_the_power_lora_loader_are_kept(caplog):
    assert converted(loader())["2"]["inputs"] == {
        "model": ["1", 0],
        "lora_1": {"on": True, "lora": "a.safetensors", "strength": 0.8},
        "lora_2": {"on": False, "lora": None, "strength": 1},
    }
    assert not caplog.records


def test_second_strength_is_sent_where_the_node_shows_it():
    properties = {"Show Strengths": "Separate Model & Clip"}
    inputs = converted(loader(properties=properties))["2"]["inputs"]
    assert inputs["lora_1"]["strengthTwo"] == 1 and inputs["lora_2"]["strengthTwo"] == 0.5


@pytest.mark.parametrize("rest", [[{"lora": "x"}], ["text"], [0.5, False], [["a", "b"]], [0]])
def test_undeclared_values_are_named(rest, caplog):
    converted(node(2, "Rows", [7, *rest], [], ["MODEL"]))
    (record,) = caplog.records
    assert record.getMessage().startswith("node 2 (Rows): values that its class does not declare")
    assert f"({len(rest)})" in record.getMessage()


@pytest.mark.parametrize("rest", [[], [None], [""], [{}, []]])
def test_places_that_hold_nothing_are_not_named(rest, caplog):
    converted(node(2, "Rows", [7, *rest], [], ["MODEL"]))
    assert not caplog.records


def test_undeclared_values_by_name_are_kept():
    values = {"first": 3, "crf": 19, "formats": ["a", "b"]}
    assert converted(node(2, "Rows", values, [], ["MODEL"]))["2"]["inputs"] == {
        "first": 3,
        "crf": 19,
        "formats": {"__value__": ["a", "b"]},
    }


@pytest.mark.parametrize("mode, saved", [(0, False), (2, True)])
def test_required_input_that_stays_empty_is_named(mode, saved, caplog):
    converted(node(2, "Rows", [7], [], ["MODEL"], mode=mode), saved)
    assert [r.getMessage() for r in caplog.records] == [
        "node 3 (Save): its required input 'model' is not connected"
    ]


def test_wires_of_a_broadcast_are_named(caplog):
    cast = node(2, "Anything Everywhere", [], [("anything", "MODEL", 1)], ["MODEL"])
    converted(cast, saved=False)
    assert "required input 'model'" in caplog.text
    assert "node 2: Anything Everywhere connects inputs without wires" in caplog.text


def test_required_input_inside_subgraphs_is_named_with_their_names(caplog):
    """Also where a link leads to an input of the subgraph that nothing is connected to."""
    held = [[1, -10, 0, 1, 0, "MODEL"]]
    inner = subgraph(
        "in", [node(1, SAVE, [], [("model", "MODEL", 1)])], held, [("m", "MODEL", [1])], []
    )
    outer = subgraph("out", [node(4, "in", [], [("m", "MODEL", None)])], [], [], [])
    ui = graph([node(9, "out", [], [])], []) | {"definitions": {"subgraphs": [inner, outer]}}
    Flattener(parse_workflow(ui), CLASSES).api()
    assert [r.getMessage() for r in caplog.records] == [
        "node 9:4:1 (Save, in Sub out > Sub in): its required input 'model' is not connected"
    ]


@pytest.mark.parametrize(
    ("text", "choices"),
    [
        ("a {red|blue} cat", ["{red|blue} -> red"]),
        ("{a {b|c}|d} {e|f}", ["{a {b|c}|d} -> a {b|c}", "{e|f} -> e"]),
        ("{|a}", ["{|a} -> "]),
        ("{only {x|y}}", ["{x|y} -> x"]),
        (r"\{a|b\} {c\|d}", []),
        ('{"key": "value"} // {a|b}', []),
        ("a | b", []),
    ],
)
def test_choices_of_a_prompt(text, choices, caplog):
    assert first_choices(text) == choices
    converted(node(2, "Text", [text], [], ["MODEL"]))
    assert len(caplog.records) == bool(choices)
    for choice in choices:
        assert f"node 2: {', '.join(choices)}" in caplog.text and choice in caplog.text


def test_choices_of_all_prompts_take_one_line(caplog):
    nodes = [node(k, "Text", [f"{{{k}|b}}"], [], ["MODEL"]) for k in range(1, 40)]
    Flattener(parse_workflow(graph(nodes, [])), CLASSES).api()
    assert len(caplog.records) == 1 and "19 more nodes" in caplog.text
