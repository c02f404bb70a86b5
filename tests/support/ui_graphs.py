"""Small workflow files by hand, one per rule of the page's conversion; tests/support/pages has its
answers.

Classes: the probes and newer ones of tests/support/newer_nodes and some of the core.
"""

from __future__ import annotations

from typing import Any

from .proxy_graphs import proxy_graphs
from .ui_builder import IMAGE, WIDGETS, batch, empty, graph, node, probe, save, sink, subgraph


def _plain() -> dict[str, dict]:
    link = [[1, 1, 0, 2, 0, IMAGE]]
    old = WIDGETS[:10] + [99] + WIDGETS[10:]  # a place for the forced socket
    return {
        "plain": graph([empty(1), save(2, 1)], link),
        "widgets": graph([probe(WIDGETS)], []),
        "widgets: too few": graph([probe([5, "fixed", 7])], []),
        "widgets: forced places": graph([probe(old)], []),
        "widgets: forced place dropped": graph([node(1, "ProbeSink", ["old", 77])], []),
        "widgets: named shadow": graph([probe(WIDGETS, widgets_values_named={"seed": 88})], []),
        "prompts": graph(
            [probe([*WIDGETS[:7], text, *WIDGETS[8:]], n) for n, text in enumerate(PROMPTS, 1)], []
        ),
        "file names": graph(
            [
                empty(1, title="Canvas"),
                save(2, 1, "a/%EmptyImage.width%_%Canvas.height%_%nobody.x%_%width%"),
            ],
            link,
        ),
        "notes": graph(
            [empty(1), save(2, 1), node(3, "Note", ["hi"]), node(4, "MarkdownNote", ["# hi"])], link
        ),
        "link objects as ids": graph([empty(1), save(2, 1)], link, version=0.4),
        "upload": graph(
            [
                node(1, "LoadImage", ["a.png", "image"], [], [IMAGE, "MASK"]),
                node(2, "LoadImageMask", ["b.png", "red", "image"], [], ["MASK"]),
                save(3, 1),
            ],
            [[1, 1, 0, 3, 0, IMAGE]],
        ),
    }


PROMPTS = [
    "{a|b} c",
    "{only}",
    r"\{kept\}",
    "x // gone\ny",
    "x /* gone */ y",
    "{a {b|c}|d} e",
    "{a|b",
    "a } b | c",
    '{"key": "value"}',
    r"a\|b {c\|d|e}",
    "http://x.y/z",
    "{}",
    "{|a}",
]


def _modes() -> dict[str, dict]:
    def three(mode: int, middle: dict, links: list) -> dict:
        return graph([empty(1), empty(2), middle | {"mode": mode}, save(4, 3)], links)

    both = [[1, 1, 0, 3, 0, IMAGE], [2, 2, 0, 3, 1, IMAGE], [3, 3, 0, 4, 0, IMAGE]]
    second = both[1:]
    scale = node(3, "ImageScale", ["lanczos", 5, 6, "center"], [("image", IMAGE, 1)], [IMAGE])
    picture = [("a", IMAGE, 1), ("b", IMAGE, None), ("mask", "MASK", 2)]
    probe_node = node(3, "ProbePictures", None, picture, [IMAGE, "MASK"], mode=4)
    solid = node(2, "SolidMask", [1, 8, 8], [], ["MASK"])
    wrong = node(3, "MaskToImage", None, [("mask", "MASK", 1)], [IMAGE])
    return {
        "muted": three(2, batch(3, 1, 2), both),
        "bypassed": three(4, scale, both[:1] + both[2:]),
        "bypassed: first of two": three(4, batch(3, 1, 2), both),
        "bypassed: first is open": three(4, batch(3, None, 2), second),
        "bypassed: no input of the type": graph(
            [solid | {"id": 1}, wrong | {"mode": 4}, save(4, 3)],
            [[1, 1, 0, 3, 0, "MASK"], [3, 3, 0, 4, 0, IMAGE]],
        ),
        "bypassed: second output": graph(
            [
                empty(1),
                solid,
                probe_node,
                node(4, "MaskToImage", None, [("mask", "MASK", 3)], [IMAGE]),
            ],
            [[1, 1, 0, 3, 0, IMAGE], [2, 2, 0, 3, 2, "MASK"], [3, 3, 1, 4, 0, "MASK"]],
        ),
        "bypassed: any": graph(
            [empty(1), solid, probe_node, sink(4, 3)],
            [[1, 1, 0, 3, 0, IMAGE], [2, 2, 0, 3, 2, "MASK"], [3, 3, 1, 4, 0, "MASK"]],
        ),
        "bypassed: two in a row": graph(
            [
                empty(1),
                scale | {"id": 2, "mode": 4},
                {
                    **scale,
                    "mode": 4,
                    "inputs": [{"name": "image", "type": IMAGE, "link": 2}],
                    "outputs": [{"name": IMAGE, "type": IMAGE, "links": [3]}],
                },
                save(4, 3),
            ],
            [[1, 1, 0, 2, 0, IMAGE], [2, 2, 0, 3, 0, IMAGE], [3, 3, 0, 4, 0, IMAGE]],
        ),
        "muted widget source": graph(
            [node(1, "PrimitiveInt", [9, "fixed"], [], ["INT"], mode=2), empty(2, 1), save(3, 2)],
            [[1, 1, 0, 2, 0, "INT"], [2, 2, 0, 3, 0, IMAGE]],
        ),
        "modes 1 and 3": graph([empty(1, mode=1), save(2, 1, mode=3)], [[1, 1, 0, 2, 0, IMAGE]]),
    }


