"""Clients that cannot be changed: a fixed list of models, addresses whether asked for or not."""

from __future__ import annotations

import shutil

import pytest

from inkstone.errors import CallError
from inkstone.headless.cli.main import main
from inkstone.headless.serve.desk.offers import EMBEDDED
from inkstone.headless.serve.desk.settings import ServeCall
from inkstone.loaders.models.load import EMBEDDED_FOLDER

from .running import QUICK, picture, serving

openai = pytest.importorskip("openai")

NAMES = ("gpt-image-1", "dall-e-3")
DRAWING = {"prompt": "x", "size": "64x64", "extra_body": {"inkstone": QUICK}}


@pytest.fixture(scope="module")
def named(tmp_path_factory):
    """A client of a server whose model has further names, and that gives addresses."""
    folder = tmp_path_factory.mktemp("named")
    call = ServeCall(models=folder, names=NAMES, response_format="url")
    with serving(call) as server:
        with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
            yield client


@pytest.mark.parametrize("name", [*NAMES, EMBEDDED])
def test_a_further_name_draws_with_the_default_model(named, name):
    assert named.models.retrieve(name).id == name
    assert named.images.generate(model=name, **DRAWING).data[0].url


def test_further_names_are_listed(named):
    assert [model.id for model in named.models.list()] == [EMBEDDED, *NAMES]
    with pytest.raises(openai.NotFoundError, match="dall-e-3"):
        named.images.generate(model="dall-e-2", **DRAWING)


def test_what_names_no_form_gets_an_address(named):
    (one,) = named.images.generate(**DRAWING).data
    assert one.b64_json is None and one.url.endswith("/0.png")
    (one,) = named.images.generate(output_format="jpeg", **DRAWING).data
    assert one.url.endswith("/0.jpeg")


def test_what_names_a_form_gets_it(named):
    (one,) = named.images.generate(response_format="b64_json", **DRAWING).data
    assert one.url is None and picture(one.b64_json).size == (64, 64)


def test_a_stream_still_has_pictures(named):
    *_, last = named.images.generate(stream=True, **DRAWING)
    assert picture(last.b64_json).size == (64, 64)


@pytest.mark.parametrize("name", ["mine", EMBEDDED])
def test_a_name_of_another_model_is_refused_at_the_start(tmp_path, name):
    for copy in ("mine", "own"):
        shutil.copytree(EMBEDDED_FOLDER, tmp_path / "diffusers" / copy)
    call = ServeCall(
        models=tmp_path, names=(name,), defaults={"model": tmp_path / "diffusers" / "own"}
    )
    with pytest.raises(CallError, match=f"--model-name {name}: another model"):
        with serving(call):
            pass


def test_the_options_reach_the_server(monkeypatch, tmp_path):
    calls = []
    monkeypatch.setattr("inkstone.headless.serve.run.serve", calls.append)
    monkeypatch.chdir(tmp_path)
    assert main(["serve"]) == 0
    options = [f"--model-name={name}" for name in NAMES]
    assert main(["serve", *options, "--response-format", "url"]) == 0
    usual, call = calls
    assert (usual.names, usual.response_format) == ((), "b64_json")
    assert (call.names, call.response_format) == (NAMES, "url")


@pytest.mark.parametrize("name", ["", " ", "a\nb", " a", "x" * 121])
def test_a_name_that_is_none(name, capsys):
    with pytest.raises(SystemExit) as caught:
        main(["serve", "--model-name", name])
    assert caught.value.code == 2 and "such as gpt-image-1" in capsys.readouterr().err
