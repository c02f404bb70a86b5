"""Pictures in and out of graphs: file names, text chunks, masks, folders that refuse."""

from __future__ import annotations

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
from inkstone.headless.graph.api_graph import parse_graph, to_api
from inkstone.headless.graph.executor import Executor
from inkstone.headless.workflow.load import read_graph_file
from inkstone.host import headless, save_images

from ...support.fake_nodes import ALL, CALLS, empty_image, number, run, save, show, work


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
    assert parse_graph(read_graph_file(path).api) == graph
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
        read_graph_file(path)
    (tmp_path / "bad.json").write_text("{")
    with pytest.raises(InkstoneError, match="is not JSON"):
        read_graph_file(tmp_path / "bad.json")


def test_animated_png_of_the_core_carries_its_graph(tmp_path):
    path = save_png(tmp_path / "x.png", np.zeros((4, 4, 3)))
    graph = {"1": {"class_type": "EmptyImage", "inputs": {}}}
    data = b"comf" + b"prompt\0" + json.dumps(graph).encode("latin-1")
    end = path.read_bytes()
    chunk = struct.pack(">I", len(data) - 4) + data + struct.pack(">I", zlib.crc32(data))
    path.write_bytes(end[:-12] + chunk + end[-12:])  # SaveAnimatedPNG puts it behind the pixels
    assert read_graph_file(path).api["1"]["class_type"] == "EmptyImage"


def test_pictures_below_a_folder_are_found_by_both_slashes(host):
    load = CORE_NODES["LoadImage"]
    (host.input / "faces" / "old").mkdir(parents=True)
    save_png(host.input / "faces" / "old" / "me.png", np.zeros((4, 6, 3), np.uint8))
    with headless.using(host):
        for name in ("faces/old/me.png", "faces\\old\\me.png", "faces\\old/me.png [input]"):
            assert load.validate_inputs(name) is True, name
            assert load.execute(name).args[0].shape == (1, 4, 6, 3)
        for name in ("..\\me.png", "faces\\..\\..\\me.png", "faces/../../me.png"):
            assert "leads out of" in load.validate_inputs(name), name
        for name in ("", "x" * 300 + ".png", "a\0b.png", "faces"):
            assert load.validate_inputs(name) is not True, name
        for value in ({"a": 1}, None, 3, True, ["a.png"]):
            assert "expected a text" in load.validate_inputs(value), value


def test_one_frame_of_an_animation_is_read_alone(host, monkeypatch):
    from PIL import Image

    from inkstone.files import opening
    from inkstone.headless.core_nodes.load_save import LoadFirstFrame

    pictures = [Image.new("RGB", (64, 64), (40 * n, 0, 0)) for n in range(5)]
    pictures[0].save(host.input / "a.webp", save_all=True, append_images=pictures[1:])
    with headless.using(host):
        every = CORE_NODES["LoadImage"].execute("a.webp").args[0]
        first = LoadFirstFrame.execute("a.webp").args[0]
        assert len(every) == 5 and (first == every[:1]).all()
        monkeypatch.setattr(opening, "SMALL_ROOM", 150_000)
        assert LoadFirstFrame.execute("a.webp").args[0].shape == (1, 64, 64, 3)
        with pytest.raises(InkstoneError, match="5 frames of 64x64"):
            CORE_NODES["LoadImage"].execute("a.webp")


def test_texts_of_a_png_are_bounded_together(tmp_path):
    chunk = "[]," * (1 << 20)
    save_png(tmp_path / "a.png", np.zeros((2, 2, 3), np.uint8), dict.fromkeys("abcd", chunk))
    assert list(read_text_chunks(tmp_path / "a.png")) == ["a", "b"]


def test_hidden_colours_are_named_where_nobody_reads_the_mask(host, caplog):
    from inkstone.headless.core_nodes.registry import node_classes
    from inkstone.headless.graph.api_graph import parse_graph
    from inkstone.headless.graph.executor import Executor

    caplog.set_level("INFO")
    pixels = np.zeros((4, 6, 4), np.uint8)
    pixels[:, 3:, 3] = 255
    save_png(host.input / "cut.png", pixels)
    save_png(host.input / "white.png", pixels | np.array([255, 255, 255, 0], np.uint8))

    def lines(name: str, last: dict[str, object]) -> int:
        caplog.clear()
        load = {"class_type": "LoadImage", "inputs": {"image": name}}
        preview = {"class_type": "PreviewImage", "inputs": {"images": ["2", 0]}}
        Executor(node_classes()).run(parse_graph({"1": load, "2": last, "3": preview}), host)
        return caplog.text.count("50.0 % of its area")

    flip = {"image": ["1", 0], "flip_method": "x-axis: vertically"}
    join = {"image": ["1", 0], "alpha": ["1", 1]}
    assert lines("cut.png", {"class_type": "ImageFlip", "inputs": flip}) == 1
    assert lines("cut.png", {"class_type": "JoinImageWithAlpha", "inputs": join}) == 0
    assert lines("white.png", {"class_type": "ImageFlip", "inputs": flip}) == 0