def _virtual() -> dict[str, dict]:
    def reroute(number: int, link: int | None) -> dict:
        return node(number, "Reroute", None, [("", "*", link)], ["*"])

    number = node(1, "PrimitiveNode", [320, "fixed"], [], ["INT"])
    whole = node(1, "PrimitiveInt", [9, "fixed"], [], ["INT"])
    return {
        "reroute": graph(
            [empty(1), reroute(2, 1), reroute(3, 2), save(4, 3)],
            [[1, 1, 0, 2, 0, "*"], [2, 2, 0, 3, 0, "*"], [3, 3, 0, 4, 0, IMAGE]],
        ),
        "reroute: open": graph([reroute(2, None), save(4, 3)], [[3, 2, 0, 4, 0, IMAGE]]),
        "reroute: bypassed": graph(
            [empty(1), reroute(2, 1) | {"mode": 4}, save(4, 3)],
            [[1, 1, 0, 2, 0, "*"], [3, 2, 0, 4, 0, IMAGE]],
        ),
        "native reroute": graph(
            [empty(1), save(2, 1)],
            [[1, 1, 0, 2, 0, IMAGE]],
            extra={
                "reroutes": [{"id": 1, "pos": [9, 9], "linkIds": [1]}],
                "linkExtensions": [{"id": 1, "parentId": 1}],
            },
        ),
        "primitive": graph(
            [number, empty(2, 1), save(3, 2)], [[1, 1, 0, 2, 0, "INT"], [2, 2, 0, 3, 0, IMAGE]]
        ),
        "primitive by reroute": graph(
            [number, reroute(4, 1), empty(2, 3), save(3, 2)],
            [[1, 1, 0, 4, 0, "*"], [3, 4, 0, 2, 0, "INT"], [2, 2, 0, 3, 0, IMAGE]],
        ),
        "primitive of the core": graph(
            [whole, empty(2, 1), save(3, 2)], [[1, 1, 0, 2, 0, "INT"], [2, 2, 0, 3, 0, IMAGE]]
        ),
        "converted, open": graph([empty(2), save(3, 2)], [[2, 2, 0, 3, 0, IMAGE]]),
    }


def _dynamic() -> dict[str, dict]:
    def choice(values: list, ins: Any = ()) -> dict:
        return graph(
            [empty(2), node(1, "ProbeChoice", values, ins, ["STRING"])],
            [[1, 2, 0, 1, 0, IMAGE]] if ins else [],
        )

    grown = [("images.picture_1", IMAGE, 1), ("images.picture_2", IMAGE, 2)]
    return {
        "choice: one": choice(["f", "one", 11, 12, 43]),
        "choice: two deep": choice(["f", "two", "deep", 3, 44]),
        "choice: two flat": choice(["f", "two", "flat", 44]),
        "choice: none": choice(["f", "none", 45]),
        "grown": graph(
            [empty(2), empty(3), node(1, "ProbeGrow", ["L"], grown, [IMAGE])],
            [[1, 2, 0, 1, 0, IMAGE], [2, 3, 0, 1, 1, IMAGE]],
        ),
        "grown: second only": graph(
            [empty(3), node(1, "ProbeGrow", ["L"], [(*grown[0][:2], None), grown[1]], [IMAGE])],
            [[2, 3, 0, 1, 1, IMAGE]],
        ),
        "list value": graph([node(1, "ImageCompare", [], [("image_a", IMAGE, None)])], []),
        "save advanced": graph(
            [
                empty(2),
                node(
                    1,
                    "SaveImageAdvanced",
                    ["p", "exr", "32-bit float"],
                    [("images", IMAGE, 1)],
                    [IMAGE],
                ),
            ],
            [[1, 2, 0, 1, 0, IMAGE]],
        ),
    }


