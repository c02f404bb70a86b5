"""Workflow files whose subgraphs show widgets on their instances, one per rule; tests/support/pages
has the newest page's answers.
"""

from __future__ import annotations

import json
from typing import Any

from .ui_builder import IMAGE, WIDGETS, batch, empty, graph, node, probe, save, subgraph

A, B = "cccc0000-0000-4000-8000-000000000000", "dddd0000-0000-4000-8000-000000000000"
WIDTH = ("width", "INT", None, "width")
ONE = [["11", "width"]]


def picture(number: int, link: int | None = None, width: int = 256) -> dict:
    """EmptyImage with all its slots; `link` goes into its width."""
    ins = [(w, "INT", None, w) for w in ("width", "height", "batch_size", "color")]
    ins[0] = ("width", "INT", link, "width")
    return node(number, "EmptyImage", [width, 32, 1, 255], ins, [IMAGE])


def instance(listed: Any, values: Any, ins: Any = (), number: int = 5, kind: str = A) -> dict:
    return node(number, kind, values, ins, [IMAGE], properties={"proxyWidgets": listed})


def whole(first: dict, *definitions: dict, more: Any = (), links: Any = ()) -> dict:
    out = [[1, first["id"], 0, 9, 0, IMAGE], *links]
    return graph([first, save(9, 1), *more], out, definitions={"subgraphs": list(definitions)})


def pair(first: dict, second: dict, *definitions: dict) -> dict:
    links = [[1, 5, 0, 7, 0, IMAGE], [2, 6, 0, 7, 1, IMAGE], [3, 7, 0, 9, 0, IMAGE]]
    nodes = [first, second, batch(7, 1, 2), save(9, 3)]
    return graph(nodes, links, definitions={"subgraphs": list(definitions)})


def inside(*nodes: dict, links: Any = ((1, 11, 0, -20, 0, IMAGE),), ins: Any = (), key: str = A):
    out = next(link[0] for link in links if link[3] == -20)
    return subgraph(key, list(nodes), [list(x) for x in links], list(ins), [("I", IMAGE, [out])])


def _free() -> dict:
    return inside(picture(11))


def _fed() -> dict:
    """Its width is an input of the subgraph."""
    links = [(1, -10, 0, 11, 0, "INT"), (2, 11, 0, -20, 0, IMAGE)]
    return inside(empty(11, 1), links=links, ins=[("width", "INT", [1])])


def _from(kind: str, number: int) -> dict:
    """Its width comes from another node inside."""
    links = [(1, number, 0, 11, 0, "INT"), (2, 11, 0, -20, 0, IMAGE)]
    return inside(node(number, kind, [9, "fixed"], [], ["INT"]), empty(11, 1), links=links)


def _outer(listed: Any, values: Any) -> dict:
    inner = instance(listed, values, number=21)
    return inside(inner, links=[(1, 21, 0, -20, 0, IMAGE)], key=B)


def _outer_fed(values: Any) -> dict:
    inner = node(21, A, values, [("width", "INT", 1, "width")], [IMAGE])
    links = [(1, -10, 0, 21, 0, "INT"), (2, 21, 0, -20, 0, IMAGE)]
    return inside(inner, links=links, ins=[("wide", "INT", [1])], key=B)


def _two_fed() -> dict:
    """One input feeds two widgets."""
    links = [(1, -10, 0, 11, 0, "INT"), (2, -10, 0, 12, 0, "INT")]
    links += [(3, 11, 0, 13, 0, IMAGE), (4, 12, 0, 13, 1, IMAGE), (5, 13, 0, -20, 0, IMAGE)]
    nodes = (picture(11, 1), picture(12, 2, 512), batch(13, 3, 4))
    return inside(*nodes, links=links, ins=[("width", "INT", [1, 2])])


def _two_free() -> dict:
    links = [(1, 11, 0, 13, 0, IMAGE), (2, 12, 0, 13, 1, IMAGE), (3, 13, 0, -20, 0, IMAGE)]
    return inside(picture(11), picture(12), batch(13, 1, 2), links=links)


