"""Graphs without ComfyUI: faults named, --set, order, cache, lazy inputs, stop, PNG, UI form."""

from __future__ import annotations

import asyncio
import json
import struct
import sys
import zlib

import numpy as np
import pytest

from inkstone.errors import InkstoneError
from inkstone.files import png
from inkstone.files.png import numbered_path, read_text_chunks, save_png
from inkstone.headless.core_nodes.registry import CORE_NODES
from inkstone.headless.graph.api_graph import apply_set, parse_graph, read_graph, to_api, validate
from inkstone.headless.graph.executor import Executor, NodeError, run_graph
from inkstone.headless.graph.input_values import GraphError
from inkstone.headless.workflow.to_ui import Group, Layout, Note, full_graph, ui_from_api
from inkstone.host import headless, save_images
from inkstone.host.headless import HeadlessHost

from ...support.fake_nodes import CALLS, NODES, number, show

ALL = NODES | CORE_NODES


@pytest.fixture
def host(tmp_path):
    CALLS.clear()
    (tmp_path / "input").mkdir()
    folders = {name: tmp_path / name for name in ("input", "output", "temp")}
    return HeadlessHost(models=(tmp_path / "models",), device="cpu", **folders)


def add(a, b=None, extra=0):
    inputs = {"a": [a, 0], "extra": extra, "text": ""} | ({"b": [b, 0]} if b else {})
    return {"class_type": "Add", "inputs": inputs}


def work(source, steps=3):
    return {"class_type": "Work", "inputs": {"thing": [source, 0], "steps": steps}}


def run(data, host, on_event=None):
    return run_graph(parse_graph(data), ALL, host, on_event)


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
    seen = []

    def on_event(event):
        if event.kind == "progress":
            seen.append((event.node, event.data["value"], event.data["max"]))
            if len(seen) == 2:
                host.interrupt.set()

    with pytest.raises(headless.Interrupted):
        run({"1": number(), "2": work("1", 9), "3": show("2")}, host, on_event)
    assert seen == [("2", 1, 9), ("2", 2, 9)]


def test_async_node_inside_a_running_loop(host):
    async def main():
        return run({"1": number(2), "2": add("1"), "3": show("2")}, host)

    assert asyncio.run(main()).outputs["3"]["value"] == [2.0]


def test_long_chain_needs_no_recursion(host):
    data = {"0": number(1)} | {str(i): add(str(i - 1), extra=1) for i in range(1, 1500)}
    assert run(data | {"end": show("1499")}, host).outputs["end"]["value"] == [1500.0]


def empty_image(width=8, height=6, batch=1, color=0xFF8000):
    sizes = {"width": width, "height": height, "batch_size": batch, "color": color}
    return {"class_type": "EmptyImage", "inputs": sizes}


def save(source, prefix="sub/pic"):
    inputs = {"images": [source, 0], "filename_prefix": prefix}
    return {"class_type": "SaveImage", "inputs": inputs}


def test_save_image_names_and_chunks(host):
    data = {"1": empty_image(batch=2), "2": save("1")}
    graph, executor = parse_graph(data), Executor(ALL)
    first = executor.run(graph, host, extra_pnginfo={"workflow": {"nodes": "ü"}})
    second = executor.run(graph, host)
    names = [
        item["filename"] for result in (first, second) for item in result.outputs["2"]["images"]
    ]
    assert names == [f"pic_{index:05}_.png" for index in (1, 2, 3, 4)]
    assert first.outputs["2"]["images"][0] | {"filename": ""} == {
        "filename": "",
        "subfolder": "sub",
        "type": "output",
    }
    path = host.output / "sub" / names[0]
    chunks = read_text_chunks(path)
    assert json.loads(chunks["prompt"]) == to_api(graph)
    assert json.loads(chunks["workflow"]) == {"nodes": "ü"}
    assert read_graph(path) == graph
    assert sorted(file.name for file in path.parent.iterdir()) == names


