"""Bypass and mute of every node of ours in a real ComfyUI: its page's conversion, its answers.

The cases are those of tests/headless/workflow/test_switched_off.py.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from inkstone.headless.workflow.node_info import read_interfaces
from inkstone.headless.workflow.parse_ui import parse_workflow
from inkstone.headless.workflow.to_api import Flattener

from ..support.browser_check import differences
from ..support.comfy_install import SOURCE_VARIABLE, ServerError, given_source
from ..support.comfy_server import ComfyServer
from ..support.page_proof import BROWSER_VARIABLE
from ..support.settled import Tiny, settled
from ..support.switched import converted, example, fault_of, runnable, says_what_to_do, switched

pytestmark = pytest.mark.comfyui
SUPPORT = Path(__file__).resolve().parents[1] / "support"
BRIDGES = {  # class -> (core node behind it, its input)
    "InkstoneToModel": ("KSampler", "model", "INKSTONE_MODEL"),
    "InkstoneToCLIP": ("CLIPTextEncode", "clip", "INKSTONE_TEXT_ENCODER"),
    "InkstoneToVAE": ("VAEDecode", "vae", "INKSTONE_VAE"),
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ComfyServer]:
    source = given_source()
    if source is None:
        pytest.skip(f"no ComfyUI: set {SOURCE_VARIABLE} to a git directory or tree of it")
    base = tmp_path_factory.mktemp("switched")
    with ComfyServer(source, base=base) as running:
        example(base / "input")
        yield running


def missing(details: dict) -> set[tuple[str, str]]:
    """(node, input) of every required input that the server misses."""
    errors = {key: node["errors"] for key, node in details["node_errors"].items()}
    return {
        (key, error["extra_info"]["input_name"])
        for key, found in errors.items()
        for error in found
        if error["type"] == "required_input_missing"
    }


def test_the_server_names_the_same_inputs(server, tiny_folder, tiny_control):
    tiny, seen = Tiny(tiny_folder, tiny_control), set()
    for case in switched():
        error = fault_of(case)
        if error is None or (case.kind, case.mode, str(error)) in seen:
            continue
        seen.add((case.kind, case.mode, str(error)))
        graph = settled(converted(case.ui), case.graph, server.base / "models", tiny)
        with pytest.raises(ServerError) as refusal:
            answer = server.post("/prompt", {"prompt": graph})
            raise ServerError("parts were refused", answer)
        server.post("/queue", {"clear": True})
        server.post("/interrupt", {})
        expected = {(problem.node, problem.input) for problem in error.problems}
        assert missing(refusal.value.details) == expected, case
    assert len(seen) > 40


@pytest.mark.parametrize("case", runnable(list(switched())), ids=str)
def test_what_passes_the_checks_runs_or_says_what_to_connect(
    case, server, tiny_folder, tiny_control
):
    models, tiny = server.base / "models", Tiny(tiny_folder, tiny_control)
    graph = settled(converted(case.ui), case.graph, models, tiny)
    try:
        result = server.run(graph, {})
    except ServerError as error:
        assert says_what_to_do(error), f"{case}: {error}"
    else:
        assert result.images or case.kind == "InkstoneModelInfo", f"{case}: no picture"


@pytest.mark.parametrize("kind", BRIDGES)
def test_core_says_what_a_bridge_leaves_open(kind, server):
    """A bridge has one input of another type than its output: bypassed or muted, nothing passes."""
    core, name, own = BRIDGES[kind]
    info = server.get(f"/object_info/{kind}")[kind]
    assert [spec[0] for spec in info["input"]["required"].values()] == [own]
    assert own not in info["output"]
    whole = {
        "1": {"class_type": core, "inputs": {}},
        "2": {"class_type": "PreviewAny", "inputs": {"source": ["1", 0]}},
    }
    with pytest.raises(ServerError) as refusal:
        server.post("/prompt", {"prompt": whole})
    assert ("1", name) in missing(refusal.value.details)


@pytest.mark.browser
@pytest.mark.skipif(not os.environ.get(BROWSER_VARIABLE), reason=f"needs {BROWSER_VARIABLE}")
def test_the_page_sends_what_our_conversion_gives(server, tmp_path):
    one = {(case.kind, case.mode, "embedded" in case.graph): case for case in switched()}
    cases = {str(case): case.ui for case in one.values()}
    files = (tmp_path / "in.json", tmp_path / "out.json")
    files[0].write_text(json.dumps(cases), "utf-8")
    command = [os.environ[BROWSER_VARIABLE], SUPPORT / "page_convert.py", "--server", server.url]
    subprocess.run([*command, *files], check=True)
    pages = json.loads(files[1].read_text("utf-8"))
    assert pages.keys() == cases.keys() and len(pages) > 60
    classes = read_interfaces(server.url)
    for name, page in pages.items():
        ours = Flattener(parse_workflow(cases[name]), classes).api()
        assert differences(page, ours) == [], name
