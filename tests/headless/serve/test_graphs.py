"""Graphs of clients: what this server offers runs, everything else is refused before it waits."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from inkstone.headless.serve.desk.settings import Limits, ServeCall
from inkstone.nodes.canvas import CUSTOM, MODELS_SIZE
from inkstone.nodes.quantize import Quantize
from inkstone.nodes.train import TrainLora

from .running import ROOT, as_text, httpx, png, serving

API = json.loads((ROOT / "workflows" / "api" / "text_to_image_embedded.json").read_text("utf-8"))
SAVE = {
    "1": {"class_type": "LoadImage", "inputs": {"image": "mine.png"}},
    "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "x"}},
}


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    folder = tmp_path_factory.mktemp("graphs")
    call = ServeCall(models=folder / "models", state=folder / "state", graphs=True)
    with serving(call) as served:
        yield served


def sent(server, graph: object, **more: object) -> httpx.Response:
    return server.client.post("/v1/graphs", json={"graph": graph, **more})


def quick(graph: dict) -> dict:
    """NODE.INPUT values that make the shipped graph take a moment."""
    return {f"{key}.steps": 1 for key, node in graph.items() if "steps" in node.get("inputs", {})}


def test_an_api_graph_draws(server):
    answer = sent(server, API, set=quick(API))
    assert answer.status_code == 202, answer.text
    job = server.ended(answer.json()["id"])
    assert job["state"] == "done" and job["files"], job
    assert server.client.get(job["files"][0]).content[:4] == b"\x89PNG"
    again = server.ended(sent(server, API, set=quick(API)).json()["id"])
    assert again["state"] == "done"
    assert list((server.desk.places.input).iterdir()) == []


def test_a_ui_graph_draws(server):
    path = next(
        file
        for file in sorted((ROOT / "workflows").glob("*.json"))
        if json.loads(file.read_text("utf-8"))["extra"]["inkstone"]["name"]
        == "text_to_image_embedded"
    )
    answer = sent(server, json.loads(path.read_text("utf-8")))
    assert answer.status_code == 202, answer.text
    assert server.ended(answer.json()["id"])["state"] == "done"


def test_a_graph_brings_its_pictures(server):
    answer = sent(server, SAVE, pictures={"mine.png": as_text(png(48, 32, colour=7))})
    assert answer.status_code == 202, answer.text
    job = server.ended(answer.json()["id"])
    assert job["state"] == "done" and len(job["files"]) == 1
    assert list(server.desk.places.input.iterdir()) == [], "it leaves with its job"
    assert sent(server, SAVE).status_code == 400, "the next one does not see it"


def changed(**inputs: object) -> dict:
    """The graph that saves, with other inputs of its nodes."""
    graph = json.loads(json.dumps(SAVE))
    for name, value in inputs.items():
        node, _, key = name.partition("_")
        graph[node.removeprefix("n")]["inputs"][key] = value
    return graph


@pytest.mark.parametrize(
    "graph",
    [
        {},
        {"1": 3},
        {"nodes": []},
        {"1": {"class_type": "ImageSaveToDisk", "inputs": {}}},
        {"1": {"class_type": Quantize.ID, "inputs": {"model": "a", "type": "Q8_0", "name": "b"}}},
        {"1": {"class_type": TrainLora.ID, "inputs": {"pictures": "/etc"}}},
        changed(n1_image="/etc/passwd"),
        changed(n1_image="../accepted/order.json"),
        changed(n1_image="x.png [output]"),
        {"1": {"class_type": "LoraLoader", "inputs": {"lora_name": "../../x"}}},
        {
            "1": {
                "class_type": "EmptyImage",
                "inputs": {"width": 16384, "height": 16384, "batch_size": 1, "color": 0},
            },
            "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0]}},
        },
    ],
)
def test_what_is_not_offered_is_refused(server, graph):
    answer = sent(server, graph)
    assert answer.status_code == 400, answer.text
    message = answer.json()["error"]["message"]
    assert message and "root:" not in message and "/state/" not in message, message
    assert not list((server.desk.places.input.parent / "accepted").iterdir())


@pytest.mark.parametrize(
    "graph, param",
    [
        (changed(n1_image="x.png"), "1.image"),
        (changed(n2_images=["9", 0]), "2.images"),
        ({"7": {"class_type": "Nothing", "inputs": {}}}, "7"),
        (
            {
                **SAVE,
                "3": {"class_type": "EmptyImage", "inputs": {"width": 1 << 13, "height": 1 << 13}},
            },
            "3.width",
        ),
        ([], "graph"),
    ],
)
def test_a_refusal_names_the_node_and_its_input(server, graph, param):
    picture = {"mine.png": as_text(png())}
    answer = sent(server, graph, pictures=picture)
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]["param"] == param, answer.text


def test_a_graph_by_itself_is_no_request(server):
    error = server.client.post("/v1/graphs", json=SAVE).json()["error"]
    assert 'Expected {"graph": GRAPH' in error["message"] and error["param"] in SAVE
    answer = sent(server, SAVE, set={"2.nothing": 1})
    error = answer.json()["error"]
    assert answer.status_code == 400 and error["message"].startswith('"set" 2.')
    assert error["param"] == "2.nothing"


def test_a_picture_that_was_not_sent_is_asked_for(server):
    error = sent(server, SAVE).json()["error"]
    assert "No picture 'mine.png': mine.png does not exist. Send it" in error["message"], error
    assert '"pictures": {NAME: BASE64}.' in error["message"] and "--" not in error["message"]
    assert error["param"] == "1.image"


def test_a_picture_that_no_node_names_is_refused(server):
    mine = as_text(png())
    error = sent(server, SAVE, pictures={"mine.png": mine, "nobody.png": mine}).json()["error"]
    assert "'nobody.png'" in error["message"] and error["param"] == "pictures"
    settings = {"1.image": "nobody.png"}
    answer = sent(server, SAVE, set=settings, pictures={"mine.png": mine, "nobody.png": mine})
    assert answer.status_code == 202, "the graph's own is named too, and a setting names the other"


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A server of small pictures that draws nothing."""
    limits = Limits(pixels=256 * 256, queue=100, per_key=100)
    call = ServeCall(models=tmp_path_factory.mktemp("small"), graphs=True, limits=limits)
    with serving(call, start=False) as served:
        yield served


