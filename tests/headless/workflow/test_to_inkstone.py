# ruff: noqa: E501
"""Core's loaders in other people's graphs exchanged for ours and a bridge: UI, subgraphs, API."""

from __future__ import annotations

import copy
import importlib.util
import json
from pathlib import Path

import pytest

from inkstone.headless.cli.main import main
from inkstone.headless.core_nodes.registry import node_classes
from inkstone.headless.workflow.load import interfaces, read_graph_file
from inkstone.headless.workflow.node_info import read_interfaces
from inkstone.headless.workflow.to_inkstone import EXCHANGES, to_inkstone

MODEL, CLIP, VAE = "qwen_image_edit_2511.safetensors", "qwen_2.5_vl_7b.safetensors", "qwen_vae.sft"
API = {
    "1": {"class_type": "UNETLoader", "inputs": {"unet_name": MODEL, "weight_dtype": "default"}},
    "2": {"class_type": "CLIPLoader", "inputs": {"clip_name": CLIP, "type": "qwen_image"}},
    "3": {"class_type": "VAELoader", "inputs": {"vae_name": VAE}},
    "4": {"class_type": "UNETLoader", "inputs": {"unet_name": "lotus.safetensors"}},
    "5": {
        "class_type": "TextEncodeQwenImageEditPlus",
        "inputs": {"clip": ["2", 0], "vae": ["3", 0], "prompt": "x"},
    },
    "6": {
        "class_type": "FluxKontextMultiReferenceLatentMethod",
        "inputs": {"conditioning": ["5", 0], "reference_latents_method": "index_timestep_zero"},
    },
    "7": {"class_type": "KSampler", "inputs": {"model": ["1", 0], "positive": ["6", 0]}},
}


def test_an_api_graph():
    before = copy.deepcopy(API)
    changed, notes = to_inkstone(API)
    assert before == API, "the one that came in stays as it is"
    assert changed["7"] == API["7"] and changed["4"] == API["4"]
    for key, bridge, wire in (
        ("1", "ToModel", "model"),
        ("2", "ToCLIP", "text_encoder"),
        ("3", "ToVAE", "vae"),
    ):
        assert changed[key]["class_type"] == f"Inkstone{bridge}"
        ours = changed[changed[key]["inputs"][wire][0]]
        assert ours["inputs"][wire] == {"1": MODEL, "2": CLIP, "3": VAE}[key]
    assert changed[changed["1"]["inputs"]["model"][0]]["inputs"]["variant"] == "edit-2511"
    assert sum("->" in note for note in notes) == 3
    assert any("lotus.safetensors stays: is not of Qwen-Image" in note for note in notes)


@pytest.mark.parametrize(
    "kind, method, variant",
    [
        ("CLIPTextEncode", "", "auto"),
        ("TextEncodeQwenImageEdit", "", "edit"),
        ("TextEncodeQwenImageEditPlus", "index", "edit-2509"),
    ],
)
def test_the_variant_comes_from_the_encode_nodes(kind, method, variant):
    graph = {
        "1": API["1"],
        "5": {"class_type": kind, "inputs": {}},
        "6": {"class_type": "X", "inputs": {"reference_latents_method": method}},
    }
    changed, _ = to_inkstone(graph)
    assert changed["7"]["inputs"] == {"model": MODEL, "dtype": "auto", "variant": variant}


@pytest.mark.parametrize(
    "name, variant",
    [("qwen_image_2.1_bf16.sft", "auto"), ("qwen_image_2.1_Turbo_int8.sft", "2.1-turbo")],
)
@pytest.mark.parametrize("kind", ["TextEncodeQwenImage21", "CLIPTextEncode"])
def test_turbo_is_known_by_its_name(name, variant, kind):
    """Its tensors are those of the base; the encoders of its templates are two models."""
    pe = "qwen3.5_9b_qwen_image_2.1_pe_t2i.int8_convrot.safetensors"
    graph = {
        "1": {"class_type": "UNETLoader", "inputs": {"unet_name": name}},
        "2": {"class_type": "CLIPLoader", "inputs": {"clip_name": "qwen3vl_8b_bf16.sft"}},
        "3": {"class_type": "CLIPLoader", "inputs": {"clip_name": pe}},
        "4": {"class_type": "CLIPLoader", "inputs": {"clip_name": "qwen3vl_4b_bf16.sft"}},
        "5": {"class_type": kind, "inputs": {"clip": ["2", 0]}},
    }
    changed, notes = to_inkstone(graph)
    kinds = [changed[key]["class_type"] for key in "1234"]
    assert kinds == ["InkstoneToModel", "InkstoneToCLIP", "CLIPLoader", "CLIPLoader"]
    assert changed["6"]["inputs"] == {"model": name, "dtype": "auto", "variant": variant}
    assert notes[-2].startswith(f"3: CLIPLoader {pe} stays: is a language model that rewrites")
    assert "Inkstone Enhance Prompt" in notes[-2] and "is not of Qwen-Image" in notes[-1]


