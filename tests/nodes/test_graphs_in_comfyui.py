"""Every shipped graph in a real ComfyUI and headless, on the same files: the same pictures.

Graphs of downloaded models run on tiny ones of the same variant, all others as they are shipped.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from inkstone.headless.core_nodes.registry import node_classes
from inkstone.headless.graph.api_graph import parse_graph
from inkstone.headless.graph.executor import Executor
from inkstone.host.headless import HeadlessHost

from ..support.comfy_install import SOURCE_VARIABLE, given_source
from ..support.comfy_server import ComfyServer
from ..support.settled import Tiny, settled

API = sorted((Path(__file__).resolve().parents[2] / "workflows" / "api").glob("*.json"))


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


@pytest.mark.comfyui
@pytest.mark.parametrize("path", API, ids=lambda p: p.stem)
def test_pictures_are_equal(path, server, tiny_folder, tiny_control, tmp_path):
    models = server.base / "models"
    graph = json.loads(path.read_text("utf-8"))
    graph = settled(graph, path.stem, models, Tiny(tiny_folder, tiny_control))
    made = [p for p in server.run(graph, {}).images if p.type == "output"]
    made.sort(key=lambda p: p.filename)  # it runs nodes in an order of its own
    there = [Image.open(io.BytesIO(p.data)) for p in made]
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
