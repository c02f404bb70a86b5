"""API graphs: every fault is named, values are converted, `--set` finds its node."""

from __future__ import annotations

import pytest

from inkstone.errors import InkstoneError
from inkstone.headless.graph.api_graph import parse_graph, to_api
from inkstone.headless.graph.input_values import GraphError
from inkstone.headless.graph.set_input import apply_set
from inkstone.headless.graph.validation import validate

from ...support.fake_nodes import ALL, CALLS, add, number, run, show

BAD_GRAPHS = {
    "unknown class": ({"1": number() | {"class_type": "Numbr"}}, ["node 1", "'Numbr'", "Number"]),
    "unknown input": (
        {"1": number(sede=3), "2": show("1")},
        ["node 1", "'sede'", "'seed' (the nearest input)"],
    ),
    "missing widget": (
        {"1": {"class_type": "Number", "inputs": {"seed": 1}}, "2": show("1")},
        ["'size'", "default 32", "got nothing"],
    ),
    "missing link": ({"2": {"class_type": "Show", "inputs": {}}}, ["'thing'", "INKSTONE_THING"]),
    "link to missing node": ({"2": show("7")}, ["node 2 (Result)", "'thing'", "node '7'"]),
    "link to missing slot": ({"1": number(), "2": show("1", 5)}, ["slot 0..1", "slot 5"]),
    "negative slot": ({"1": number(), "2": show("1", -1)}, ["slot 0..1", "slot -1"]),
    "link from a node without outputs": (
        {"1": number(), "2": show("1"), "3": show("2")},
        ["node 3", "has none"],
    ),
    "type mismatch": ({"1": number(), "2": show("1", 1)}, ["INKSTONE_THING", "INT from node 1"]),
    "constant at a socket": (
        {"2": {"class_type": "Show", "inputs": {"thing": 4}}},
        ["a link of type", "got 4"],
    ),
    "below min": ({"1": number(seed=-1), "2": show("1")}, ["'seed'", "0..100", "-1"]),
    "above max": ({"1": number(scale=2.5), "2": show("1")}, ["'scale'", "0.0..2.0", "2.5"]),
    "off the step": ({"1": number(size=40), "2": show("1")}, ["'size'", "multiple of 16", "40"]),
    "not in the combo": ({"1": number(mode="duble"), "2": show("1")}, ["'mode'", "'double'"]),
    "text for INT": ({"1": number(seed="many"), "2": show("1")}, ["whole number", "'many'"]),
    "fraction for INT": ({"1": number(seed=1.5), "2": show("1")}, ["whole number", "1.5"]),
    "NaN for FLOAT": ({"1": number(scale="nan"), "2": show("1")}, ["finite number", "nan"]),
    "word for BOOLEAN": ({"1": number(flip="maybe"), "2": show("1")}, ["true or false", "maybe"]),
    "object for STRING": (
        {"1": number(), "2": {"class_type": "Show", "inputs": {"thing": ["1", 0], "label": {}}}},
        ["'label'", "a text"],
    ),
    "cycle": ({"1": add("2"), "2": add("1"), "3": show("2")}, ["without a cycle", "1 <- 2 <- 1"]),
    "no output node": ({"1": number()}, ["no output node", "SaveImage"]),
    "malformed link": (
        {"1": {"class_type": "Show", "inputs": {"thing": ["1", 0, 2]}}},
        ["'thing'", "['1', 0, 2]"],
    ),
    "no class_type": ({"1": {"inputs": {}}}, ["node 1", "class_type"]),
    "UI graph": ({"nodes": [], "links": []}, ["UI graph", "Export (API)"]),
    "empty graph": ({}, ["empty graph"]),
    "a list": ([], ["got list"]),
    "missing picture": (
        {
            "1": {"class_type": "LoadImage", "inputs": {"image": "no.png"}},
            "2": {"class_type": "PreviewImage", "inputs": {"images": ["1", 0]}},
        },
        ["no.png", "does not exist"],
    ),
}


@pytest.mark.parametrize("name", BAD_GRAPHS)
def test_bad_graph_is_named(name, host):
    data, parts = BAD_GRAPHS[name]
    with pytest.raises(InkstoneError) as caught:
        run(data, host)
    for part in parts:
        assert part in str(caught.value)
    assert not CALLS


def test_all_faults_come_at_once():
    graph = parse_graph({"1": number(seed=-1, size=40), "2": show("1", 9)})
    with pytest.raises(GraphError) as caught:
        validate(graph, ALL)
    assert [(p.node, p.input) for p in caught.value.problems] == [
        ("1", "seed"),
        ("1", "size"),
        ("2", "thing"),
    ]


def test_values_are_converted():
    inputs = number(seed="5", size=32.0, scale=1, flip="false")
    checked = validate(parse_graph({"1": inputs, "2": show("1")}), ALL)["1"].inputs
    assert (checked["seed"], checked["size"], checked["flip"]) == (5, 32, False)
    assert isinstance(checked["scale"], float)


def test_notes_and_prompt_wrapper():
    note = {"class_type": "MarkdownNote", "inputs": {"text": "hi"}}
    graph = parse_graph({"prompt": {"1": number(), "2": show("1"), "9": note}})
    assert list(graph) == ["1", "2"]
    assert parse_graph(to_api(graph)) == graph


@pytest.mark.parametrize(
    ("setting", "key", "name", "value"),
    [
        ("1.seed=7", "1", "seed", 7),
        ("Number.scale=0.5", "1", "scale", 0.5),
        ("result.label=a=b.c", "2", "label", "a=b.c"),
        ("1.flip=no", "1", "flip", False),
    ],
)
def test_set(setting, key, name, value):
    graph = parse_graph({"1": number(), "2": show("1")})
    assert apply_set(graph, setting, ALL)[key].inputs[name] == value


@pytest.mark.parametrize(
    ("setting", "part"),
    [
        ("1.seed", "NODE.INPUT=VALUE"),
        ("1.sed=3", "'seed'"),
        ("Resolt.label=3", "Result"),
        ("1.seed=x", "whole number"),
        ("Result.thing=3", "a link"),
        ("1.mode=x", "one of 2"),
    ],
)
def test_bad_set(setting, part):
    with pytest.raises(InkstoneError, match=part):
        apply_set(parse_graph({"1": number(), "2": show("1")}), setting, ALL)


def test_set_refuses_an_ambiguous_title():
    graph = parse_graph({"1": number(), "2": number(), "3": show("1")})
    with pytest.raises(InkstoneError, match="use an id: 1, 2"):
        apply_set(graph, "Number.seed=3", ALL)
