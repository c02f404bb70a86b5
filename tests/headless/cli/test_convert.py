"""UI graph -> API graph: what ComfyUI's page made of every rule and of the official templates.

The page's answers are recorded (tests/support/pages, by record_pages.py there); with a server and a
browser at hand they are compared live too.
"""

from __future__ import annotations

import copy
import json
import lzma
import os
import subprocess
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from inkstone.errors import InkstoneError
from inkstone.files.png import save_png
from inkstone.headless.cli.main import main
from inkstone.headless.core_nodes.registry import node_classes
from inkstone.headless.workflow.load import find_graph, read_graph_file
from inkstone.headless.workflow.node_info import interface_of, parse_interface, read_interfaces
from inkstone.headless.workflow.parse_ui import parse_workflow
from inkstone.headless.workflow.to_api import Flattener

from ...support.browser_check import differences
from ...support.comfy_install import given_source
from ...support.ui_builder import empty, graph, node, probe, save, subgraph
from ...support.ui_graphs import A, B, feature_graphs
from ..workflow.test_to_inkstone import templates

ROOT = Path(__file__).resolve().parents[3]
SUPPORT = ROOT / "tests" / "support"
PAGES = SUPPORT / "pages"
FEATURES = json.loads((PAGES / "features.json").read_text("utf-8"))
TEMPLATES = json.loads(lzma.decompress((PAGES / "templates.json.xz").read_bytes()))
CLASSES = read_interfaces(str(PAGES / "object_info.json"))
SHIPPED = sorted(path.stem for path in (ROOT / "workflows" / "api").glob("*.json"))
GRAPHS = feature_graphs()


def converted(ui: dict) -> dict:
    return Flattener(parse_workflow(ui), CLASSES).api()


@pytest.mark.parametrize("name", FEATURES)
def test_feature_is_converted_as_the_page_does(name):
    assert not differences(FEATURES[name], converted(GRAPHS[name]))


@pytest.mark.parametrize("name", TEMPLATES)
def test_official_template_is_converted_as_the_page_does(name):
    assert TEMPLATES[name]["api"], "the page converted it"
    assert not differences(TEMPLATES[name]["api"], converted(TEMPLATES[name]["ui"]))


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_graph_is_converted_to_its_stored_form(name, tmp_path):
    out = tmp_path / "api.json"
    assert main(["convert", str(find_graph(Path(name))), "-o", str(out), "--quiet"]) == 0
    stored = json.loads((ROOT / "workflows" / "api" / f"{name}.json").read_text("utf-8"))
    assert json.loads(out.read_text("utf-8")) == stored


def test_version_1_links_and_outer_definitions():
    """Links as objects at the root, and a definition inside the definition that uses it."""
    ui = copy.deepcopy(GRAPHS["subgraph: nested"])
    names = ("id", "origin_id", "origin_slot", "target_id", "target_slot", "type")
    ui["links"] = [dict(zip(names, link, strict=True)) for link in ui["links"]]
    first, second = ui["definitions"]["subgraphs"]
    second["definitions"] = {"subgraphs": [first]}
    ui["definitions"]["subgraphs"] = [second]
    assert not differences(FEATURES["subgraph: nested"], converted(ui))


def test_subgraph_that_only_passes_on():
    """The page stops with an error here; the picture is what comes in."""
    api = converted(GRAPHS["subgraph: passes through"])
    assert api["9"]["inputs"]["images"] == ["1", 0]


def test_values_by_name_are_kept():
    """Packs of videos save them so, with a script of theirs; without it the page has defaults."""
    inputs = converted(graph([probe({"seed": 88, "ratio": 0.75})], []))["1"]["inputs"]
    assert (inputs["seed"], inputs["ratio"], inputs["steps"]) == (88, 0.75, 20)


@pytest.mark.parametrize("names", [("SetNode", "GetNode"), ("easy setNode", "easy getNode")])
def test_set_and_get(names):
    setter = node(2, names[0], ["pic"], [("IMAGE", "IMAGE", 1)], ["*"])
    getter = node(3, names[1], ["pic"], [], ["IMAGE"])
    links = [[1, 1, 0, 2, 0, "IMAGE"], [2, 3, 0, 4, 0, "IMAGE"]]
    assert converted(graph([empty(1), setter, getter, save(4, 2)], links))["4"]["inputs"] == {
        "filename_prefix": "x",
        "images": ["1", 0],
    }
    getter["widgets_values"] = ["other"]
    with pytest.raises(InkstoneError, match="no Set node"):
        converted(graph([empty(1), setter, getter, save(4, 2)], links))


