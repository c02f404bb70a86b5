"""Widgets that subgraphs show: as the page of the version that the file names sends them.

Answers of the newest page are among those of tests/headless/cli/test_convert.py; here are those of
older ones (tests/support/pages/older.json), without four that those pages did not open or misread.
"""

from __future__ import annotations

import copy
import json
import time

import pytest

from inkstone.headless.core_nodes.registry import node_classes
from inkstone.headless.graph.api_graph import parse_graph
from inkstone.headless.workflow.node_info import read_interfaces
from inkstone.headless.workflow.parse_ui import parse_workflow
from inkstone.headless.workflow.set_inputs import apply_settings
from inkstone.headless.workflow.to_api import Flattener

from ...support.proxy_graphs import ONE, inside, instance, picture, proxy_graphs, whole
from ...support.ui_builder import IMAGE, batch
from ..cli.test_convert import PAGES

CLASSES = read_interfaces(str(PAGES / "object_info.json"))
GRAPHS = proxy_graphs()
OLDER = json.loads((PAGES / "older.json").read_text("utf-8"))


def converted(ui: dict, version: str | None = None) -> dict:
    ui = copy.deepcopy(ui)
    if version is not None:
        ui["extra"]["frontendVersion"] = version
    graph = Flattener(parse_workflow(ui), CLASSES).api()
    return {
        key: {name: value for name, value in entry.items() if name != "_meta"}
        for key, entry in graph.items()
    }


@pytest.mark.parametrize("version", OLDER)
def test_a_file_of_an_older_page_is_read_as_by_that_page(version):
    wrong = {n for n, page in OLDER[version].items() if converted(GRAPHS[n], version) != page}
    assert not wrong and len(OLDER[version]) > 30


@pytest.mark.parametrize(
    ("version", "width"),
    [("1.27.10", 256), ("1.41.5", 256), ("1.45.21", 256), ("1.46.15", 888), ("1.58.1", 888)],
)
def test_a_value_that_is_not_used_is_named(version, width, caplog):
    assert converted(GRAPHS["proxies: value"], version)["5:11"]["inputs"]["width"] == width
    lines = [r.getMessage() for r in caplog.records]
    assert len(lines) == (width == 256)
    assert all("node 5 (Sub cccc)" in s and "Not used: width = 888." in s for s in lines)


@pytest.mark.parametrize("version", [None, "", "1.58.1", "soon", 1.4, "99"])
def test_without_a_version_the_newest_page_counts(version, caplog):
    assert converted(GRAPHS["proxies: value"], version)["5:11"]["inputs"]["width"] == 888
    assert not caplog.records


def test_equal_values_are_not_named(caplog):
    ui = whole(instance(ONE, [256]), inside(picture(11)))
    assert converted(ui, "1.45.21")["5:11"]["inputs"]["width"] == 256
    assert not caplog.records


def test_a_listed_widget_can_be_set_from_outside():
    ui = GRAPHS["proxies: nested"]
    graph = parse_graph({"5:21:11": converted(ui)["5:21:11"]})
    changed = apply_settings(graph, ["5.width=64", "5:21:11.height=48"], node_classes(), ui)
    inputs = changed["5:21:11"].inputs
    assert (inputs["width"], inputs["height"]) == (64, 48)


@pytest.mark.parametrize("listed", [{}, 7, "{", [[]], [["11"]], ["11"], [[None, "width"]], None])
def test_an_odd_list_lists_nothing(listed):
    assert converted(whole(instance(listed, [888]), inside(picture(11))))["5:11"]["inputs"]["width"]


@pytest.mark.slow
def test_many_listed_widgets_take_linear_time():
    """2 s; a search through all for each would take minutes."""
    count = 40_000
    nodes = [picture(number) for number in range(11, 11 + count)]
    nodes.append(batch(9, 1, 2))
    links = [(1, 11, 0, 9, 0, IMAGE), (2, 12, 0, 9, 1, IMAGE), (3, 9, 0, -20, 0, IMAGE)]
    listed = [[str(number), "width"] for number in range(11, 11 + count)]
    ui = whole(instance(listed, list(range(count))), inside(*nodes, links=links))
    began = time.process_time()
    assert converted(ui)[f"5:{10 + count}"]["inputs"]["width"] == count - 1
    assert time.process_time() - began < 30