A, B = "aaaa0000-0000-4000-8000-000000000000", "bbbb0000-0000-4000-8000-000000000000"


def _inner() -> dict:
    """EmptyImage 11 (width from outside) -> ImageScale 12 (image also from outside) -> out."""
    scale = [("image", IMAGE, 2), ("width", "INT", 3, "width")]
    return subgraph(
        A,
        [empty(11, 1), node(12, "ImageScale", ["area", 5, 6, "center"], scale, [IMAGE])],
        [
            [1, -10, 0, 11, 0, "INT"],
            [2, 11, 0, 12, 0, IMAGE],
            [3, -10, 1, 12, 1, "INT"],
            [4, 12, 0, -20, 0, IMAGE],
        ],
        [("width", "INT", [1]), ("w2", "INT", [3])],
        [("IMAGE", IMAGE, [4])],
    )


def _instance(number: int = 5, values: Any = (100, 200), links: Any = (None, None), **more) -> dict:
    ins = [("width", "INT", links[0], "width"), ("w2", "INT", links[1], "w2")]
    return node(number, A, list(values), ins, [IMAGE], **more)


def _subgraphs() -> dict[str, dict]:
    out = [[1, 5, 0, 9, 0, IMAGE]]

    def one(instance: dict, more: Any = (), links: Any = (), definition: Any = None) -> dict:
        return graph(
            [instance, save(9, 1), *more],
            [*out, *links],
            definitions={"subgraphs": [definition or _inner()]},
        )

    proxies = {"proxyWidgets": [["-1", "width"], ["-1", "w2"]]}
    passing = subgraph(
        A, [empty(11)], [[1, -10, 0, -20, 0, IMAGE]], [("in", IMAGE, [1])], [("out", IMAGE, [1])]
    )
    return {
        "subgraph": one(_instance()),
        "subgraph: no values": one(_instance(values=())),
        "subgraph: proxies": one(_instance(values=(), properties=proxies)),
        "subgraph: linked": one(_instance(links=(2, None)), [_number()], [[2, 1, 0, 5, 0, "INT"]]),
        "subgraph: primitive": one(
            _instance(links=(2, None)),
            [node(1, "PrimitiveNode", [320, "fixed"], [], ["INT"])],
            [[2, 1, 0, 5, 0, "INT"]],
        ),
        "subgraph: muted": one(_instance(mode=2)),
        "subgraph: bypassed": one(_instance(mode=4)),
        "subgraph: passes through": one(
            node(5, A, [], [("in", IMAGE, 2)], [IMAGE]),
            [empty(1)],
            [[2, 1, 0, 5, 0, IMAGE]],
            passing,
        ),
        "subgraph: twice": graph(
            [_instance(), _instance(6, (1, 2)), batch(7, 1, 2), save(9, 3)],
            [[1, 5, 0, 7, 0, IMAGE], [2, 6, 0, 7, 1, IMAGE], [3, 7, 0, 9, 0, IMAGE]],
            definitions={"subgraphs": [_inner()]},
        ),
    }


def _number() -> dict:
    return node(1, "PrimitiveInt", [9, "fixed"], [], ["INT"])


def _nested() -> dict[str, dict]:
    out = [[1, 5, 0, 9, 0, IMAGE]]
    outer = subgraph(
        B,
        [_instance(21, (300, 400), (1, None)), batch(22, 2, 3)],
        [
            [1, -10, 0, 21, 0, "INT"],
            [2, 21, 0, 22, 0, IMAGE],
            [3, 21, 0, 22, 1, IMAGE],
            [4, 22, 0, -20, 0, IMAGE],
        ],
        [("wide", "INT", [1])],
        [("IMAGE", IMAGE, [4])],
    )
    instance = node(5, B, [77], [("wide", "INT", None, "wide")], [IMAGE])
    return {
        "subgraph: nested": graph(
            [instance, save(9, 1)], out, definitions={"subgraphs": [_inner(), outer]}
        ),
        "subgraph: nested, linked": graph(
            [node(5, B, [77], [("wide", "INT", 2, "wide")], [IMAGE]), save(9, 1), _number()],
            [*out, [2, 1, 0, 5, 0, "INT"]],
            definitions={"subgraphs": [_inner(), outer]},
        ),
    }


def feature_graphs() -> dict[str, dict]:
    """Name -> UI graph."""
    parts = (_plain(), _modes(), _virtual(), _dynamic(), _subgraphs(), _nested(), proxy_graphs())
    return {name: ui for part in parts for name, ui in part.items()}