def test_what_cannot_be_exchanged_is_named():
    merged = API | {"8": {"class_type": "ModelMergeQwenImage", "inputs": {}}}
    changed, notes = to_inkstone(merged)
    assert changed["1"] == API["1"] and changed["3"]["class_type"] == "InkstoneToVAE"
    assert any("ModelMergeQwenImage merges or saves the weights" in n for n in notes)
    inside = API | {"8": {"class_type": "QwenImage21FunControlNetApply", "inputs": {}}}
    changed, notes = to_inkstone(inside)
    assert changed["1"] == API["1"] and changed["3"]["class_type"] == "InkstoneToVAE"
    assert any("works inside core's own network. Use Inkstone Load ControlNet" in n for n in notes)
    wired = {"1": {"class_type": "UNETLoader", "inputs": {"unet_name": ["9", 0]}}}
    assert to_inkstone(wired)[0] == wired and "by a wire" in to_inkstone(wired)[1][1]
    assert to_inkstone({}) == ({}, ["nothing was exchanged"])


@pytest.mark.parametrize("kind", ["CheckpointLoaderSimple", "CheckpointLoader"])
@pytest.mark.parametrize(
    "name, why", [("qwen_image_aio.safetensors", "InkstoneToVAE"), ("sd15.ckpt", "by its name")]
)
def test_a_loader_of_a_whole_checkpoint_is_named(kind, name, why):
    api = {"4": {"class_type": kind, "inputs": {"ckpt_name": name}}}
    ui = {"nodes": [page(kind, 4, [name], "MODEL", [])], "links": [], "version": 0.4}
    for graph in (api, ui):
        changed, notes = to_inkstone(graph)
        assert changed == graph and notes[0] == "nothing was exchanged"
        assert notes[1].startswith(f"4: {kind} {name} stays: ") and why in notes[1]


def page(node_type, number, widgets, out, links, inputs=()):
    return {
        "id": number,
        "type": node_type,
        "pos": [10 * number, 0],
        "size": [200, 80],
        "flags": {},
        "order": number,
        "mode": 0,
        "inputs": list(inputs),
        "outputs": [{"name": out, "type": out, "links": links}],
        "properties": {"models": [{"name": MODEL, "url": "u", "directory": "d"}]},
        "widgets_values": widgets,
    }


SAVER = {
    "id": 9,
    "type": "Taker",
    "pos": [900, 0],
    "size": [200, 80],
    "flags": {},
    "order": 9,
    "mode": 0,
    "inputs": [{"name": "model", "type": "MODEL", "link": 1}],
    "outputs": [],
    "properties": {},
    "widgets_values": [],
}


def test_a_ui_graph():
    graph = {
        "last_node_id": 9,
        "last_link_id": 1,
        "version": 0.4,
        "nodes": [page("UNETLoader", 3, [MODEL, "default"], "MODEL", [1]), SAVER],
        "links": [[1, 3, 0, 9, 0, "MODEL"]],
    }
    changed, notes = to_inkstone(graph)
    nodes = {n["id"]: n for n in changed["nodes"]}
    assert nodes[3]["type"] == "InkstoneToModel" and nodes[3]["outputs"][0]["links"] == [1]
    assert nodes[10]["type"] == "InkstoneLoadDiffusionModel" and changed["last_node_id"] == 10
    assert nodes[10]["widgets_values"] == [MODEL, "auto", "auto"]
    assert nodes[10]["properties"]["models"][0]["name"] == MODEL, "where it can be had"
    assert [2, 10, 0, 3, 0, "INKSTONE_MODEL"] in changed["links"] and changed["last_link_id"] == 2
    assert nodes[3]["inputs"][0]["link"] == 2 == nodes[10]["outputs"][0]["links"][0]
    assert notes == [f"3: UNETLoader {MODEL} -> InkstoneLoadDiffusionModel and InkstoneToModel"]