@pytest.mark.parametrize(
    "settings, param",
    [
        ({}, None),  # 128x128 by its name; the unused 1328x1328 does not count
        ({"5.size": "2.1, 16:9 (2752x1536)"}, "5.size"),
        ({"5.size": MODELS_SIZE}, None),
        ({"5.size": CUSTOM}, "5.width"),
        ({"5.size": CUSTOM, "5.width": 256, "5.height": 256}, None),
        ({"5.size": CUSTOM, "5.width": 256, "5.height": 272}, "5.width"),
        ({"5.width": 64, "5.height": 64}, "5.width"),  # the name would not use them
        ({"5.batch_size": 11}, "5.batch_size"),
        ({"7.steps": 101}, "7.steps"),
    ],
)
def test_limits_hold_for_what_a_canvas_gives(small, settings, param):
    answer = sent(small, API, set=settings)
    assert answer.status_code == (202 if param is None else 400), answer.text
    assert param is None or answer.json()["error"]["param"] == param, answer.text


def test_megapixels_are_a_size(small):
    scale = {"image": ["1", 0], "upscale_method": "area", "megapixels": 0.1}
    graph = {**changed(n2_images=["3", 0])}
    graph["3"] = {"class_type": "ImageScaleToTotalPixels", "inputs": scale}
    picture = {"mine.png": as_text(png())}
    answer = sent(small, graph, pictures=picture)
    assert answer.status_code == 400 and answer.json()["error"]["param"] == "3.megapixels"
    scale["megapixels"] = 0.06
    assert sent(small, graph, pictures=picture).status_code == 202


def test_a_bad_picture_is_called_as_the_client_called_it(server):
    answer = sent(server, SAVE, pictures={"mine.png": as_text(b"no picture")})
    error = answer.json()["error"]
    assert answer.status_code == 400 and "'mine.png'" in error["message"], error
    assert error["param"] == "pictures"


@pytest.mark.parametrize("prefix", ["/tmp/evil", "../../../evil", "a/../../../evil", "C:\\evil"])
def test_results_stay_in_their_folder(server, prefix):
    picture = {"mine.png": as_text(png())}
    answer = sent(server, changed(n2_filename_prefix=prefix), pictures=picture)
    if answer.status_code == 202:
        job = server.ended(answer.json()["id"])
        assert job["state"] in ("failed", "done"), job
    root = server.desk.places.input.parent
    assert not list(Path("/tmp").glob("evil*")) and not list(root.parent.glob("evil*"))
    assert {path.name for path in root.iterdir()} == {"accepted", "input", "results"}


@pytest.mark.parametrize("name", ["../x.png", "/tmp/x.png", "a\\b", ""])
def test_names_of_pictures_are_only_names(server, name):
    graph = changed(n1_image=name)
    answer = sent(server, graph, pictures={name: as_text(png())})
    if answer.status_code == 202:
        assert server.ended(answer.json()["id"])["state"] == "done"
    assert not Path("/tmp/x.png").exists()


def test_graphs_are_taken_where_the_server_says_so(tmp_path):
    with serving(ServeCall(models=tmp_path), start=False) as server:
        assert sent(server, API).status_code == 403


def test_a_job_ends_at_its_deadline(tmp_path):
    with serving(ServeCall(models=tmp_path, limits=Limits(seconds=1, steps=1000))) as server:
        job = {"prompt": "x", "size": "256x256", "steps": 1000}
        job = server.ended(server.client.post("/v1/jobs", json=job).json()["id"], 20)
        assert job["state"] == "failed" and "longer than 1 s" in job["error"]
