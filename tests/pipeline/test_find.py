"""Finding what was named: the request, and what becomes of the answer."""

from __future__ import annotations

import json
import logging
from types import SimpleNamespace

import pytest
import torch

from inkstone.errors import InkstoneError
from inkstone.loaders.arch.family import QWEN_IMAGE, QWEN_IMAGE_21
from inkstone.loaders.models.load import load_text_encoder
from inkstone.pipeline.find import find, question_for
from inkstone.sampling.vision_sizes import answer_sizes

from ..support.answers import answering, as_answer
from ..support.vision import image, random_qwen, save_encoder

ENCODER = SimpleNamespace(family=QWEN_IMAGE)  # all that is read of it


@pytest.mark.parametrize("size", [(333, 177), (29, 1000), (1999, 1501), (1, 7)])
def test_boxes_in_the_pictures_own_pixels(size, monkeypatch):
    width, height = size
    seen = answer_sizes(*size, 1024 * 1024)[1]
    assert seen != size
    spans = [(0, 0, width / 2, height), (width / 4, 0, width, height / 2)]
    stub = answering(monkeypatch, as_answer(spans, seen, size))
    pieces = []
    found = find(ENCODER, torch.rand(1, height, width, 3), "a  thing", 99, pieces.append)
    for box, span in zip(found.boxes, spans, strict=True):
        assert box.span == pytest.approx(span, abs=1e-9 * max(size)) and box.label == "thing"
    assert found.size == size and found.seen == seen and "".join(pieces) == stub.text
    question, decoding, _ = stub.asked[0]
    assert "bbox" in question and "JSON" in question and " a thing." in question
    assert decoding.temperature == 0 and decoding.repetition_penalty == 1
    assert decoding.max_tokens == 99
    facts = json.loads(json.dumps(found.facts()))
    assert facts["width"] == width and facts["boxes"][0]["box"] == list(found.boxes[0].span)


def test_boxes_in_thousandths_of_the_picture(monkeypatch):
    """Qwen3-VL: whatever the size at which the picture was seen."""
    encoder = SimpleNamespace(family=QWEN_IMAGE_21)
    spans = [(0, 0, 166.5, 177), (83.25, 0, 333, 88.5)]
    answering(monkeypatch, as_answer(spans, (1000, 1000), (333, 177)))
    found = find(encoder, torch.rand(1, 177, 333, 3), "thing")
    for box, span in zip(found.boxes, spans, strict=True):
        assert box.span == pytest.approx(span, abs=1e-6)


def test_what_is_left_out_is_one_line(monkeypatch, caplog):
    answer = '[{"bbox_2d": [1, 2, 30, 40]}, {"bbox_2d": [9, 9, 1, 1]}, {"bbox_2d": [5, 6'
    answering(monkeypatch, answer, ended=False)
    with caplog.at_level(logging.WARNING):
        found = find(ENCODER, torch.rand(1, 56, 56, 3), "cat", 20)
    assert len(found.boxes) == 1 and len(found.left_out) == 2 == len(found.facts()["left_out"])
    (record,) = caplog.records
    line = record.getMessage()
    assert "1 of 3 boxes are used: the answer was cut at 20 tokens; box 2: " in line
    assert "box 3: its JSON is cut off" in line


@pytest.mark.parametrize(
    "answer, words",
    [
        ("[]", "the model answered '\\[\\]'"),
        ("I see no cat, but a \n dog.", "the model answered 'I see no cat, but a dog.'"),
        ("x" * 999, "x ...'"),
        ('[{"bbox_2d": [900, 900, 990, 990]}]', "outside the picture"),
        ('[{"bbox_2d": [3, 3, 1, 1]}, {"bbox_2d": [1', "box 1: .*; box 2: "),
    ],
)
def test_no_boxes_are_said_with_the_models_words(answer, words, monkeypatch):
    answering(monkeypatch, answer)
    with pytest.raises(InkstoneError, match=words) as error:
        find(ENCODER, torch.rand(1, 56, 56, 3), "cat")
    assert str(error.value).startswith("No box of 'cat' was found") and len(str(error.value)) < 700


@pytest.mark.parametrize("what", ["", " \n", "x" * 501])
def test_what_must_be_named(what):
    with pytest.raises(InkstoneError, match="expected 1 to 500"):
        question_for(what, QWEN_IMAGE)


def test_a_random_model_ends_in_a_sentence(tmp_path):
    encoder = load_text_encoder(save_encoder(random_qwen(), tmp_path))
    for seed in range(3):
        with pytest.raises(InkstoneError, match="the answer was cut at 9 tokens"):
            find(encoder, image(40, 30, seed)[1][None], "cat", 9)
