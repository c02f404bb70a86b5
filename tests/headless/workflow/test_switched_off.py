"""Bypass and mute of every node of ours: the graph runs, or a message names the missing input."""

from __future__ import annotations

import re

import pytest

from inkstone.errors import InkstoneError
from inkstone.headless.graph.api_graph import parse_graph
from inkstone.headless.graph.executor import Executor
from inkstone.host.headless import HeadlessHost
from inkstone.nodes import NODES

from ...support.settled import Tiny, settled
from ...support.switched import (
    CLASSES,
    converted,
    example,
    fault_of,
    runnable,
    says_what_to_do,
    switched,
)

CASES = list(switched())
BRIDGES = {"InkstoneToModel", "InkstoneToCLIP", "InkstoneToVAE"}  # run only inside ComfyUI
MISSING = re.compile(r"input '[\w.]+': expected a value of type \w+, got nothing")


def test_every_node_is_in_a_graph():
    assert {node.ID for node in NODES} - {case.kind for case in CASES} == BRIDGES
    assert len(CASES) > 300


def test_what_cannot_run_is_named_by_node_and_input():
    refused = 0
    for case in CASES:
        error = fault_of(case)
        if error is None:
            continue
        refused += 1
        nodes = [node | {"mode": 0} for node in case.ui["nodes"]]
        whole = parse_graph(converted(case.ui | {"nodes": nodes}))
        for problem in error.problems:
            assert MISSING.search(str(problem)), f"{case}: {problem}"
            link = whole[problem.node].inputs[problem.input]
            assert link.node == case.node, f"{case}: {problem} was fed by {link}"
    assert 100 < refused < len(CASES) - 100


@pytest.mark.slow
@pytest.mark.parametrize("case", runnable(CASES), ids=str)
def test_what_passes_the_checks_runs_or_says_what_to_connect(
    case, tiny_folder, tiny_control, tmp_path
):
    models, pictures = tmp_path / "models", tmp_path / "input"
    example(pictures)
    graph = settled(converted(case.ui), case.graph, models, Tiny(tiny_folder, tiny_control))
    host = HeadlessHost(
        models=[models], input=pictures, output=tmp_path / "out", temp=tmp_path / "temp"
    )
    try:
        Executor(CLASSES).run(parse_graph(graph), host)
    except InkstoneError as error:
        assert says_what_to_do(error), f"{case}: {error}"
    else:
        saved = list((tmp_path / "out").rglob("*.png"))
        assert saved or case.kind == "InkstoneModelInfo", f"{case}: no picture"
