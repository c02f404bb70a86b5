"""Graphs on ComfyUI's page read well: the shipped ones here, those of a draw in draw_graphs.py."""

from __future__ import annotations

import copy
import json

import pytest

from inkstone.headless.core_nodes.registry import node_classes
from inkstone.headless.workflow.layout import Layout, Note
from inkstone.headless.workflow.to_ui import ui_from_api

from ...conftest import ROOT
from ...support.layouts import boxes, faults, under, zoom

SHIPPED = sorted((ROOT / "workflows").glob("*.json"))


def shipped(title: str) -> dict:
    return json.loads((ROOT / "workflows" / f"{title}.json").read_text("utf-8"))


@pytest.mark.parametrize("path", SHIPPED, ids=lambda p: p.stem)
def test_a_shipped_graph_reads_at_first_open(path):
    ui = json.loads(path.read_text("utf-8"))
    assert faults(ui) == []
    assert zoom(ui) >= 0.75 and ui["extra"]["ds"]["scale"] >= 0.75
    assert len({group["bounding"][1] for group in ui["groups"]}) <= 2, "at most two rows"
    titles = [group["title"] for group in ui["groups"]]
    assert [title[0] for title in titles] == [str(n) for n in range(1, len(titles) + 1)]
    assert titles[0] == "1 Models" and titles[-1].endswith("Result")


SEVERAL = {"Variety (no download)"}  # prompts and drawings


@pytest.mark.parametrize("path", SHIPPED, ids=lambda p: p.stem)
def test_app_mode_names_prompt_picture_size_and_seed(path):
    stem = path.stem
    ui = json.loads(path.read_text("utf-8"))
    nodes, app = {node["id"]: node for node in ui["nodes"]}, ui["extra"]["linearData"]
    names = [name for _, name in app["inputs"]]
    for key, name in app["inputs"]:
        slots = [slot for slot in nodes[key]["inputs"] if slot["name"] == name]
        assert slots and slots[0]["link"] is None, f"{name} of {key} is no free widget"
    kinds = [node["type"] for node in ui["nodes"]]
    view = ["around", "height", "distance"]  # of Camera Angle, which writes the prompt
    written = "InkstoneCameraAngle" in kinds
    assert names[: 3 if written else 1] == (view if written else ["prompt"])
    # of each drawing, and of each enhanced prompt, which the others are linked to
    drawings = kinds.count("InkstoneDenoise")
    words = kinds.count("InkstoneEnhancePrompt")
    several = stem in SEVERAL
    enlarged_source = "InkstoneUpscalePicture" in kinds and drawings > 0  # its prompt too
    prompts = 0 if written else drawings if several else 1 + enlarged_source
    assert names.count("prompt") == prompts
    assert names.count("seed") == (drawings if several else 1) + words
    assert names.count("image") == kinds.count("LoadImage")
    assert names.count("size") == kinds.count("InkstoneEmptyLatent")
    assert names == sorted(names, key=["prompt", *view, "image", "size", "seed"].index)
    assert [nodes[key]["type"] for key in app["outputs"]] == ["SaveImage"] * kinds.count(
        "SaveImage"
    )
    assert ui["extra"]["linearMode"] is False, "it opens as a graph"


@pytest.mark.parametrize(
    ("title", "height"), [("Regional prompts (no download)", 582), ("Regional prompts", 686)]
)
def test_texts_of_one_line_are_as_high_as_the_newer_look_draws_them(title, height):
    """The heights are those that page_layout measured."""
    sizes = {node["type"]: node["size"] for node in shipped(title)["nodes"]}
    assert sizes["InkstoneRegionalPrompts"][1] == height


def test_prompts_have_the_pages_colours():
    colors = {n["type"]: n.get("color") for n in shipped("Text to image")["nodes"]}
    assert colors["InkstoneEncodePrompt"] == "#232" and colors["InkstoneDenoise"] is None
    graph = json.loads((ROOT / "workflows/api/text_to_image_embedded.json").read_text("utf-8"))
    graph["20"] = copy.deepcopy(graph["4"])
    graph["7"]["inputs"]["negative"] = ["20", 0]
    ui = ui_from_api(graph, node_classes())
    colors = {node["id"]: (node.get("color"), node.get("bgcolor")) for node in ui["nodes"]}
    assert colors[4] == ("#232", "#353") and colors[20] == ("#322", "#533")


def test_the_model_runs_straight_to_the_sampler():
    ui = shipped("Text to image")
    nodes = {node["type"]: node for node in ui["nodes"]}
    model, sampler = nodes["InkstoneLoadDiffusionModel"], nodes["InkstoneDenoise"]
    assert model["pos"][1] == sampler["pos"][1]
    bent = {x["id"] for x in ui["extra"].get("linkExtensions", ())}
    (link,) = [x[0] for x in ui["links"] if x[1] == model["id"] and x[3] == sampler["id"]]
    assert link not in bent


def test_a_note_is_in_both_languages_and_short():
    for path in SHIPPED:
        (note,) = [n for n in json.loads(path.read_text("utf-8"))["nodes"] if "Note" in n["type"]]
        lines = [line for line in note["widgets_values"][0].split("\n") if line[:1] not in "-#"]
        english, chinese = [line for line in lines if line]
        assert any("\u4e00" <= letter <= "\u9fff" for letter in chinese), path.stem
        assert not any("\u4e00" <= letter <= "\u9fff" for letter in english), path.stem
        assert len(english) <= 420, f"{path.stem}: {len(english)} letters"


@pytest.mark.parametrize("change", ["move", "strip", "shrink"])
def test_the_measures_see_what_is_wrong(change):
    """The same graph, spoilt: a node moved onto a wire, bends removed, a frame made narrower."""
    ui = shipped("Edit 2509")
    if change == "move":
        sampler = next(n for n in ui["nodes"] if n["type"] == "InkstoneDenoise")
        sampler["pos"] = list(next(n for n in ui["nodes"] if n["type"] == "LoadImage")["pos"])
        assert any(" on " in fault for fault in faults(ui))
    elif change == "strip":
        for key in ("reroutes", "linkExtensions"):
            del ui["extra"][key]
        assert under(ui) > 0.1 and "wires under" in faults(ui)[0]
    else:
        ui["groups"][1]["bounding"][2] -= 40
        assert any("leaves" in fault for fault in faults(ui))


def test_a_note_without_room_stands_below():
    graph = {"1": {"class_type": "LoadImage", "inputs": {"image": "a.png"}}}
    graph["2"] = {"class_type": "PreviewImage", "inputs": {"images": ["1", 0]}}
    ui = ui_from_api(graph, node_classes(), Layout(notes=(Note("# Two\n\nlines"), Note("more"))))
    assert faults(ui) == [] and len(boxes(ui)) == 4


def test_a_large_graph_is_placed_in_linear_time():
    """Bends are left out of what nobody reads as a whole."""
    graph = {"1": {"class_type": "SolidMask", "inputs": {"value": 1.0, "width": 8, "height": 8}}}
    for k in range(2, 600):
        graph[str(k)] = {"class_type": "InvertMask", "inputs": {"mask": [str(k - 1), 0]}}
    graph["600"] = {"class_type": "MaskToImage", "inputs": {"mask": ["599", 0]}}
    graph["601"] = {"class_type": "PreviewImage", "inputs": {"images": ["600", 0]}}
    ui = ui_from_api(graph, node_classes())
    assert len(ui["nodes"]) == 601 and "reroutes" not in ui["extra"]
