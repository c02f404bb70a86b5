"""The official templates of Qwen-Image-2.1 without ComfyUI: as they are, on our stand-ins of core's
nodes, and with their loaders exchanged. Both draw the same picture.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from inkstone.errors import InkstoneError
from inkstone.headless.core_nodes.registry import node_classes
from inkstone.headless.graph.executor import Executor
from inkstone.headless.workflow.load import interfaces, read_graph_file
from inkstone.headless.workflow.run import graph_of, run_file
from inkstone.headless.workflow.to_inkstone import to_inkstone
from inkstone.host.headless import HeadlessHost

from ...support import official_21, official_files
from .test_to_inkstone import templates

NEWER = {p.name.removesuffix(".json"): p for p in templates() if "_2_1_" in p.name}
BRIDGES = {"InkstoneToModel", "InkstoneToCLIP", "InkstoneToVAE"}

if not NEWER:
    pytest.skip("the package comfyui-workflow-templates-json is absent", allow_module_level=True)


@pytest.fixture(scope="module")
def host(tmp_path_factory) -> HeadlessHost:
    """Folders with the tiny files that all five name, and two pictures."""
    base = tmp_path_factory.mktemp("official21")
    for path in NEWER.values():
        for place, file in official_files.model_files(api(path)):
            target = base / "models" / place / file
            if official_21.NAMED.search(file) and "_pe_" not in file and not target.exists():
                vocab = official_21.toy_tokenizer(target.parent) if "text" in place else 0
                official_21.write(target, place, vocab)
    picture = Image.effect_noise((96, 64), 80).convert("RGBA")
    picture.putalpha(Image.linear_gradient("L").resize((96, 64)))
    (base / "input").mkdir()
    picture.save(base / "input" / "example.png")
    folders = {name: base / name for name in ("input", "output", "temp")}
    return HeadlessHost(models=(base / "models",), device="cpu", **folders)


@pytest.fixture(scope="module")
def executor() -> Executor:
    return Executor(node_classes())


def api(path: Path) -> dict[str, Any]:
    return read_graph_file(path).as_api(interfaces(node_classes()), ran=False)


def drawn(graph: dict[str, Any], host: HeadlessHost, executor: Executor, folder: Path):
    path = folder / "graph.json"
    path.write_text(json.dumps(official_files.smaller(graph)))
    done = run_file(path, (), host, lambda *_: None, executor)
    files = [file for file in done["files"] if Path(file).is_relative_to(host.output)]
    assert len(files) == 1, done["files"]
    return np.asarray(Image.open(files[0]))


@pytest.mark.parametrize("name", sorted(NEWER))
def test_a_template_runs_as_it_is_and_exchanged(name, host, executor, tmp_path):
    plain = drawn(api(NEWER[name]), host, executor, tmp_path)
    assert plain.shape[-1] == 4 and plain.std() > 1, "a picture with alpha"
    changed, notes = to_inkstone(json.loads(NEWER[name].read_text("utf-8")))
    path = tmp_path / "changed.json"
    path.write_text(json.dumps(changed))
    graph = api(path)
    assert {node["class_type"] for node in graph.values()} >= BRIDGES
    turbo = [node["inputs"]["variant"] for node in graph.values() if "variant" in node["inputs"]]
    assert turbo == ["2.1-turbo" if "turbo" in name else "auto"], notes
    exchanged = drawn(graph, host, executor, tmp_path)
    assert np.array_equal(plain, exchanged), "the same files, the same picture"


@pytest.mark.parametrize("name", sorted(n for n in NEWER if "background" not in n))
def test_an_enhancer_is_refused_in_a_sentence(name, host, tmp_path):
    """Of another model: nobody is asked for its file, unless it would have to answer."""
    graph = api(NEWER[name])
    switch = next(
        node["inputs"]
        for node in graph.values()
        if node["class_type"] == "ComfySwitchNode"
        and graph[node["inputs"]["on_true"][0]]["class_type"] == "TextGenerate"
    )
    path, nodes = tmp_path / "graph.json", node_classes()
    path.write_text(json.dumps(graph))
    off = {node.class_type for node in graph_of(path, (), nodes).values()}
    assert "TextGenerate" not in off and "ComfySwitchNode" not in off
    switch["switch"] = True
    path.write_text(json.dumps(graph))
    with pytest.raises(InkstoneError, match="TextGenerate needs ComfyUI.*Inkstone Enhance Prompt"):
        graph_of(path, (), nodes)
