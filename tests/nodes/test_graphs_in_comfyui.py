"""Every shipped graph in a real ComfyUI and headless, on the same files: the same pictures.

Graphs of downloaded models run on tiny ones of the same variant, all others as they are shipped.
"""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from inkstone.headless.core_nodes.registry import node_classes
from inkstone.headless.graph.api_graph import parse_graph
from inkstone.headless.graph.executor import Executor
from inkstone.host.headless import HeadlessHost
from inkstone.loaders.formats.safetensors import save_safetensors
from inkstone.nodes.canvas import CUSTOM

from ..support.comfy_install import SOURCE_VARIABLE, given_source
from ..support.comfy_server import ComfyServer

API = sorted((Path(__file__).resolve().parents[2] / "workflows" / "api").glob("*.json"))
STEPS = 3
FILES = {"model", "text_encoder", "vae"}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ComfyServer]:
    source = given_source()
    if source is None:
        pytest.skip(f"no ComfyUI: set {SOURCE_VARIABLE} to a git directory or tree of it")
    base = tmp_path_factory.mktemp("graphs")
    with ComfyServer(source, base=base) as running:
        data = np.random.default_rng(0).integers(0, 255, (48, 64, 4), np.uint8)
        data[..., 3] = 255
        data[8:32, 16:48, 3] = 0  # as the mask editor saves a mask
        Image.fromarray(data).save(base / "input" / "example.png")
        yield running


def settled(path: Path, models: Path, tiny_folder, tiny_control) -> dict[str, Any]:
    """The graph with few steps, and tiny files below `models` where it names downloads."""
    graph = json.loads(path.read_text("utf-8"))
    nodes = list(graph.values())
    variant = next((n["inputs"]["variant"] for n in nodes if "variant" in n["inputs"]), "auto")
    embedded = "embedded" in path.stem
    kind = "layered" if path.stem == "layered" else "qwen-image" if variant == "auto" else variant
    for node in nodes:
        values, wanted = node["inputs"], node["class_type"].removeprefix("Inkstone")
        if wanted == "Denoise":
            values["steps"] = STEPS
        if embedded:
            continue
        if wanted.startswith("Load") and FILES & values.keys():
            if not (models / "diffusers" / kind).exists():
                shutil.copytree(tiny_folder(kind), models / "diffusers" / kind)
            values |= dict.fromkeys(FILES & values.keys(), kind)
        if wanted == "LoadControlNet":
            values["control"] = placed(Path(tiny_control(path.stem)), models / "controlnet")
        if wanted == "LoraLoader":
            values["lora_1"] = lora(models / "loras")
        if wanted == "EmptyLatent":
            values |= {"size": CUSTOM, "width": 96, "height": 64}
    return graph


def placed(made: Path, folder: Path) -> str:
    """The file's or model folder's name where the host looks for it."""
    place = (folder if made.is_file() else folder.with_name("diffusers")) / made.name
    if not place.exists():
        place.parent.mkdir(parents=True, exist_ok=True)
        (shutil.copy if made.is_file() else shutil.copytree)(made, place)
    return made.name


def lora(folder: Path) -> str:
    """A small LoRA of the tiny model."""
    g, name = torch.Generator().manual_seed(1), "transformer_blocks.0.attn.to_q"
    state = {
        f"{name}.lora_A.weight": torch.randn(2, 32, generator=g),
        f"{name}.lora_B.weight": torch.randn(32, 2, generator=g),
    }
    folder.mkdir(exist_ok=True)
    save_safetensors(folder / "tiny.safetensors", state, {})
    return "tiny.safetensors"


@pytest.mark.comfyui
@pytest.mark.parametrize("path", API, ids=lambda p: p.stem)
def test_pictures_are_equal(path, server, tiny_folder, tiny_control, tmp_path):
    models = server.base / "models"
    graph = settled(path, models, tiny_folder, tiny_control)
    there = [
        Image.open(io.BytesIO(p.data)) for p in server.run(graph, {}).images if p.type == "output"
    ]
    host = HeadlessHost(
        models=[models], input=server.base / "input", output=tmp_path, temp=tmp_path / "temp"
    )
    Executor(node_classes()).run(parse_graph(graph), host)
    here = [Image.open(p) for p in sorted((tmp_path / "inkstone").rglob("*.png"))]
    assert len(here) == len(there) > 0
    for mine, theirs in zip(here, there):
        assert mine.mode == theirs.mode and mine.size == theirs.size
        off = np.abs(np.asarray(mine).astype(int) - np.asarray(theirs)).max()
        assert off <= 1, f"{path.stem}: pictures differ by {off}/255"
    assert any(low < high for low, high in here[-1].convert("RGB").getextrema()), "one colour"
