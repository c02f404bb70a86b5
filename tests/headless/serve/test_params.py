"""`param` of a refusal that only the drawing finds: the option that it is about."""

from __future__ import annotations

import shutil

import pytest

from inkstone.headless.serve.desk.settings import ServeCall
from inkstone.loaders.models.load import EMBEDDED_FOLDER

from ...support.embedded_loras import write
from .running import QUICK, as_text, png, serving

MODULE = "transformer_blocks.0.attn.to_v"


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """A server with a LoRA of another model, a strange one, and a model that was cut off."""
    folder = tmp_path_factory.mktemp("models")
    for name in ("loras", "diffusers"):
        (folder / name).mkdir()
    write(folder / "loras" / "large.safetensors", {f"{MODULE}.weight": (96, 96)}, [MODULE])
    write(folder / "loras" / "strange.safetensors", {"x.weight": (32, 32)}, ["x"])
    shutil.copytree(EMBEDDED_FOLDER, folder / "diffusers" / "cut")
    file = folder / "diffusers" / "cut" / "transformer" / "diffusion_pytorch_model.safetensors"
    file.write_bytes(file.read_bytes()[:1000])
    with serving(ServeCall(models=folder)) as served:
        yield served


@pytest.mark.parametrize(
    "own, edits",
    [
        ({"lora": "large.safetensors"}, False),
        ({"lora": "strange.safetensors"}, False),
        ({"layers": 2}, True),
        ({"region": "a cat:0,0,32,32"}, True),
        ({"region": "a cat:0,0,900,32"}, False),
        ({"cache": "taylorseer"}, False),
    ],
)
def test_it_is_the_option(server, own, edits):
    body = {"prompt": "a red circle", "inkstone": {**QUICK, **own}}
    route = "/v1/images/generations"
    if edits:
        route, body["image"] = "/v1/images/edits", as_text(png())
    answer = server.client.post(route, json=body)
    error = answer.json()["error"]
    assert (answer.status_code, error["param"]) == (400, next(iter(own))), error


def test_of_a_file_that_is_cut_off_it_is_the_model(server):
    body = {"prompt": "a red circle", "model": "cut", "inkstone": QUICK}
    error = server.client.post("/v1/images/generations", json=body).json()["error"]
    assert error["param"] == "model" and error["message"].startswith("diffusers/cut/"), error