def loop(first: str, second: str) -> dict:
    """Two subgraphs that hold each other, or one that holds itself."""
    inner = subgraph(first, [node(11, second, [], [], [])], [], [], [])
    other = subgraph(second, [node(12, first, [], [], [])], [], [], [])
    levels = [inner] if first == second else [inner, other]
    return graph([node(5, first, [], [], [])], [], definitions={"subgraphs": levels})


BAD = {
    "subgraph in itself": (loop(A, A), "contain themselves"),
    "subgraphs in each other": (loop(A, B), "contain themselves"),
    "links in a circle": (
        graph(
            [
                node(1, "Reroute", None, [("", "*", 2)], ["*"]),
                node(2, "Reroute", None, [("", "*", 1)], ["*"]),
                save(3, 3),
            ],
            [[1, 1, 0, 2, 0, "*"], [2, 2, 0, 1, 0, "*"], [3, 2, 0, 3, 0, "IMAGE"]],
        ),
        "in a circle",
    ),
    "group node": (graph([node(1, "workflow>mine", [])], []), "old group node 'mine'"),
    "node without a type": ({"nodes": [{"id": 1}]}, "no id or type"),
    "node that is a text": ({"nodes": ["x"]}, "Expected an object"),
    "link that is a number": ({"nodes": [], "links": [7]}, "not a list of id"),
    "slots that are words": ({"nodes": [], "links": [[1, 1, "a", 2, 0]]}, "not numbers"),
    "two of one id": ({"nodes": [empty(1), empty(1)]}, "Two nodes"),
    "links that are a text": ({"nodes": [], "links": "x"}, "Expected a list"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_graph_is_refused_in_a_sentence(name, tmp_path, capsys):
    data, words = BAD[name]
    (tmp_path / "g.json").write_text(json.dumps(data))
    assert main(["convert", str(tmp_path / "g.json")]) == 1
    stderr = capsys.readouterr().err
    assert words in stderr and "Traceback" not in stderr


FILES = {
    "truncated": (b'{"nodes": [', "is not JSON"),
    "empty": (b"", "is empty"),
    "junk": (os.urandom(1 << 16) * 160, "neither a PNG nor JSON"),
    "10 MB of brackets": (b"[" * 10_000_000, "nested too deeply"),
    "a number": (b"7", "expected a graph"),
    "an empty object": (b"{}", "expected a graph"),
    "cut PNG": (b"\x89PNG\r\n\x1a\n\x00\x00", "cut off"),
}


@pytest.mark.parametrize("command", ["convert", "run", "check"])
@pytest.mark.parametrize("name", FILES)
def test_wrong_file_is_refused_in_a_sentence(command, name, tmp_path, capsys):
    data, words = FILES[name]
    (tmp_path / "g.json").write_bytes(data)
    assert main([command, str(tmp_path / "g.json"), "--quiet"]) == 1
    stderr = capsys.readouterr().err
    assert words in stderr and stderr.count("\n") == 1


@pytest.mark.parametrize("command", ["convert", "run", "check"])
def test_missing_file_is_a_wrong_call(command, tmp_path, capsys):
    assert main([command, str(tmp_path / "none.json")]) == 2
    assert "no such graph file" in capsys.readouterr().err


def test_unknown_classes_are_named_with_their_pack(tmp_path, capsys):
    nodes = [
        node(1, "Strange", [], properties={"cnr_id": "some-pack"}),
        node(2, "Strange", [], properties={"cnr_id": "some-pack"}),
        node(3, "KSampler", [], mode=2),
        node(4, "Odd", [], mode=4),
        node(5, "Other", []),
    ]
    (tmp_path / "g.json").write_text(json.dumps(graph(nodes, [])))
    assert main(["convert", str(tmp_path / "g.json")]) == 1
    stderr = capsys.readouterr().err
    assert "Strange x2 (of the pack some-pack), Other." in stderr and "--object-info" in stderr
    assert "KSampler" not in stderr and "Odd" not in stderr


def test_classes_come_from_an_object_info_file(tmp_path, capsys):
    (tmp_path / "g.json").write_text(json.dumps(GRAPHS["widgets"]))
    info = str(PAGES / "object_info.json")
    assert main(["convert", str(tmp_path / "g.json"), "--object-info", info]) == 0
    assert not differences(FEATURES["widgets"], json.loads(capsys.readouterr().out))


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("https://example.com/object_info", "only http://127.0.0.1"),
        ("http://127.0.0.1:9", "Is the server up"),
        ("none.json", "Cannot read"),
    ],
)
def test_bad_object_info(source, words):
    with pytest.raises(InkstoneError, match=words):
        read_interfaces(source)


