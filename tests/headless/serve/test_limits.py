"""Limits of a server: they hold for what is really drawn, whatever names or implies its size."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from inkstone.headless.serve.desk.settings import Limits, ServeCall
from inkstone.loaders.arch.family import QWEN_IMAGE, QWEN_IMAGE_21
from inkstone.loaders.models.load import EMBEDDED_FOLDER, family_in, load_diffusion_model
from inkstone.pipeline.usual_settings import largest_usual_size, usual_settings

from ...support.oracle import load_file, save_file
from .running import Served, as_text, httpx, png, serving

PIXELS = 256 * 256  # of a drawing: an enlargement has four times as many


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> Path:
    """A folder with a model whose header says that it is of the family of Qwen-Image."""
    folder = tmp_path_factory.mktemp("limits")
    one = folder / "diffusers" / "large"
    shutil.copytree(EMBEDDED_FOLDER, one)
    file = one / "transformer" / "diffusion_pytorch_model.safetensors"
    save_file(load_file(file), file, {"inkstone_family": QWEN_IMAGE.name})
    return folder


@pytest.fixture(scope="module")
def small(models):
    """A server of small pictures that draws nothing."""
    with serving(ServeCall(models=models, limits=Limits(pixels=PIXELS)), start=False) as served:
        yield served


@pytest.fixture
def roomy(models):
    """A server with the usual limits that draws nothing."""
    with serving(ServeCall(models=models), start=False) as served:
        yield served


def asked(server: Served, **options: object) -> httpx.Response:
    """The answer to a job, which leaves the queue again."""
    answer = server.client.post("/v1/jobs", json={"prompt": "a red circle", **options})
    if answer.status_code == 202:
        server.client.delete(f"/v1/jobs/{answer.json()['id']}")
    return answer


IMAGE = {"image": as_text(png(64, 64))}
CONTROL = {"control": {"type": "canny", "picture": as_text(png(64, 64))}}
SIZE = {"size": "256x256"}


@pytest.mark.parametrize(
    "options, most",
    [
        (SIZE, 2),
        ({**IMAGE, **SIZE}, 2),
        ({**CONTROL, **SIZE}, 2),
        ({**IMAGE, **CONTROL}, 8),
        (IMAGE, 8),
        (CONTROL, 8),
        ({**IMAGE, "strength": 0}, 8),
        ({}, 4),  # the embedded model's own 128x128
        ({"fast": True}, 4),
    ],
)
def test_an_enlargement_is_held_to_what_is_drawn(small, options, most):
    assert asked(small, **options, upscale=most).status_code == 202
    error = asked(small, **options, upscale=most + 0.1).json()["error"]
    assert error["param"] == "upscale" and str(4 * PIXELS) in error["message"], error


def test_a_small_picture_hides_no_canvas(roomy):
    for more in (IMAGE, CONTROL):
        answer = asked(roomy, **more, size="2048x2048", upscale=16)
        assert answer.status_code == 400 and answer.json()["error"]["param"] == "upscale"


def test_the_models_own_size_counts(roomy):
    assert asked(roomy, model="large", upscale=3).status_code == 202
    error = asked(roomy, model="large", upscale=4).json()["error"]
    assert "upscale 4 of 1328x1328 is 5312x5312" in error["message"]
    assert asked(roomy, upscale=4).status_code == 202, "of the embedded model's 128x128"


def test_a_model_that_cannot_be_read_is_not_enlarged(models, roomy):
    broken = models / "diffusers" / "broken"
    shutil.copytree(models / "diffusers" / "large", broken)
    file = broken / "transformer" / "diffusion_pytorch_model.safetensors"
    file.write_bytes(file.read_bytes()[:1000])
    answer = asked(roomy, model="broken", upscale=2)
    assert answer.status_code == 400 and str(models) not in answer.text, answer.text


@pytest.mark.parametrize("fast", [False, True])
def test_no_model_draws_larger_than_its_header_says(models, fast):
    for folder in (EMBEDDED_FOLDER, models / "diffusers" / "large"):
        model = load_diffusion_model(folder)
        assert family_in(folder) is model.family
        own = usual_settings(model, fast=fast).preset.size
        assert own == largest_usual_size(model.family, fast)
    assert largest_usual_size(QWEN_IMAGE_21) == (2048, 2048)
    assert largest_usual_size(QWEN_IMAGE_21, fast=True) == (1024, 1024)
