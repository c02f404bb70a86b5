"""The routes of the page's menu on a real ComfyUI, with hostile bodies, and what they answer."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from inkstone.errors import InkstoneError
from inkstone.headless.workflow import page
from inkstone.headless.workflow.load import find_graph

from ..support.comfy_install import PACK, SOURCE_VARIABLE, given_source
from ..support.comfy_server import ComfyServer

JSON = {"Content-Type": "application/json"}
ROUTES = (page.EXCHANGE, page.CHECK)
NAME = "qwen_image_fp8_e4m3fn.safetensors"
CORE = {
    "nodes": [
        {
            "id": 1,
            "type": "UNETLoader",
            "pos": [0, 0],
            "size": [300, 80],
            "inputs": [],
            "outputs": [{"name": "MODEL", "type": "MODEL", "links": None}],
            "widgets_values": [NAME, "default"],
        }
    ],
    "links": [],
    "version": 0.4,
}
real = pytest.mark.comfyui
needs = pytest.mark.skipif(given_source() is None, reason=f"needs {SOURCE_VARIABLE}")


@pytest.fixture(scope="module")
def server() -> Iterator[ComfyServer]:
    with ComfyServer(given_source()) as running:
        yield running


def ask(
    server: ComfyServer, route: str, body: bytes, method: str = "POST", **headers: str
) -> tuple[int, Any]:
    """(status, answer) of one request."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=120)
    try:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request(method, route, body, {**JSON, **named})
        answer = connection.getresponse()
        data = answer.read()
        return answer.status, json.loads(data) if data.startswith(b"{") else data
    finally:
        connection.close()


def graph(name: str = "text_to_image_embedded") -> dict[str, Any]:
    """The body of a check: both forms of a shipped graph."""
    ui = json.loads(find_graph(Path(name)).read_text("utf-8"))
    api = json.loads((PACK / "workflows" / "api" / f"{name}.json").read_text("utf-8"))
    return {"workflow": ui, "output": api}


@real
@needs
def test_the_routes_answer(server: ComfyServer) -> None:
    status, answer = ask(server, page.EXCHANGE, json.dumps({"workflow": CORE}).encode())
    assert status == 200
    assert sorted(node["type"] for node in answer["workflow"]["nodes"]) == [
        "InkstoneLoadDiffusionModel",
        "InkstoneToModel",
    ]
    assert answer["lines"] == [
        f"1: UNETLoader {NAME} -> InkstoneLoadDiffusionModel and InkstoneToModel"
    ]
    status, answer = ask(server, page.CHECK, json.dumps(graph()).encode())
    assert status == 200 and answer["runs"], answer
    assert answer["lines"][-1].startswith("Memory at 128x128")


@real
@needs
def test_an_answer_names_only_what_the_graph_names(server: ComfyServer) -> None:
    secret = server.base / "models" / "diffusion_models" / "my_secret_qwen_image.safetensors"
    secret.parent.mkdir(parents=True, exist_ok=True)
    secret.write_bytes(b"no weights")
    body = graph("text_to_image_qwen_image")
    status, answer = ask(server, page.CHECK, json.dumps(body).encode())
    assert status == 200 and not answer["runs"]
    text = json.dumps(answer)
    assert "qwen_image_bf16.safetensors" in text or "qwen_image" in text
    assert "my_secret" not in text and str(server.base) not in text
    body["output"]["1"] = {
        "class_type": "InkstoneLoadDiffusionModel",
        "inputs": {"model": secret.name, "dtype": "auto", "variant": "auto"},
    }
    status, answer = ask(server, page.CHECK, json.dumps(body).encode())
    assert secret.name in json.dumps(answer) and str(server.base) not in json.dumps(answer)
    for name in ("../../../etc/passwd", "/etc/passwd", "..\\..\\x", "\0", 7, ["1", 0], None):
        body["output"]["1"]["inputs"]["model"] = name
        status, answer = ask(server, page.CHECK, json.dumps(body).encode())
        assert status in (200, 400) and "root:" not in json.dumps(answer)


@real
@needs
@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"null",
        b"[]",
        b"7",
        b'"x"',
        b"{}",
        b"{",
        b"\xff\xfe",
        b'{"workflow": null, "output": null}',
        b'{"workflow": [], "output": []}',
        b'{"workflow": {"nodes": 7}, "output": {"1": 7}}',
        b'{"workflow": {"nodes": [null, 1, {}]}, "output": {"1": {"class_type": 7}}}',
        b'{"workflow": {"nodes": [{"id": 1, "type": "UNETLoader", "inputs": 7}]}, "output": 1}',
        b'{"workflow": ' + b'{"nodes": [' * 5000 + b"]}" * 5000 + b"}",
        b"[" * 200_000,
    ],
    ids=lambda body: repr(body[:60]),
)
def test_a_hostile_body_gets_a_sentence(server: ComfyServer, route: str, body: bytes) -> None:
    status, answer = ask(server, route, body)
    assert status == 400, answer
    assert 10 < len(answer["error"]) < 2000 and "Traceback" not in answer["error"]


@real
@needs
@pytest.mark.parametrize("route", ROUTES)
def test_a_body_without_end_is_cut_off(server: ComfyServer, route: str) -> None:
    try:
        status, answer = ask(server, route, b'{"workflow": "' + b"x" * (50 << 20) + b'"}')
    except (BrokenPipeError, ConnectionResetError):
        return  # the server closed the connection before all of it was sent
    assert status == 413 and "too large" in answer["error"]
    assert server.get("/system_stats")  # it goes on


@real
@needs
@pytest.mark.parametrize("route", ROUTES)
def test_only_the_own_page_is_answered(server: ComfyServer, route: str) -> None:
    body = json.dumps({"workflow": CORE, "output": {}}).encode()
    assert ask(server, route, body)[0] == 200
    assert ask(server, route, body, Sec_Fetch_Site="same-origin")[0] == 200
    for site in ("cross-site", "same-site"):
        assert ask(server, route, body, Sec_Fetch_Site=site)[0] == 403
    for origin in ("http://evil.example", "null", f"http://127.0.0.1.evil.example:{server.port}"):
        assert ask(server, route, body, Origin=origin)[0] == 403
    assert ask(server, route, body, Content_Type="text/plain")[0] == 415
    assert ask(server, route, body, Content_Type="application/x-www-form-urlencoded")[0] == 415
    for method in ("GET", "PUT", "DELETE", "PATCH"):
        assert ask(server, route, body, method)[0] in (404, 405), method


@real
@needs
def test_precision_of_the_settings_is_what_auto_stands_for(server: ComfyServer) -> None:
    api = graph()["output"]
    server.run(api)
    assert "computed in bfloat16" not in server.log_text()
    server.post("/settings/Inkstone.Precision", "bfloat16")
    server.run(api)
    assert "computed in bfloat16" in server.log_text()
    server.post("/settings/Inkstone.Precision", ["nonsense"])
    server.run(api)
    assert "the setting Precision is ['nonsense']" in server.log_text()
    server.post("/settings/Inkstone.Precision", "auto")


@pytest.mark.parametrize("body", [None, [], 7, "x", {}, {"workflow": []}, {"workflow": {}}])
def test_a_body_of_another_shape_is_refused(body: Any) -> None:
    with pytest.raises(InkstoneError, match="expected"):
        page.exchange(body)
    with pytest.raises(InkstoneError, match="expected"):
        page.check(body)
