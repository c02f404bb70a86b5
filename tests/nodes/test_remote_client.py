"""A hostile client of a real ComfyUI: nothing outside the offered lists is read, written, learnt.

Runs where a source is at hand (INKSTONE_COMFYUI_SOURCE, see tests/support/comfy_install.py).
"""

from __future__ import annotations

import json
import os
import re
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ..support import hostile_client as hostile
from ..support.comfy_install import PACK, SOURCE_VARIABLE, ServerError, given_source
from ..support.comfy_server import ComfyServer

pytestmark = pytest.mark.comfyui
if given_source() is None:
    pytest.skip(f"needs a ComfyUI: set {SOURCE_VARIABLE}", allow_module_level=True)

WATCHING = PACK / "tests" / "support" / "watching_pack"


@pytest.fixture(scope="module")
def outside(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("far") / "outside"


@pytest.fixture(scope="module")
def server(tmp_path_factory, outside) -> Iterator[ComfyServer]:
    base = tmp_path_factory.mktemp("base")
    hostile.prepare(base, outside)
    os.environ["INKSTONE_WATCH"] = str(outside.parent / "events.jsonl")
    try:
        with ComfyServer(given_source(), packs=(PACK, WATCHING), base=base) as running:
            yield running
    finally:
        del os.environ["INKSTONE_WATCH"]


@pytest.fixture(scope="module")
def known(server: ComfyServer) -> dict[str, Any]:
    return server.get("/object_info")


def ours(known: dict[str, Any]) -> list[str]:
    nodes = sorted(name for name in known if name.startswith("Inkstone"))
    assert len(nodes) >= 26
    return nodes


def answer(server: ComfyServer, graph: hostile.Graph) -> str:
    """All that a client learns: the refusal, or messages and outputs of the run. Tracebacks are
    left out: ComfyUI sends the places of its own code for every pack. Settings of an earlier answer
    go first: Train LoRA replaces none.
    """
    for old in (server.base / "output").glob("*.json"):
        old.unlink()
    try:
        queued = server.post("/prompt", {"prompt": graph, "client_id": "evil"})
    except ServerError as error:
        return json.dumps(error.details, ensure_ascii=False)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        entry = server.get(f"/history/{queued['prompt_id']}").get(queued["prompt_id"])
        if entry is not None:
            kept = [
                {k: v for k, v in data.items() if k not in _CHANGING}
                for _, data in entry["status"]["messages"]
            ]
            return json.dumps([entry["status"]["status_str"], kept, entry["outputs"]])
        time.sleep(0.01)
    raise AssertionError(f"no answer within a minute: {graph['node']}\n{server.tail()}")


_CHANGING = ("traceback", "prompt_id", "timestamp", "executed", "current_outputs", "nodes")


def alike(text: str, value: Any) -> str:
    """An answer without the value that was sent, and without the random part of preview names."""
    text = re.sub(r"ComfyUI_temp_\w+_\d+_", "PREVIEW", text)
    for form in sorted({str(value), repr(value), *map(str, parts(value))}, key=len, reverse=True):
        for shown in (json.dumps(json.dumps(form)[1:-1])[1:-1], json.dumps(form)[1:-1], form):
            text = text.replace(shown, "VALUE")
            text = text.replace(repr(shown)[1:-1], "VALUE")
    return text


def parts(value: Any) -> list[Any]:
    """What is inside a list or an object."""
    if isinstance(value, dict):
        return list(value.values())
    return value if isinstance(value, list) else []


def learnt(server: ComfyServer, text: str) -> list[str]:
    """What an answer says that no client should know, with the words around it."""
    words = (hostile.SECRET, str(server.base), str(PACK))
    return [text[max(0, text.find(w) - 90) :][:300] for w in words if w in text]


def test_no_widget_leads_out(server, known, outside) -> None:
    """Answers are the same whether a file exists or not, and nothing unasked is opened."""
    faults, sent, before = [], 0, len(events(outside))
    for node in ours(known):
        graph = hostile.graph_of(node, known)
        for name in hostile.widgets(known[node]):
            if name in hostile.FREE:
                continue
            for there, absent in hostile.pairs(server.base, outside):
                got = answer(server, hostile.with_value(graph, name, there))
                plain, sent = alike(got, there), sent + 1
                faults += [f"{node}.{name} {there!r}: {part}" for part in learnt(server, plain)]
                if absent is not None:
                    other = answer(server, hostile.with_value(graph, name, absent))
                    sent += 1
                    if plain != alike(other, absent):
                        faults.append(f"{node}.{name} {there!r}:\n  {got}\n  {other}")
    seen = events(outside)[before:]
    faults += [f"opened: {event}" for event in seen if not harmless(server, *event)]
    assert sent > 3000
    kinds = {text.split(" ", 1)[0]: text for text in faults}  # the last of each widget
    shown = "\n".join(text[:600] for text in kinds.values())
    assert not faults, f"{len(faults)} of {sent}:\n{shown}"


def test_no_output_and_no_error_says_where_files_are(
    server: ComfyServer, known: dict[str, Any], outside: Path
) -> None:
    """Every output of every node as text, and every loader with a broken file that it offers."""
    graphs = {}
    for node in ours(known):
        for slot in range(len(known[node]["output"])):
            graph = hostile.graph_of(node, known)
            graph["show"] = {"class_type": "PreviewAny", "inputs": {"source": ["node", slot]}}
            graphs[f"{node} {slot}"] = graph
        for name, spec in known[node]["input"].get("required", {}).items():
            if "broken.safetensors" in (hostile.choices(spec) or ()):
                graph = hostile.with_value(
                    hostile.graph_of(node, known), name, "broken.safetensors"
                )
                graphs[f"{node} {name} broken"] = graph
    assert len(graphs) > 40
    faults, errors = [], 0
    for what, graph in graphs.items():
        got = answer(server, graph)
        errors += '"exception_message"' in got
        faults += [f"{what}: {part}" for part in learnt(server, got)]
    assert not faults, "\n".join(faults)
    assert errors >= 6, "broken files are refused"


def test_quantize_says_the_name_that_loaders_offer(
    server: ComfyServer, known: dict[str, Any]
) -> None:
    graph = hostile.graph_of("InkstoneQuantise", known)
    graph["node"]["inputs"] |= {"name": "smaller", "type": "Q8_0"}
    graph["show"] = {"class_type": "PreviewAny", "inputs": {"source": ["node", 0]}}
    got = server.run(graph).history["outputs"]
    assert got["node"]["text"] == got["show"]["text"] == ["smaller.gguf"]
    loader = server.get("/object_info/InkstoneLoadDiffusionModel")["InkstoneLoadDiffusionModel"]
    assert "smaller.gguf" in hostile.choices(loader["input"]["required"]["model"])


def test_a_wire_into_a_list_is_checked_too(
    server: ComfyServer, known: dict[str, Any], outside: Path
) -> None:
    """A text that a node makes is not validated before the run."""
    for node, name in (("InkstoneLoadVAE", "vae"), ("InkstoneQuantise", "name")):
        graph = hostile.with_value(hostile.graph_of(node, known), name, ["text", 0])
        told = []
        for value in (str(outside / "here.safetensors"), str(outside / "gone.safetensors")):
            graph["text"] = {"class_type": "PrimitiveString", "inputs": {"value": value}}
            told.append(alike(answer(server, graph), value))
        assert told[0] == told[1] and '"success"' not in told[0]


UPLOADS = {
    "text.png": b"hello",
    "empty.png": b"",
    "svg.png": b"<svg xmlns='http://www.w3.org/2000/svg'><image href='file:///etc/passwd'/></svg>",
}


def test_uploaded_pictures_are_pictures(
    server: ComfyServer, known: dict[str, Any], outside: Path
) -> None:
    """What is no picture ends in an error; the next graph runs."""
    before = len(events(outside))
    for name, data in UPLOADS.items():
        upload(server, name, data)
        graph = hostile.graph_of("InkstoneImageToLatent", known)
        graph["EmptyImage"] = {"class_type": "LoadImage", "inputs": {"image": name}}
        got = answer(server, graph)
        assert '"success"' not in got, f"{name}: {got[:300]}"
        assert str(PACK) not in got
    assert '"success"' in answer(server, hostile.graph_of("InkstoneImageToLatent", known))
    unasked = [event for event in events(outside)[before:] if "passwd" in event[1]]
    assert not unasked


def upload(server: ComfyServer, name: str, data: bytes) -> None:
    edge = "edge-of-a-part"
    head = f'--{edge}\r\nContent-Disposition: form-data; name="image"; filename="{name}"\r\n'
    body = f"{head}Content-Type: image/png\r\n\r\n".encode() + data + f"\r\n--{edge}--\r\n".encode()
    kind = {"Content-Type": f"multipart/form-data; boundary={edge}"}
    request = urllib.request.Request(server.url + "/upload/image", body, kind)
    urllib.request.urlopen(request, timeout=30)


def harmless(server: ComfyServer, event: str, path: str, writes: bool) -> bool:
    """True for code, for what the lists offer, and for what runs may write."""
    base = server.base
    assert base is not None
    written = [base / part for part in ("temp", "output", "models/diffusion_models", "user")]
    written += [server.cache, Path(os.devnull)]
    code = [PACK, base, sys.base_prefix, sys.prefix, "/usr", "/lib", "/proc", "/sys"]
    code += ["/dev/urandom"]
    allowed = written if writes else [*written, *code]
    return (
        any(Path(path).is_relative_to(folder) for folder in allowed)
        and Path(path).name != "notes.txt"
    )


def events(outside: Path) -> list[tuple[str, str, bool]]:
    """What the server opened or changed since its start: (event, path, writes)."""
    lines = (outside.parent / "events.jsonl").read_text("utf-8").splitlines()
    return [tuple(json.loads(line)) for line in lines]
