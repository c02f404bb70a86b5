"""The pack inside a real ComfyUI: it loads, lists its nodes, draws the shipped graph over HTTP.

Runs where a source is at hand (INKSTONE_COMFYUI_SOURCE, see tests/support/comfy_install.py);
elsewhere one warning says that it did not. INKSTONE_COMFYUI_PACK and INKSTONE_COMFYUI_GRAPH
exchange what is tested.
"""

from __future__ import annotations

import asyncio
import io
import json
import os
import re
import sys
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from ..support.comfy_install import PACK, SOURCE_VARIABLE, ServerError, given_source
from ..support.comfy_server import ComfyServer, RunResult

TESTED = Path(os.environ.get("INKSTONE_COMFYUI_PACK", PACK)).resolve()
GRAPH = Path(
    os.environ.get(
        "INKSTONE_COMFYUI_GRAPH", PACK / "workflows" / "api" / "text_to_image_embedded.json"
    )
)

pytestmark = pytest.mark.comfyui
if given_source() is None:
    _LINE = f"NOT TESTED in a real ComfyUI: set {SOURCE_VARIABLE} to a git directory or tree of it"
    warnings.warn(_LINE, stacklevel=1)
    pytest.skip(_LINE, allow_module_level=True)


@pytest.fixture(scope="module")
def server() -> Iterator[ComfyServer]:
    with ComfyServer(given_source(), packs=(TESTED,)) as running:
        yield running


@pytest.fixture(scope="module")
def graph() -> dict[str, Any]:
    return json.loads(GRAPH.read_text("utf-8"))


@pytest.fixture(scope="module")
def result(server: ComfyServer, graph: dict[str, Any]) -> RunResult:
    return server.run(graph, {"workflow": {"marker": "inkstone"}})


@pytest.fixture(scope="module")
def picture(result: RunResult) -> Image.Image:
    """The first picture that was saved (not only previewed), fully decoded."""
    saved = [item for item in result.images if item.type == "output"]
    assert saved, f"no picture in output; history: {result.history['outputs']}"
    image = Image.open(io.BytesIO(saved[0].data))
    image.load()
    assert image.format == "PNG"
    return image


def test_pack_loads_without_a_complaint(server: ComfyServer) -> None:
    text = server.log_text()
    assert "IMPORT FAILED" not in text, server.tail(80)
    name = "inkstone" if TESTED == PACK else TESTED.name
    assert f"{os.sep}{name}" in text.partition("Import times for custom nodes")[2], server.tail(80)


def test_every_listed_node_is_offered(server: ComfyServer) -> None:
    listed, offered = listed_nodes(), server.get("/object_info")
    assert listed, "the pack lists no node"
    assert not [node for node in listed if not node.startswith("Inkstone")]
    missing = sorted(listed - set(offered))
    assert not missing, f"not in /object_info: {missing}\n{server.tail(80)}"


def test_every_input_of_every_node_has_a_tooltip(server: ComfyServer) -> None:
    offered = server.get("/object_info")
    silent = [
        f"{node}.{name}"
        for node in sorted(listed_nodes())
        for group in ("required", "optional")
        for name, spec in offered[node]["input"].get(group, {}).items()
        if not (len(spec) > 1 and spec[1].get("tooltip"))
    ]
    assert not silent, f"inputs without a tooltip: {silent}"


def test_picture_has_the_size_of_the_graph_and_is_not_blank(
    graph: dict[str, Any], picture: Image.Image
) -> None:
    size = asked_size(graph)
    assert size is None or picture.size == size
    assert picture.size[0] >= 16 and picture.size[1] >= 16
    assert any(low < high for low, high in picture.convert("RGB").getextrema()), "one colour"


