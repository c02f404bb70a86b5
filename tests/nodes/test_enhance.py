"""The Enhance Prompt node on a tiny random model."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from inkstone.errors import InkstoneError
from inkstone.host.headless import HeadlessHost, using
from inkstone.loaders.models.load import load_text_encoder
from inkstone.nodes.enhance import PNG_CHUNK, EnhancePrompt
from inkstone.pipeline import enhance as module
from inkstone.pipeline.enhance import Enhanced, EnhanceRequest, enhance

from ..support.vision import image, random_qwen, save_encoder

PROMPT = 'a sign "OPEN"'


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    return load_text_encoder(save_encoder(random_qwen(), tmp_path_factory.mktemp("qwen")))


def run(encoder, prompt=PROMPT, hidden=None, **inputs):
    """The node with its defaults."""
    schema = EnhancePrompt.define_schema()
    named = {item.id: getattr(item, "default", None) for item in schema.inputs}
    own = {name: value for name, value in named.items() if value is not None}
    node = type("Node", (EnhancePrompt,), {"hidden": hidden})
    return node.execute(encoder, **{**own, "prompt": prompt, **inputs})


def test_the_defaults_are_those_of_a_request(encoder):
    defaults = {i.id: getattr(i, "default", None) for i in EnhancePrompt.define_schema().inputs}
    want = EnhanceRequest(prompt="")
    assert (defaults["temperature"], defaults["seed"]) == (want.temperature, want.seed)
    assert (defaults["enhanced"], defaults["instructions"]) == ("", "")


def test_a_prompt_that_is_kept_says_so_on_the_node(encoder):
    output = run(encoder)
    assert output.args == (PROMPT,)
    (shown,) = output.ui["text"]
    note = enhance(encoder, EnhanceRequest(prompt=PROMPT)).note
    assert shown == f"{PROMPT}\n\n({note})"


def test_what_the_node_asks_for(encoder, monkeypatch):
    requests: list[EnhanceRequest] = []

    def stub(text_encoder, request, on_text):
        requests.append(request)
        on_text(0, "a piece")
        return Enhanced("better", "", 1)

    monkeypatch.setattr(module, "enhance", stub)
    a, b = image(40, 30)[1][None], image(30, 60, seed=1)[1][None]
    shown: list[str] = []
    with using(HeadlessHost(on_detail=shown.append)):
        output = run(
            encoder,
            instructions="shorter",
            temperature=0.2,
            seed=9,
            images={"picture_2": b, "picture_1": a},
        )
    assert output.args == ("better",) and output.ui["text"] == ["better"]
    assert output.ui["enhanced"] == [{"prompt": PROMPT, "text": "better"}]
    (request,) = requests
    assert (request.prompt, request.instructions, request.seed) == (PROMPT, "shorter", 9)
    assert request.temperature == 0.2 and [p.shape for p in request.pictures] == [a.shape, b.shape]
    assert shown == ["a piece"]


def test_an_edited_text_is_used_and_nothing_is_written(encoder, monkeypatch):
    monkeypatch.setattr(module, "enhance", None)
    text = "  my own text\n"
    assert run(encoder, enhanced=text).args == (text,)
    assert run(encoder, prompt="", enhanced=text).args == (text,)


def test_the_pictures_of_a_run_keep_both_texts(encoder):
    chunks = {"workflow": {}}
    hidden = SimpleNamespace(unique_id="7", extra_pnginfo=chunks)
    run(encoder, hidden=hidden, enhanced="better")
    run(encoder, hidden=SimpleNamespace(unique_id="8", extra_pnginfo=chunks), enhanced="other")
    assert chunks == {
        "workflow": {},
        PNG_CHUNK: {
            "7": {"prompt": PROMPT, "text": "better"},
            "8": {"prompt": PROMPT, "text": "other"},
        },
    }


def test_wrong_inputs(encoder):
    with pytest.raises(InkstoneError, match="prompt is empty"):
        run(encoder, prompt=" ")
    with pytest.raises(InkstoneError, match="Load Text Encoder"):
        run("x")