def test_picture_gives_what_the_page_showed(tmp_path, capsys):
    import numpy as np

    ui = json.loads(find_graph(Path("text_to_image_embedded")).read_text("utf-8"))
    path = save_png(tmp_path / "x.png", np.zeros((4, 4, 3)), {"workflow": json.dumps(ui)})
    assert main(["convert", str(path)]) == 0
    stored = json.loads((ROOT / "workflows/api/text_to_image_embedded.json").read_text("utf-8"))
    assert json.loads(capsys.readouterr().out) == stored
    assert read_graph_file(path).ui == ui


class _SendsOn(BaseHTTPRequestHandler):
    """Answers every address but /end/object_info with a redirect to `to`."""

    to = ""

    def do_GET(self) -> None:
        at_end = self.path.startswith("/end")
        self.send_response(200 if at_end else 302)
        self.send_header("Location", self.to)
        self.end_headers()
        self.wfile.write(b'{"X": {"input": {}}}' if at_end else b"")

    def log_message(self, *_: object) -> None:
        """Nothing."""


@pytest.mark.slow
@pytest.mark.parametrize(
    "to", ["http://example.com/x", "https://127.0.0.1/x", "ftp://127.0.0.1/x", "http://[", "//a/b"]
)
def test_a_redirect_stays_on_this_machine(to, monkeypatch):
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")  # a proxy may be elsewhere: not asked
    monkeypatch.delenv("no_proxy", raising=False)
    with HTTPServer(("127.0.0.1", 0), _SendsOn) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setattr(
            _SendsOn, "to", f"http://127.0.0.1:{server.server_port}/end/object_info"
        )
        assert list(read_interfaces(f"http://127.0.0.1:{server.server_port}")) == ["X"]
        monkeypatch.setattr(_SendsOn, "to", to)
        with pytest.raises(InkstoneError, match="not fetched|No object_info"):
            read_interfaces(f"http://127.0.0.1:{server.server_port}")
        server.shutdown()


def test_interfaces_of_our_classes_agree_with_their_object_info():
    """Stand-ins and a server's answer lead to the same order of widgets."""
    classes = node_classes()
    for name in ("LoadImage", "EmptyImage", "PrimitiveInt", "SaveImage", "SolidMask"):
        if name in CLASSES:
            ours, theirs = interface_of(classes[name]), CLASSES[name]
            assert [w.name for w, _ in ours.values([])] == [w.name for w, _ in theirs.values([])]
    info = {
        "input": {"required": {"b": ["INT"], "a": [["x", "y"]]}},
        "input_order": {"required": ["a", "b"]},
        "output": ["IMAGE"],
    }
    assert [(w.name, v) for w, v in parse_interface("N", info).values([])] == [("a", "x"), ("b", 0)]


BROWSER = os.environ.get("INKSTONE_BROWSER_PYTHON")


@pytest.mark.comfyui
@pytest.mark.browser
@pytest.mark.skipif(
    given_source() is None or not BROWSER,
    reason="needs INKSTONE_COMFYUI_SOURCE and INKSTONE_BROWSER_PYTHON (one with Playwright)",
)
def test_live_page_agrees(tmp_path):
    from ...support.comfy_install import PACK
    from ...support.comfy_server import ComfyServer

    graphs = {name: json.loads(find_graph(Path(name)).read_text("utf-8")) for name in SHIPPED}
    graphs |= {name: GRAPHS[name] for name in FEATURES}
    graphs |= {p.stem: json.loads(p.read_text("utf-8")) for p in templates()}  # where installed
    (tmp_path / "in.json").write_text(json.dumps(graphs))
    with ComfyServer(given_source(), packs=(PACK, SUPPORT / "newer_nodes")) as server:
        classes = read_interfaces(server.url)
        script, files = SUPPORT / "page_convert.py", (tmp_path / "in.json", tmp_path / "out.json")
        subprocess.run([BROWSER, script, "--server", server.url, *files], check=True)
    pages = json.loads((tmp_path / "out.json").read_text("utf-8"))
    assert pages.keys() == graphs.keys() and all(pages.values())
    ours = {n: Flattener(parse_workflow(graphs[n]), classes).api() for n in pages}
    faults = {n: differences(page, ours[n]) for n, page in pages.items()}
    assert not any(faults.values()), {n: d[:4] for n, d in faults.items() if d}