def test_progress_of_the_denoise_node_arrives(graph: dict[str, Any], result: RunResult) -> None:
    nodes = [node for node, entry in graph.items() if "Denoise" in entry["class_type"]]
    assert nodes, "the graph has no denoise node"
    steps = result.progress(nodes[0])
    kinds = [kind for kind, _ in result.events]
    assert steps, f"no progress for node {nodes[0]}; events: {kinds}"
    values = [value for value, _ in steps]
    assert values == sorted(values)
    assert steps[-1][0] == steps[-1][1], f"progress ended at {steps[-1]}"


def test_previews_arrive(result: RunResult) -> None:
    previews = [data["bytes"] for kind, data in result.events if kind == "preview"]
    assert previews, "no preview although the server was started with --preview-method auto"
    start = previews[-1].find(b"\xff\xd8")
    assert Image.open(io.BytesIO(previews[-1][start:])).size[0] >= 64


def test_help_pages_and_chinese_are_served(server: ComfyServer) -> None:
    translated = server.get("/i18n")
    for node in sorted(listed_nodes()):
        for language in ("zh", "zh-TW"):
            assert node in translated[language]["nodeDefs"], f"{node} has no name in {language}"
        for language in ("en", "zh", "zh-TW"):
            page = server.read(f"/extensions/inkstone/docs/{node}/{language}.md").decode("utf-8")
            assert page.startswith("# ") and f"pictures/{node}.jpg" in page
        picture = server.read(f"/extensions/inkstone/docs/pictures/{node}.jpg")
        assert Image.open(io.BytesIO(picture)).format == "JPEG"


def test_the_template_browser_lists_our_graphs(server: ComfyServer) -> None:
    listed = server.get("/workflow_templates")["inkstone"]
    files = {path.stem for path in (PACK / "workflows").glob("*.json")}
    assert set(listed) == files


def test_models_leave_when_the_host_asks(
    server: ComfyServer, graph: dict[str, Any], result: RunResult
) -> None:
    server.post("/free", {"unload_models": True, "free_memory": True})
    for _ in range(100):
        if "diffusion model is unloaded" in server.log_text():
            break
        time.sleep(0.1)
    assert "diffusion model is unloaded" in server.log_text(), server.tail()
    assert server.run(graph, {"workflow": {"marker": "inkstone"}}).images, "and come back"


def test_picture_carries_prompt_and_workflow(graph: dict[str, Any], picture: Image.Image) -> None:
    prompt = json.loads(picture.info["prompt"])
    assert {node: entry["class_type"] for node, entry in prompt.items()} == {
        node: entry["class_type"] for node, entry in graph.items()
    }
    assert json.loads(picture.info["workflow"]) == {"marker": "inkstone"}


def test_second_run_comes_from_the_cache(
    server: ComfyServer, graph: dict[str, Any], result: RunResult
) -> None:
    again = server.run(graph, {"workflow": {"marker": "inkstone"}})
    cached = [data["nodes"] for kind, data in again.events if kind == "execution_cached"]
    denoise = {node for node, entry in graph.items() if "Denoise" in entry["class_type"]}
    assert denoise <= set(cached[-1])
    assert result.images


def test_unknown_node_is_refused_by_name(server: ComfyServer) -> None:
    with pytest.raises(ServerError, match="InkstoneNoSuchNode"):
        server.run({"1": {"class_type": "InkstoneNoSuchNode", "inputs": {}}})