def test_load_scale_preview(host):
    save_png(host.input / "a.png", np.full((4, 6, 4), 128, np.uint8))
    scale = {
        "image": ["1", 0],
        "upscale_method": "lanczos",
        "width": 12,
        "height": 0,
        "crop": "disabled",
    }
    data = {
        "1": {"class_type": "LoadImage", "inputs": {"image": "a.png"}},
        "2": {"class_type": "ImageScale", "inputs": scale},
        "3": {"class_type": "PreviewImage", "inputs": {"images": ["2", 0]}},
    }
    saved = run(data, host).outputs["3"]["images"][0]
    from PIL import Image

    with Image.open(host.temp / saved["filename"]) as picture:
        assert picture.size == (12, 8)
        assert picture.getpixel((3, 3)) == (128, 128, 128)


def test_load_image_mask_and_change_of_file(host):
    load = CORE_NODES["LoadImage"]
    save_png(host.input / "a.png", np.full((4, 6, 4), 51, np.uint8))
    with headless.using(host):
        first = load.fingerprint_inputs("a.png")
        image, mask = load.execute("a.png").args
        assert (tuple(image.shape), tuple(mask.shape)) == ((1, 4, 6, 3), (1, 4, 6))
        assert abs(float(mask[0, 0, 0]) - 0.8) < 1e-6
        save_png(host.input / "a.png", np.zeros((4, 6, 3)))
        assert load.fingerprint_inputs("a.png") != first
        assert tuple(load.execute("a.png").args[1].shape) == (1, 64, 64)


def test_primitives_and_latent(host):
    whole = {"class_type": "PrimitiveInt", "inputs": {"value": 32}}
    latent = {"width": ["1", 0], "height": 48, "batch_size": 2}
    graph = parse_graph({"1": whole, "2": {"class_type": "EmptySD3LatentImage", "inputs": latent}})
    assert "2" in graph
    samples = CORE_NODES["EmptySD3LatentImage"].execute(32, 48, 2).args[0]["samples"]
    assert tuple(samples.shape) == (2, 16, 6, 4)


def test_output_folder_that_refuses_stops_before_computing(host, tmp_path):
    (tmp_path / "file").write_text("x")
    host.output = tmp_path / "file" / "out"
    data = {"1": number(), "2": work("1"), "3": show("2"), "4": empty_image(), "5": save("4")}
    with pytest.raises(InkstoneError, match="Cannot write into the folder"):
        run(data, host)
    assert not CALLS


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs /proc")
def test_read_only_output_folder(host, tmp_path):
    host.output = type(tmp_path)("/proc")
    with pytest.raises(InkstoneError, match="/proc"):
        run({"4": empty_image(), "5": save("4")}, host)


@pytest.mark.parametrize("prefix", ["../x", "/etc/x", "", "sub/.."])
def test_prefix_must_stay_inside(tmp_path, prefix):
    with pytest.raises(InkstoneError, match="filename_prefix"):
        numbered_path(tmp_path, prefix, 1, 1)


def test_png_refuses_nan_and_odd_shapes(tmp_path):
    with pytest.raises(InkstoneError, match="NaN"):
        save_png(tmp_path / "x.png", np.full((4, 4, 3), np.nan, np.float32))
    with pytest.raises(InkstoneError, match="expected a picture"):
        save_png(tmp_path / "x.png", np.zeros((4, 4, 5)))
    assert list(tmp_path.iterdir()) == []


def test_a_number_taken_by_another_process_costs_nobody_a_picture(host, tmp_path, monkeypatch):
    (folder := tmp_path / "output").mkdir()
    taken = save_png(folder / "x_00001_.png", np.zeros((2, 2, 3)))
    before = taken.read_bytes()
    monkeypatch.setattr(png, "_next_counter", lambda folder, name: 1)  # read before the other wrote
    with headless.using(host):
        saved = save_images.save_pictures(np.ones((2, 4, 4, 3), np.float32), "x", "output")
    assert [entry["filename"] for entry in saved] == ["x_00002_.png", "x_00003_.png"]
    assert taken.read_bytes() == before and len(list(folder.glob("*"))) == 3


