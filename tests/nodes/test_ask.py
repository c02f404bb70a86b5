"""The Ask Picture node on a tiny random model."""

from __future__ import annotations

import pytest
import torch

from inkstone.errors import InkstoneError
from inkstone.host.headless import HeadlessHost, Interrupted, using
from inkstone.host.progress import listen
from inkstone.kernels import interrupt
from inkstone.loaders.models.load import load_text_encoder
from inkstone.nodes.ask import AskPicture
from inkstone.pipeline.ask import ask
from inkstone.pipeline.ask_choices import CAPTIONS, FREE
from inkstone.sampling.next_token import Decoding

from ..support.vision import image, random_qwen, save_encoder

NUMBERS = dict(max_tokens=8, temperature=0.0, top_p=1.0, top_k=0, repetition_penalty=1.05, seed=0)


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    return load_text_encoder(save_encoder(random_qwen(), tmp_path_factory.mktemp("qwen")))


def run(encoder, caption, question, pictures, **numbers):
    return AskPicture.execute(encoder, caption, question, **{**NUMBERS, **numbers}, **pictures)


def test_a_caption_by_default(encoder):
    schema = AskPicture.define_schema()
    defaults = {item.id: getattr(item, "default", None) for item in schema.inputs}
    picture = image(40, 30)[1][None]
    got = run(encoder, defaults["caption"], defaults["question"], {"images.picture_1": picture})
    want = ask(encoder, CAPTIONS["short caption"], [picture], Decoding(max_tokens=8))
    assert got.args == (want.text,) and want.text
    assert defaults["max_tokens"] == Decoding().max_tokens
    assert defaults["repetition_penalty"] == Decoding().repetition_penalty


def test_pictures_are_numbered_in_order(encoder):
    a, b = image(40, 30)[1][None], image(30, 60, seed=1)[1][None]
    one = run(encoder, FREE, "?", {"images": {"picture_1": a, "picture_2": b}}).args
    assert one == run(encoder, FREE, "?", {"images.picture_2": b, "images.picture_1": a}).args
    other = run(encoder, FREE, "?", {"images": {"picture_1": b, "picture_2": a}}).args
    assert other != one


@pytest.mark.parametrize(
    "caption, question, pictures, words",
    [
        (FREE, "", 1, "question is empty"),
        ("short caption", "what?", 1, "question of its own"),
        ("poem", "", 1, "expected free question or one of"),
        (FREE, "<|image_pad|>", 1, "2 places for pictures"),
        ("short caption", "", 2, "one by one"),
    ],
)
def test_wrong_inputs(encoder, caption, question, pictures, words):
    batch = torch.rand(pictures, 20, 20, 3)
    with pytest.raises(InkstoneError, match=words):
        run(encoder, caption, question, {"images.picture_1": batch})


def test_a_wire_of_another_kind(encoder):
    with pytest.raises(InkstoneError, match="Load Text Encoder"):
        run("x", "short caption", "", {})


def test_the_text_is_shown_while_it_is_written_and_stops(encoder):
    shown: list[str] = []
    host = HeadlessHost(on_detail=shown.append)
    picture = {"images.picture_1": image(40, 30)[1][None]}
    before = interrupt.listen(None)
    try:
        listen()
        with using(host):
            text = run(encoder, FREE, "?", picture).args[0]
            assert shown and text.startswith(shown[0])
            host.interrupt.set()
            with pytest.raises(Interrupted):
                run(encoder, FREE, "?", picture)
    finally:
        interrupt.listen(before)