def test_core_nodes_before_and_behind_ours(
    server: ComfyServer, graph: dict[str, Any], result: RunResult
) -> None:
    """Core latent, conditioning, sigmas, batch and preview nodes on our wires; equal pictures."""
    by_class = {entry["class_type"]: node for node, entry in graph.items()}
    mixed = json.loads(json.dumps(graph))
    denoise, encode = by_class["InkstoneDenoise"], by_class["InkstoneEncodePrompt"]
    mixed["50"] = node_of("EmptySD3LatentImage", width=128, height=128, batch_size=2)
    mixed["51"] = node_of("LatentFromBatch", samples=["50", 0], batch_index=0, length=1)
    mixed["52"] = node_of(
        "ConditioningSetTimestepRange", conditioning=[encode, 0], start=0.0, end=1.0
    )
    own = mixed[denoise]["inputs"]
    mixed["58"] = node_of("InkstoneSchedule", model=own["model"], latent=["51", 0], strength=1.0)
    mixed["58"]["inputs"] |= {name: own.pop(name) for name in ("steps", "schedule")}
    mixed["53"] = node_of("SplitSigmas", sigmas=["58", 0], step=1000)
    mixed["54"] = node_of("PreviewImage", images=[by_class["InkstoneDecode"], 0])
    mixed["55"] = node_of(
        "LatentUpscaleBy", samples=[denoise, 0], upscale_method="nearest-exact", scale_by=2.0
    )
    mixed["56"] = node_of("InkstoneDecode", vae=[by_class["InkstoneLoadAll"], 2], latent=["55", 0])
    mixed["57"] = node_of("PreviewImage", images=["56", 0])
    mixed[denoise]["inputs"].update(latent=["51", 0], positive=["52", 0], sigmas=["53", 0])
    got = server.run(mixed, {})
    sizes = {image.node: Image.open(io.BytesIO(image.data)).size for image in got.images}
    assert sizes["54"] == (128, 128) and sizes["57"] == (256, 256)
    pairs = [next(i.data for i in r.images if i.type == "output") for r in (got, result)]
    assert Image.open(io.BytesIO(pairs[0])).tobytes() == Image.open(io.BytesIO(pairs[1])).tobytes()


def test_a_core_sampler_sees_our_conditioning(server: ComfyServer, graph: dict[str, Any]) -> None:
    """ConditioningZeroOut and Combine accept ours; two entries are refused in words by ours."""
    by_class = {entry["class_type"]: node for node, entry in graph.items()}
    encode, denoise = by_class["InkstoneEncodePrompt"], by_class["InkstoneDenoise"]
    mixed = json.loads(json.dumps(graph))
    mixed["60"] = node_of("ConditioningZeroOut", conditioning=[encode, 0])
    mixed[denoise]["inputs"]["negative"] = ["60", 0]
    mixed[denoise]["inputs"]["steps"] = 2
    assert server.run(mixed, {}).images
    mixed["61"] = node_of(
        "ConditioningCombine", conditioning_1=[encode, 0], conditioning_2=[encode, 1]
    )
    mixed[denoise]["inputs"]["positive"] = ["61", 0]
    with pytest.raises(ServerError, match="2 entries"):
        server.run(mixed, {})


def node_of(kind: str, **inputs: Any) -> dict[str, Any]:
    """A node of an API graph."""
    return {"class_type": kind, "inputs": inputs}


def listed_nodes() -> set[str]:
    """Node ids that the pack lists, as it lists them headless.

    A pack other than this tree cannot be imported here: its source is read for node ids.
    """
    if TESTED != PACK:
        text = "".join(path.read_text("utf-8") for path in TESTED.rglob("*.py"))
        return set(re.findall(r'node_id="(Inkstone\w+)"', text))
    extension = asyncio.run(sys.modules["inkstone"].comfy_entrypoint())
    nodes = asyncio.run(extension.get_node_list())
    return {node.define_schema().node_id for node in nodes}


def asked_size(graph: dict[str, Any]) -> tuple[int, int] | None:
    """(width, height) in the graph: "128x128" in the text of a latent node, which comes before its
    numbers, or two numbers of a node; else None.
    """
    for entry in graph.values():
        if "Latent" in entry["class_type"]:
            for value in entry["inputs"].values():
                found = re.search(r"(\d+)\s*[x×]\s*(\d+)", str(value))
                if found:
                    return int(found[1]), int(found[2])
    for entry in graph.values():
        inputs = entry["inputs"]
        if isinstance(inputs.get("width"), int) and isinstance(inputs.get("height"), int):
            return inputs["width"], inputs["height"]
    return None