def _listed() -> dict[str, dict]:
    seeds = inside(probe(WIDGETS, 11), picture(12), links=[(1, 12, 0, -20, 0, IMAGE)])
    seeded = [["11", "seed"], ["11", "control_after_generate"], ["12", "width"]]
    return {
        "value": whole(instance(ONE, [888]), _free()),
        "no value": whole(instance(ONE, []), _free()),
        "two": whole(instance([["11", "height"], *ONE], [777, 888]), _free()),
        "ids as numbers": whole(instance([[11, "width"]], [888]), _free()),
        "as text": whole(instance(json.dumps(ONE), [888]), _free()),
        "instances": pair(instance(ONE, [888]), instance(ONE, [666], number=6), _free()),
        "one of two": pair(instance(ONE, [888]), node(6, A, [], [], [IMAGE]), _free()),
        "no such node": whole(instance([["99", "width"], *ONE], [777, 888]), _free()),
        "no such widget": whole(instance([["11", "nothing"], *ONE], [777, 888]), _free()),
        "linked": whole(instance(ONE, [888]), _from("PrimitiveInt", 13)),
        "linked, one of two": pair(
            instance(ONE, [888]), node(6, A, [], [], [IMAGE]), _from("PrimitiveInt", 13)
        ),
        "source of a link": whole(instance([["13", "value"]], [888]), _from("PrimitiveInt", 13)),
        "primitive": whole(instance([["14", "value"]], [888]), _from("PrimitiveNode", 14)),
        "control": whole(instance(seeded, [777, "randomize", 888]), seeds),
        "same name": whole(instance([*ONE, ["12", "width"]], [777, 888]), _two_free()),
    }


def _inputs() -> dict[str, dict]:
    number = node(1, "PrimitiveInt", [9, "fixed"], [], ["INT"])
    linked = [("width", "INT", 2, "width")]
    both, height = [["-1", "width"], ["11", "height"]], [["11", "height"]]
    more = {"more": [number], "links": [[2, 1, 0, 5, 0, "INT"]]}
    return {
        "input": whole(instance([["-1", "width"]], [888], [WIDTH]), _fed()),
        "input by its widget": whole(instance(ONE, [888], [WIDTH]), _fed()),
        "input and widget": whole(instance(both, [100, 888], [WIDTH]), _fed()),
        "widget and input": whole(instance(both[::-1], [888, 100], [WIDTH]), _fed()),
        "input not listed": whole(instance(height, [100, 888], [WIDTH]), _fed()),
        "linked input": whole(instance(ONE, [888], linked), _fed(), **more),
        "linked input and widget": whole(instance(both, [100, 888], linked), _fed(), **more),
        "two fed": whole(node(5, A, [888], [WIDTH], [IMAGE]), _two_fed()),
        "two fed, no value": whole(node(5, A, [], [WIDTH], [IMAGE]), _two_fed()),
    }


def _nested() -> dict[str, dict]:
    wide = [("wide", "INT", None, "wide")]

    def two(listed: Any, values: Any, inner: Any = (ONE, [444])) -> dict:
        return whole(instance(listed, values, kind=B), _free(), _outer(*inner))

    def fed(values: Any, inner: Any) -> dict:
        return whole(node(5, B, values, wide, [IMAGE]), _fed(), _outer_fed(inner))

    again = [["21", "width"]]
    return {
        "nested": two(again, [888]),
        "nested by id": two([["21", "width", "11"]], [888]),
        "nested by prefix": two([["21", "11: width"]], [888]),
        "nested inside only": two([], []),
        "nested without a value": two(again, []),
        "nested without any": two([], [], (ONE, [])),
        "nested, not shown inside": two([["21", "width"]], [888], ([], [])),
        "nested instances": pair(
            instance(again, [888], kind=B),
            instance(again, [666], number=6, kind=B),
            _free(),
            _outer(ONE, [444]),
        ),
        "nested inputs": fed([888], [444]),
        "nested inputs, inner value": fed([], [444]),
        "nested inputs, no value": fed([], []),
    }


def proxy_graphs() -> dict[str, dict]:
    """Name -> UI graph."""
    found = {**_listed(), **_inputs(), **_nested()}
    return {f"proxies: {name}": ui for name, ui in found.items()}
