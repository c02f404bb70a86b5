"""Graphs that a hostile or unlucky person hands over: long, deep, wide and with odd numbers."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from inkstone.errors import CallError, InkstoneError
from inkstone.headless.core_nodes.registry import node_classes
from inkstone.headless.graph.api_graph import parse_graph
from inkstone.headless.graph.input_values import GraphError
from inkstone.headless.graph.validation import validate
from inkstone.headless.queue.job_line import parse_object
from inkstone.headless.workflow.load import find_graph, read_graph_file
from inkstone.headless.workflow.node_info import read_interfaces
from inkstone.headless.workflow.parse_ui import parse_workflow
from inkstone.headless.workflow.set_inputs import input_aliases
from inkstone.headless.workflow.text_templates import expand_choices
from inkstone.headless.workflow.to_api import Flattener

from ...support.ui_builder import IMAGE, empty, graph, node, save, subgraph
from ..cli.test_convert import PAGES

CLASSES = read_interfaces(str(PAGES / "object_info.json"))


def converted(ui: dict) -> dict:
    return Flattener(parse_workflow(ui), CLASSES).api()


def row(count: int, kind: str, mode: int = 0) -> dict:
    """EmptyImage, a row of nodes, SaveImage."""
    middle = [
        node(i, kind, [], [("image", IMAGE, i)], [IMAGE], mode=mode) for i in range(2, count + 2)
    ]
    links = [[i, i - 1, 0, i, 0, IMAGE] for i in range(2, count + 3)]
    return graph([empty(1), *middle, save(count + 2, count + 2)], links)


def nested(depth: int, instances: int = 1) -> dict:
    """Subgraphs inside one another, each with some instances of the next."""
    definitions = []
    for level in range(depth):
        inside = f"sub{level + 1}"
        last = level == depth - 1
        nodes = [
            empty(i + 1) if last else node(i + 1, inside, [], [], [IMAGE]) for i in range(instances)
        ]
        out = [[1, 1, 0, -20, 0, IMAGE]]
        definitions.append(subgraph(f"sub{level}", nodes, out, [], [("IMAGE", IMAGE, [1])]))
    nodes = [node(1, "sub0", [], [], [IMAGE]), save(2, 1)]
    whole = graph(nodes, [[1, 1, 0, 2, 0, IMAGE]])
    return whole | {"definitions": {"subgraphs": definitions}}


@pytest.mark.slow
@pytest.mark.parametrize(
    "kind, mode", [("Reroute", 0), ("Reroute (rgthree)", 0), ("ImageInvert", 4), ("Unknown", 4)]
)
def test_long_row_that_carries_no_data_is_followed(kind, mode):
    api = converted(row(3000, kind, mode))
    assert set(api) == {"1", "3002"}
    assert api["3002"]["inputs"]["images"] == ["1", 0]


def test_long_row_of_get_and_set_nodes_is_followed():
    nodes, links = [empty(1), node(2, "SetNode", ["0"], [("IMAGE", IMAGE, 1)], [IMAGE])], []
    links.append([1, 1, 0, 2, 0, IMAGE])
    for i in range(1, 1500):
        get, put = 2 * i + 1, 2 * i + 2
        nodes.append(node(get, "GetNode", [str(i - 1)], [], [IMAGE]))
        nodes.append(node(put, "SetNode", [str(i)], [("IMAGE", IMAGE, put)], [IMAGE]))
        links.append([put, get, 0, put, 0, IMAGE])
    nodes += [node(5000, "GetNode", ["1499"], [], [IMAGE]), save(5001, 9000)]
    links.append([9000, 5000, 0, 5001, 0, IMAGE])
    assert converted(graph(nodes, links))["5001"]["inputs"]["images"] == ["1", 0]


def test_many_readers_of_one_long_row_cost_it_once():
    ui = row(2000, "Reroute")
    ui["nodes"] += [save(10_000 + i, 10_000 + i) for i in range(2000)]
    ui["links"] += [[10_000 + i, 2001, 0, 10_000 + i, 0, IMAGE] for i in range(2000)]
    started = time.process_time()
    assert len(converted(ui)) == 2002
    assert time.process_time() - started < 5


def test_circle_of_reroutes_is_refused():
    ui = row(1500, "Reroute")
    ui["links"][0][1] = 1501  # the first one reads the last
    with pytest.raises(InkstoneError, match="go in a circle through node"):
        converted(ui)


@pytest.mark.parametrize("instances, depth", [(6, 7), (8, 7), (10, 10), (2, 40)])
def test_opened_subgraphs_are_counted_before_they_are_opened(instances, depth):
    with pytest.raises(InkstoneError, match=r"has \d+ nodes once its subgraphs are opened.*100000"):
        parse_workflow(nested(depth, instances))


def test_a_bomb_that_nothing_uses_does_not_count():
    ui = nested(10, 10)
    ui["nodes"][0] = empty(1)
    assert set(converted(ui)) == {"1", "2"}


@pytest.mark.slow
def test_nested_subgraphs_are_opened_up_to_a_depth():
    api = converted(nested(50))
    assert len(api) == 2 and api["2"]["inputs"]["images"] == [":".join("1" * 51), 0]
    for depth in (52, 1200):
        with pytest.raises(InkstoneError, match=r"nested \d+ deep: expected at most 50"):
            parse_workflow(nested(depth))


def test_a_long_chain_of_subgraphs_that_contains_itself_is_refused():
    ui = nested(1500)
    ui["definitions"]["subgraphs"][-1]["nodes"] = [node(1, "sub0", [], [], [IMAGE])]
    with pytest.raises(InkstoneError, match="contain themselves") as caught:
        parse_workflow(ui)
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize("slot", [-1, -8, 10**30, "7"])
@pytest.mark.parametrize("end", [2, 4])
def test_slot_of_a_link_that_no_node_has_leads_nowhere(slot, end):
    primitive = node(3, "PrimitiveNode", [3], [], ["INT"])
    off = node(4, "ImageInvert", None, [("image", IMAGE, 3)], [IMAGE], mode=4)
    links = [[1, 1, 0, 2, 0, IMAGE], [2, 3, 0, 1, 0, "INT"], [3, 1, 0, 4, 0, IMAGE]]
    ui = graph([empty(1), save(2, 1), primitive, off, save(5, 4)], [*links, [4, 4, 0, 5, 0, IMAGE]])
    for link in ui["links"]:
        link[end] = slot
    width = converted(ui)["1"]["inputs"]["width"]
    assert width == (64 if end == 4 else 3)  # a primitive has one output, whatever its number
    input_aliases(ui)


@pytest.mark.parametrize("piece", ["{", "{a|", "{{a}", "/*a", "}", "|", "\\"])
def test_braces_and_comments_take_linear_time(piece):
    started = time.process_time()
    expand_choices(piece * 20_000)
    assert time.process_time() - started < 3


def test_deep_choices_give_the_first_of_each():
    assert expand_choices("{a|" * 5000 + "b" + "}" * 5000) == "a"
    assert expand_choices("{" * 5000 + "b" + "|c}" * 5000) == "b"
    assert expand_choices("x{a{b|c}d|e}y /* gone */ z") == "xabdy  z"
    assert expand_choices("{a|b}{c|d}", lambda count: count - 1) == "bd"


@pytest.mark.parametrize("name", ["z" * 300, "a/" * 3000, "with\0zero"])
def test_name_that_no_file_can_have_is_refused(name):
    with pytest.raises(CallError, match="cannot be a graph file|no such graph file"):
        find_graph(Path(name))


@pytest.mark.slow
def test_cycle_in_a_long_api_graph_is_found_in_linear_time():
    entries = {
        str(i): {"class_type": "ImageInvert", "inputs": {"image": [str((i + 1) % 20_000), 0]}}
        for i in range(20_000)
    }
    entries["save"] = {
        "class_type": "SaveImage",
        "inputs": {"images": ["0", 0], "filename_prefix": "x"},
    }
    started = time.process_time()
    with pytest.raises(GraphError, match=r"without a cycle, got .* more\) <- ") as caught:
        validate(parse_graph(entries), node_classes())
    assert len(str(caught.value)) < 1000 and time.process_time() - started < 20


def test_job_line_of_many_names_is_read_in_linear_time():
    line = json.dumps({f"k{i}": i for i in range(50_000)})
    started = time.process_time()
    assert len(parse_object(line)) == 50_000
    assert time.process_time() - started < 3
    with pytest.raises(CallError, match='"k0" appears twice'):
        parse_object(line[:-1] + ', "k0": 1}')


@pytest.mark.parametrize("deep", [250, 900, 5000])
@pytest.mark.parametrize("start, end", [("[", "]"), ('{"a":', "}")])
def test_json_nested_too_deeply_is_refused_where_it_is_read(deep, start, end, tmp_path):
    file = tmp_path / "graph.json"
    value = start * deep + "1" + end * deep
    file.write_text('{"nodes": [{"id": 1, "type": "A", "widgets_values": [' + value + "]}]}")
    with pytest.raises(InkstoneError, match="nested too deeply: expected at most 200"):
        read_graph_file(file)


def test_json_of_usual_depth_is_read(tmp_path):
    file = tmp_path / "graph.json"
    file.write_text('{"nodes": [], "extra": ' + "[" * 150 + "]" * 150 + "}")
    assert read_graph_file(file).ui is not None