def test_text_chunks_of_strange_files(tmp_path):
    path = save_png(tmp_path / "x.png", np.zeros((4, 4, 3)), {"a": "1", "b": "漢字 \n x"})
    assert read_text_chunks(path) == {"a": "1", "b": "漢字 \n x"}
    whole = path.read_bytes()
    (tmp_path / "cut.png").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "no.png").write_bytes(b"GIF89a..")
    for name, part in (
        ("cut.png", "cut off"),
        ("no.png", "not a PNG"),
        ("none.png", "Cannot read"),
    ):
        with pytest.raises(InkstoneError, match=part):
            read_text_chunks(tmp_path / name)
    with pytest.raises(InkstoneError, match="carries no graph"):
        read_graph(path)
    (tmp_path / "bad.json").write_text("{")
    with pytest.raises(InkstoneError, match="is not JSON"):
        read_graph(tmp_path / "bad.json")


def test_animated_png_of_the_core_carries_its_graph(tmp_path):
    path = save_png(tmp_path / "x.png", np.zeros((4, 4, 3)))
    graph = {"1": {"class_type": "EmptyImage", "inputs": {}}}
    data = b"comf" + b"prompt\0" + json.dumps(graph).encode("latin-1")
    end = path.read_bytes()
    chunk = struct.pack(">I", len(data) - 4) + data + struct.pack(">I", zlib.crc32(data))
    path.write_bytes(end[:-12] + chunk + end[-12:])  # SaveAnimatedPNG puts it behind the pixels
    assert read_graph(path)["1"].class_type == "EmptyImage"


def as_the_page_reads(ui, nodes):
    """An independent reading of the UI form: the page's rules, from the schemas and positions."""
    links = {link[0]: link for link in ui["links"]}
    api = {}
    for node in ui["nodes"]:
        if node["type"] == "MarkdownNote":
            continue
        schema = nodes[node["type"]].define_schema()
        values, inputs = list(node["widgets_values"]), {}
        for item in sorted(schema.inputs, key=lambda item: item.optional):
            if item.get_io_type() in ("INT", "FLOAT", "STRING", "BOOLEAN", "COMBO"):
                inputs[item.id] = values.pop(0)
                if getattr(item, "control_after_generate", None) or item.id in (
                    "seed",
                    "noise_seed",
                ):
                    assert values.pop(0) == "fixed"
                if getattr(item, "upload", None):
                    assert values.pop(0) == "image"
        assert not values
        for slot, entry in enumerate(node["inputs"]):
            if entry["link"] is not None:
                number_, origin, out, target, at, kind = links[entry["link"]]
                source = next(other for other in ui["nodes"] if other["id"] == origin)
                assert (target, at) == (node["id"], slot)
                assert number_ in source["outputs"][out]["links"]
                assert source["outputs"][out]["type"] == kind
                inputs[entry["name"]] = [str(origin), out]
        title = node.get("title") or schema.display_name or node["type"]
        api[str(node["id"])] = {
            "class_type": node["type"],
            "inputs": inputs,
            "_meta": {"title": title},
        }
    return api


def test_ui_form_reads_back_as_the_same_graph():
    data = {
        "1": number(7, flip=True),
        "2": {"class_type": "PrimitiveInt", "inputs": {"value": 3}},
        "3": {"class_type": "Add", "inputs": {"a": ["1", 0], "b": ["1", 0], "extra": ["2", 0]}},
        "4": show("3"),
        "6": save("8"),
        "8": {"class_type": "LoadImage", "inputs": {"image": "a.png"}},
    }
    groups = (Group("Draw", ("1", "2", "3")), Group("Out", ("4",)))
    layout = Layout(groups=groups, notes=(Note("# Files", "Files"),), pack="inkstone")
    ui = ui_from_api(data, ALL, layout)
    assert as_the_page_reads(json.loads(json.dumps(ui)), ALL) == to_api(full_graph(data, ALL))
    assert ui == ui_from_api(data, ALL, layout)
    assert [frame["title"] for frame in ui["groups"]] == ["Draw", "Out"]
    assert ui["last_node_id"] == 9
    assert not overlapping(ui["nodes"])


def overlapping(nodes):
    boxes = [
        (*n["pos"], n["pos"][0] + n["size"][0], n["pos"][1] + n["size"][1] + 30) for n in nodes
    ]
    return [
        (a, b)
        for i, a in enumerate(boxes)
        for b in boxes[:i]
        if a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]
    ]


def test_ui_form_refuses_names_as_ids():
    with pytest.raises(InkstoneError, match="whole numbers"):
        ui_from_api({"one": number(), "2": show("one")}, ALL)