def subgraph():
    """A level whose loader shows its type, then its file, then another node's number outside."""
    shows = [
        {"name": n, "type": "COMBO", "widget": {"name": n}, "link": i}
        for n, i in (("weight_dtype", 11), ("unet_name", 12))
    ]
    other = page(
        "Other",
        4,
        [5],
        "INT",
        [],
        [{"name": "steps", "type": "INT", "widget": {"name": "steps"}, "link": 13}],
    )
    names = ("weight_dtype", "unet_name", "steps")
    links = [
        {
            "id": 11 + i,
            "origin_id": -10,
            "origin_slot": i,
            "target_id": 3 + (i == 2),
            "target_slot": 0,
            "type": "COMBO",
        }
        for i in range(3)
    ]
    level = {
        "id": "uuid",
        "name": "sub",
        "version": 1,
        "state": {"lastNodeId": 4, "lastLinkId": 13},
        "inputs": [
            {"id": n, "name": n, "type": "COMBO", "linkIds": [11 + i]} for i, n in enumerate(names)
        ],
        "outputs": [],
        "nodes": [page("UNETLoader", 3, [MODEL, "default"], "MODEL", [], shows), other],
        "links": links,
    }
    outside = [{"name": n, "type": "COMBO", "widget": {"name": n}, "link": None} for n in names]
    instance = {
        "id": 5,
        "type": "uuid",
        "pos": [0, 0],
        "size": [1, 1],
        "flags": {},
        "order": 0,
        "mode": 0,
        "inputs": outside,
        "outputs": [],
        "properties": {"proxyWidgets": [["3", "weight_dtype"], ["3", "unet_name"], ["4", "steps"]]},
        "widgets_values": ["fp8", "other_qwen.safetensors", 7],
    }
    return {
        "last_node_id": 5,
        "last_link_id": 0,
        "nodes": [instance],
        "links": [],
        "version": 0.4,
        "definitions": {"subgraphs": [level]},
    }


def test_widgets_that_a_subgraph_shows():
    changed, _ = to_inkstone(subgraph())
    level, instance = changed["definitions"]["subgraphs"][0], changed["nodes"][0]
    assert [i["name"] for i in level["inputs"]] == ["unet_name", "steps"], "ours has no such type"
    assert instance["widgets_values"] == ["other_qwen.safetensors", 7]
    assert instance["properties"]["proxyWidgets"] == [["5", "model"], ["4", "steps"]]
    slots = {link["id"]: (link["origin_slot"], link["target_id"]) for link in level["links"]}
    assert slots[12] == (0, 5) and slots[13] == (1, 4) and 11 not in slots
    ours = next(n for n in level["nodes"] if n["id"] == 5)
    assert ours["inputs"][0]["widget"] == {"name": "model"} and level["state"]["lastNodeId"] == 5


def test_what_is_made_is_what_our_nodes_take():
    """Widgets and wires of the nodes that are put in are those of their schemas, in order."""
    classes = node_classes()
    for change in EXCHANGES.values():
        loader = {i.id for i in classes[change.loader].define_schema().inputs}
        assert (
            list(change.widgets("x", "auto"))
            == [i.id for i in classes[change.loader].define_schema().inputs]
            or set(change.widgets("x", "auto")) <= loader
        )
        bridge = classes[change.bridge].define_schema()
        assert [i.id for i in bridge.inputs] == [change.wire]


def test_the_command(tmp_path, capsys):
    path, out = tmp_path / "graph.json", tmp_path / "out.json"
    path.write_text(json.dumps(subgraph()))
    assert main(["convert", str(path), "--to-inkstone", "-o", str(out)]) == 0
    printed = capsys.readouterr()
    assert "UNETLoader" in printed.err and printed.out.strip() == str(out)
    assert "definitions" in json.loads(out.read_text()), "a UI graph stays one"


def templates() -> list[Path]:
    package = importlib.util.find_spec("comfyui_workflow_templates_json")
    if package is None:
        return []
    folder = Path(package.submodule_search_locations[0]) / "templates"
    return sorted(p for p in folder.glob("*qwen*.json") if not p.name.startswith(("api_", "llm_")))


@pytest.mark.skipif(not templates(), reason="the package comfyui-workflow-templates-json is absent")
def test_the_official_templates_stay_the_same_but_for_their_loaders(tmp_path):
    info = Path(__file__).resolve().parents[2] / "support" / "pages" / "object_info.json"
    if not info.exists():
        pytest.skip("no /object_info is recorded here")
    ours = interfaces(node_classes())
    classes = ours | read_interfaces(str(info)) | ours
    for path in templates():
        graph, notes = to_inkstone(json.loads(path.read_text("utf-8")))
        out = tmp_path / path.name
        out.write_text(json.dumps(graph))
        before = read_graph_file(path).as_api(classes, ran=False)
        after = read_graph_file(out).as_api(classes, ran=False)
        changed = {k for k in before if before[k]["class_type"] != after[k]["class_type"]}
        assert {before[k]["class_type"] for k in changed} <= EXCHANGES.keys()
        assert all(before[k]["inputs"] == after[k]["inputs"] for k in before.keys() - changed)
        for key in changed:
            change = EXCHANGES[before[key]["class_type"]]
            loader = after[after[key]["inputs"][change.wire][0]]
            assert loader["inputs"][change.loader_file] == before[key]["inputs"][change.file], (
                path.name
            )
        assert len(changed) <= sum("->" in note for note in notes)
