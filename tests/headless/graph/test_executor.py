"""Runs of graphs: order, cache, lazy inputs, blocked branches, progress, stop."""

from __future__ import annotations

import asyncio

import pytest

from inkstone.headless.graph.api_graph import Link, parse_graph
from inkstone.headless.graph.events import NodeError
from inkstone.headless.graph.executor import Executor
from inkstone.host import headless

from ...support.fake_nodes import ALL, CALLS, add, number, run, show, work


def test_runs_in_order_and_only_what_is_needed(host):
    events = []
    data = {"5": show("3"), "3": add("1", "2", 5), "1": number(2), "2": number(3), "9": number(50)}
    result = run(data, host, events.append)
    assert result.outputs["5"]["value"] == [10.0]
    assert "Number 50" not in CALLS
    assert result.executed == ["1", "2", "3", "5"]
    assert [event.kind for event in events][:3] == ["start", "executing", "executed"]
    assert events[-1].kind == "done"


def test_hidden_values(host):
    ui = run({"1": number(), "2": show("1")}, host).outputs["2"]
    assert (ui["id"], ui["prompt"]) == (["2"], [True])


def test_cache_by_content_across_runs(host):
    executor = Executor(ALL)
    executor.run(parse_graph({"1": number(4), "2": add("1"), "3": show("2")}), host)
    CALLS.clear()
    renamed = {"a": number(4), "b": add("a"), "c": show("b")}
    again = executor.run(parse_graph(renamed), host)
    assert (CALLS, again.cached) == (["Show"], ["b"])
    executor.run(parse_graph({"a": number(5), "b": add("a"), "c": show("b")}), host)
    assert CALLS == ["Show", "Number 5", "Add", "Show"]
    executor.clear()
    executor.run(parse_graph(renamed), host)
    assert CALLS[4:] == ["Number 4", "Add", "Show"]


def test_equal_nodes_run_once_in_a_run(host):
    run({"1": number(4), "2": number(4), "3": add("1", "2"), "4": show("3")}, host)
    assert CALLS.count("Number 4") == 1


@pytest.mark.parametrize("on", [True, False])
def test_lazy_branch_that_is_not_chosen_does_not_run(host, on):
    switch = {"class_type": "Switch", "inputs": {"on": on, "yes": ["1", 0], "no": ["2", 0]}}
    result = run({"1": number(1), "2": number(2), "3": switch, "4": show("3")}, host)
    assert result.outputs["4"]["value"] == [1 if on else 2]
    assert CALLS == [f"Number {1 if on else 2}", "Switch", "Show"]


def test_failing_node_is_named(host):
    with pytest.raises(NodeError, match="Node 2 .*RuntimeError: unlucky") as caught:
        run({"1": number(13), "2": work("1"), "3": show("2")}, host)
    assert (caught.value.node, caught.value.class_type) == ("2", "Work")
    assert isinstance(caught.value.__cause__, RuntimeError)


def test_blocked_branch_is_skipped(host):
    result = run({"1": number(66), "2": work("1"), "3": show("2"), "4": show("1")}, host)
    assert list(result.outputs) == ["4"]
    assert result.blocked == {"2": "not this one", "3": "not this one"}


def test_progress_events_and_stop(host):
    steps = []

    def on_event(event):
        if event.kind == "progress":
            steps.append((event.node, event.data["value"], event.data["max"]))
            if len(steps) == 2:
                host.interrupt.set()

    with pytest.raises(headless.Interrupted):
        run({"1": number(), "2": work("1", 9), "3": show("2")}, host, on_event)
    assert steps == [("2", 1, 9), ("2", 2, 9)]


def test_async_node_inside_a_running_loop(host):
    async def main():
        return run({"1": number(2), "2": add("1"), "3": show("2")}, host)

    assert asyncio.run(main()).outputs["3"]["value"] == [2.0]


@pytest.mark.slow
def test_long_chain_needs_no_recursion(host):
    data = {"0": number(1)} | {str(i): add(str(i - 1), extra=1) for i in range(1, 1500)}
    assert run(data | {"end": show("1499")}, host).outputs["end"]["value"] == [1500.0]


def test_results_of_a_last_run_leave_with_their_last_reader(host):
    data = {"1": number(2), "2": number(2), "3": add("1", "2"), "4": add("1", "3"), "5": show("4")}
    executor, left = Executor(ALL), []

    def on_event(event):
        if event.kind == "executing":
            values = [value for key in executor.cache.keys() for value in executor.cache[key]]
            left.append([value for value in values if value is not None])

    graph = parse_graph(data)
    assert executor.run(graph, host, on_event, last=True).outputs["5"]["value"] == [6.0]
    assert CALLS.count("Number 2") == 1
    assert left[-2:] == [[{"value": 2.0}, 2, {"value": 4.0}], [{"value": 6.0}]]
    values = executor.values(graph, [Link("4", 0), Link("1", 1)], host, last=True)
    assert values == [{"value": 6.0}, 2]


def test_a_last_run_takes_what_earlier_runs_left(host):
    executor, graph = Executor(ALL), parse_graph({"1": number(3), "2": add("1"), "3": add("2")})
    executor.values(graph, [Link("2", 0)], host)
    CALLS.clear()
    assert executor.values(graph, [Link("3", 0)], host, last=True) == [{"value": 3.0}]
    assert CALLS == ["Add"]
