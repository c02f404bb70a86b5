"""The official Qwen-Image templates with their loaders exchanged (`convert --to-inkstone`), run in
a real ComfyUI on tiny files.

The templates come from the package comfyui-workflow-templates-json. What cannot run here stands by
name in CANNOT with its reason, and a test says so when that is no longer true. An older host lacks
a few plain nodes of newer templates: `settled` does their work beforehand, and nothing else.
"""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from inkstone.headless.exchange import to_inkstone
from inkstone.headless.graph_file import interfaces, read_graph_file
from inkstone.headless.interfaces import read_interfaces
from inkstone.headless.run import node_classes

from . import official_files
from .comfy_install import SOURCE_VARIABLE, given_source
from .comfy_server import ComfyServer
from .test_exchange import templates

RECORDED = Path(__file__).with_name("pages") / "object_info.json"
NEWER = "is of Qwen-Image-2.1, another network"
LAYERS = "draws layers, which core samplers cannot on our network"
SIZE = "core's own ControlNet has one size, 3072 wide: no tiny file of it"
CANNOT = {
    "image_qwen_image_2_1_background_removal": NEWER,
    "image_qwen_image_2_1_image_edit": NEWER,
    "image_qwen_image_2_1_t2i": NEWER,
    "image_qwen_image_2_1_turbo_image_edit": NEWER,
    "image_qwen_image_2_1_turbo_t2i": NEWER,
    "image_qwen_image_controlnet_patch": SIZE,
    "image_qwen_image_instantx_controlnet": SIZE,
    "image_qwen_image_instantx_inpainting_controlnet": SIZE,
    "image_qwen_Image_2512_controlnet": SIZE,
    "image_qwen_image_layered": LAYERS,
    "image_qwen_image_layered_control": LAYERS,
}
FOUND = {path.name.removesuffix(".json"): path for path in templates()}
BRIDGES = {"InkstoneToModel", "InkstoneToCLIP", "InkstoneToVAE"}

if not FOUND:
    pytest.skip("the package comfyui-workflow-templates-json is absent", allow_module_level=True)


def converted(name: str, folder: Path) -> tuple[dict[str, Any], list[str]]:
    """(API graph with our loaders, what was said) of one template."""
    made, notes = to_inkstone(json.loads(FOUND[name].read_text("utf-8")))
    path = folder / "graph.json"
    path.write_text(json.dumps(made), "utf-8")
    ours = interfaces(node_classes())
    return read_graph_file(path).as_api(read_interfaces(str(RECORDED)) | ours, ran=False), notes


def settled(graph: dict[str, Any], known: set[str]) -> dict[str, Any]:
    """The graph for a host that lacks ComfySwitchNode and SaveImageAdvanced."""
    graph = json.loads(json.dumps(graph))
    for key, node in list(graph.items()):
        kind, values = node["class_type"], node["inputs"]
        if kind == "SaveImageAdvanced" and kind not in known:
            prefix = values.get("filename_prefix", "template")
            graph[key] = {"class_type": "SaveImage", "inputs": {"images": values["images"],
                                                                "filename_prefix": prefix}}
        if kind == "ComfySwitchNode" and kind not in known:
            chosen = values["switch"]
            if isinstance(chosen, list):
                chosen = graph[chosen[0]]["inputs"]["value"]
            answer = values.get("on_true" if chosen else "on_false")
            del graph[key]
            for other in graph.values():
                for name, value in list(other["inputs"].items()):
                    if value == [key, 0]:
                        other["inputs"][name] = answer
    return graph


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ComfyServer]:
    source = given_source()
    if source is None:
        pytest.skip(f"no ComfyUI: set {SOURCE_VARIABLE} to a git directory or tree of it")
    base = tmp_path_factory.mktemp("templates")
    with ComfyServer(source, base=base) as running:
        Image.effect_noise((96, 64), 80).convert("RGB").save(base / "input" / "example.png")
        yield running
    shutil.rmtree(base, ignore_errors=True)  # 80 MB for each text encoder


def test_every_template_is_known_by_name():
    """A new official template is run, and one that cannot is in the list with a reason."""
    gone = CANNOT.keys() - FOUND.keys()
    assert not gone, f"no longer among the official templates: {sorted(gone)}"
    assert len(FOUND) >= 26, sorted(FOUND)


@pytest.mark.parametrize("name", sorted(CANNOT))
def test_what_cannot_is_said_by_the_exchange(name, tmp_path):
    """The reason is what the user is told, but for the size of core's own ControlNet."""
    graph, notes = converted(name, tmp_path)
    kinds = {node["class_type"] for node in graph.values()}
    if CANNOT[name] == SIZE:
        assert kinds & {"ControlNetLoader", "ModelPatchLoader"} and kinds >= BRIDGES
    else:
        assert any(CANNOT[name] in note for note in notes), notes
        assert "InkstoneToModel" not in kinds


@pytest.mark.parametrize("name", sorted(FOUND.keys() - CANNOT.keys()))
def test_an_official_template_runs_on_our_network(name, server, tmp_path):
    graph, _ = converted(name, tmp_path)
    known = set(server.get("/object_info"))
    graph = official_files.smaller(settled(graph, known))
    lacking = {node["class_type"] for node in graph.values()} - known
    if lacking:
        pytest.skip(f"this ComfyUI lacks {', '.join(sorted(lacking))}")
    assert {node["class_type"] for node in graph.values()} >= BRIDGES
    for folder, file in official_files.wanted(graph):
        path = server.base / "models" / folder / file
        if not path.exists():
            official_files.write(path, folder)
    result = server.run(graph, {})
    pictures = [Image.open(io.BytesIO(image.data)) for image in result.images]
    drawn = [p for p, image in zip(pictures, result.images) if image.type == "output"]
    assert drawn, result.history["outputs"]
    assert any(low < high for low, high in drawn[0].convert("RGB").getextrema()), "one colour"
    assert "NOT LOADED" not in server.log_text()
    assert "lora key not loaded" not in server.log_text()
