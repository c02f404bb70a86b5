"""The official Qwen-Image templates with their loaders exchanged (`convert --to-inkstone`), run in
a real ComfyUI on tiny files.

The templates come from the package comfyui-workflow-templates-json. An older host lacks a few plain
nodes of newer templates: `settled` does their work beforehand, and nothing else, and the pack
tests/support/nodes_21 has the two nodes of Qwen-Image-2.1. A depth picture that another model would
draw is the picture itself, and the enhancers of 2.1 stay switched off.
"""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from inkstone.headless.core_nodes.registry import node_classes
from inkstone.headless.workflow.load import interfaces, read_graph_file
from inkstone.headless.workflow.node_info import read_interfaces
from inkstone.headless.workflow.to_inkstone import to_inkstone

from ...support import official_files
from ...support.comfy_install import PACK, SOURCE_VARIABLE, given_source
from ...support.comfy_server import ComfyServer
from .test_to_inkstone import templates

NODES_21 = Path(__file__).resolve().parents[2] / "support" / "nodes_21"
RECORDED = Path(__file__).resolve().parents[2] / "support" / "pages" / "object_info.json"
# with controls of core, which have one size: files as wide as published, one block deep
WIDE = {
    "image_qwen_image_controlnet_patch",
    "image_qwen_image_instantx_controlnet",
    "image_qwen_image_instantx_inpainting_controlnet",
}
FOUND = {path.name.removesuffix(".json"): path for path in templates()}
BRIDGES = {"InkstoneToModel", "InkstoneToCLIP", "InkstoneToVAE"}

if not FOUND:
    pytest.skip("the package comfyui-workflow-templates-json is absent", allow_module_level=True)


def converted(
    name: str, folder: Path, host: dict[str, Any] | None = None
) -> tuple[dict[str, Any], list[str]]:
    """(API graph with our loaders, what was said) of one template; host: what its nodes take."""
    changed, notes = to_inkstone(json.loads(FOUND[name].read_text("utf-8")))
    path = folder / "graph.json"
    path.write_text(json.dumps(changed), "utf-8")
    ours = interfaces(node_classes())
    known = read_interfaces(str(RECORDED)) | ours
    if host is not None:
        info = folder / "object_info.json"
        info.write_text(json.dumps(host), "utf-8")
        known |= read_interfaces(str(info))
    return read_graph_file(path).as_api(known, ran=False), notes


def settled(graph: dict[str, Any], known: set[str]) -> dict[str, Any]:
    """The graph for a host that lacks ComfySwitchNode and SaveImageAdvanced, without the model that
    draws depth pictures.
    """
    graph = json.loads(json.dumps(graph))
    for key, node in list(graph.items()):
        kind, values = node["class_type"], node["inputs"]
        if kind == "SaveImageAdvanced" and kind not in known:
            prefix = values.get("filename_prefix", "template")
            graph[key] = {
                "class_type": "SaveImage",
                "inputs": {"images": values["images"], "filename_prefix": prefix},
            }
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
    if any(node["class_type"] == "LotusConditioning" for node in graph.values()):
        depth = next(k for k, node in graph.items() if node["class_type"] == "ImageInvert")
        picture = next(k for k, node in graph.items() if node["class_type"] == "LoadImage")
        graph[depth]["inputs"]["image"] = [picture, 0]
    return graph


@contextmanager
def started(base: Path) -> Iterator[ComfyServer]:
    source = given_source()
    if source is None:
        pytest.skip(f"no ComfyUI: set {SOURCE_VARIABLE} to a git directory or tree of it")
    with ComfyServer(source, packs=(PACK, NODES_21), base=base) as running:
        picture = Image.effect_noise((96, 64), 80).convert("RGBA")
        picture.putalpha(Image.linear_gradient("L").resize((96, 64)))  # half of it a mask
        picture.save(base / "input" / "example.png")
        yield running
    shutil.rmtree(base, ignore_errors=True)  # 80 MB for each text encoder


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ComfyServer]:
    with started(tmp_path_factory.mktemp("templates")) as running:
        yield running


@pytest.fixture(scope="module")
def wide_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ComfyServer]:
    with started(tmp_path_factory.mktemp("wide")) as running:
        yield running


def test_every_official_template_is_found():
    assert len(FOUND) >= 26, sorted(FOUND)


@pytest.mark.comfyui
@pytest.mark.parametrize("name", sorted(FOUND.keys() - WIDE))
def test_an_official_template_runs_on_our_network(name, server, tmp_path):
    run(name, server, tmp_path, official_files.TINY)


@pytest.mark.comfyui
@pytest.mark.parametrize("name", sorted(WIDE))
def test_one_with_a_control_of_core_runs_on_our_network(name, wide_server, tmp_path):
    run(name, wide_server, tmp_path, official_files.WIDE)


def run(name: str, server: ComfyServer, folder: Path, sizes: official_files.Sizes) -> None:
    known = server.get("/object_info")
    graph, _ = converted(name, folder, known)
    graph = official_files.smaller(settled(graph, set(known)))
    lacking = {node["class_type"] for node in graph.values()} - set(known)
    if lacking:
        pytest.skip(f"this ComfyUI lacks {', '.join(sorted(lacking))}")
    assert {node["class_type"] for node in graph.values()} >= BRIDGES
    for place, file in official_files.model_files(graph):
        path = server.base / "models" / place / file
        if not path.exists() and "lotus" not in file and "vae-ft" not in file:
            official_files.write(path, place, sizes)
    result = server.run(graph, {})
    pictures = [Image.open(io.BytesIO(image.data)) for image in result.images]
    drawn = [p for p, image in zip(pictures, result.images) if image.type == "output"]
    assert drawn, result.history["outputs"]
    assert any(low < high for low, high in drawn[0].convert("RGB").getextrema()), "one colour"
    assert "NOT LOADED" not in server.log_text()
    assert "lora key not loaded" not in server.log_text()
