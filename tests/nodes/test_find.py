"""The Find in Picture node: a stand-in for the model's answer, a random model, and our inpaint."""

from __future__ import annotations

import json

import pytest
import torch

from inkstone.errors import InkstoneError
from inkstone.loaders.models.load import EMBEDDED_FOLDER, load_text_encoder, load_vae
from inkstone.nodes.find import FindInPicture
from inkstone.nodes.inpaint import Inpaint
from inkstone.pipeline.edit_choices import OWN
from inkstone.sampling.vision_sizes import answer_sizes

from ..support.answers import answering, as_answer
from ..support.vision import random_qwen, save_encoder


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    return load_text_encoder(save_encoder(random_qwen(), tmp_path_factory.mktemp("qwen")))


def scene(width=201, height=147):
    picture = torch.ones(1, height, width, 3)
    picture[:, 40:110, 50:100] = torch.tensor([0.9, 0.1, 0.1])
    picture[:, 20:60, 130:190] = torch.tensor([0.1, 0.1, 0.9])
    return picture


def answer_for(picture, *spans) -> str:
    size = picture.shape[2], picture.shape[1]
    return as_answer(spans, answer_sizes(*size, 1024 * 1024)[1], size)


def defaults() -> dict:
    schema = FindInPicture.define_schema()
    return {item.id: item.default for item in schema.inputs if hasattr(item, "default")}


def test_mask_overlay_and_boxes(encoder, monkeypatch):
    picture = scene()
    stub = answering(monkeypatch, answer_for(picture, (48, 39, 101, 111), (129, 19, 191, 61)))
    values = {name: defaults()[name] for name in ("what", "shape", "max_tokens")}
    mask, overlay, boxes = FindInPicture.execute(encoder, picture, **values).args
    assert mask.shape == (1, 147, 201) and overlay.shape == picture.shape
    want = torch.zeros_like(mask)
    want[:, 40:110, 50:100] = want[:, 20:60, 130:190] = 1
    assert torch.equal(mask, want), "both, cut out at their edges"
    facts = json.loads(boxes)
    assert (facts["width"], facts["height"]) == (201, 147)
    assert facts["boxes"][1]["box"] == pytest.approx([129, 19, 191, 61])
    assert "the main subject" in stub.asked[0][0]
    plain = FindInPicture.execute(encoder, picture, "x", "box", 99).args[0]
    assert (
        53 * 72 + 62 * 42 <= int(plain.sum()) <= 55 * 74 + 64 * 44
        and stub.asked[-1][1].max_tokens == 99
    )


def test_the_mask_goes_into_our_inpaint(encoder, monkeypatch):
    picture = scene()
    answering(monkeypatch, answer_for(picture, (48, 39, 101, 111)))
    mask = FindInPicture.execute(encoder, picture, "the red box", "grabcut", 99).args[0]
    vae = load_vae(EMBEDDED_FOLDER)
    latent, stitch, _ = Inpaint.execute(vae, picture, mask, 0, 0, "off", OWN).args
    assert latent["noise_mask"].any() and not latent["noise_mask"].all()
    assert torch.equal(stitch.mask.reshape(mask.shape) > 0, mask > 0)


@pytest.mark.parametrize(
    "what, shape, count, words",
    [
        (" ", "box", 1, "What to find has 0 characters"),
        ("x", "circle", 1, "expected one of grabcut, box"),
        ("x", "box", 2, "one by one"),
    ],
)
def test_wrong_inputs(encoder, monkeypatch, what, shape, count, words):
    picture = scene()
    answering(monkeypatch, answer_for(picture, (1, 1, 50, 50)))
    with pytest.raises(InkstoneError, match=words):
        FindInPicture.execute(encoder, picture.expand(count, -1, -1, -1), what, shape, 9)


def test_a_wire_of_another_kind():
    with pytest.raises(InkstoneError, match="Load Text Encoder"):
        FindInPicture.execute("x", scene(), "x", "box", 9)


def test_a_random_model_ends_in_a_sentence(encoder):
    with pytest.raises(InkstoneError, match="No box of 'cat' was found"):
        FindInPicture.execute(encoder, scene(40, 120), "cat", "grabcut", 9)
