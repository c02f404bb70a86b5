"""`inkstone find` from the command line: a stand-in for the model's answer, and a random model."""

from __future__ import annotations

import json

import pytest
import torch

from inkstone.files.images import read_picture
from inkstone.headless.cli.main import main
from inkstone.sampling.vision_sizes import answer_sizes

from ...support.answers import answering, as_answer
from ...support.embedded import without_head
from ...support.vision import image, random_qwen, save_encoder

SIZE = (196, 140)  # the model sees it at this size


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_encoder(random_qwen(), tmp_path_factory.mktemp("qwen"))


@pytest.fixture
def picture(place):
    """A red square on a white ground."""
    from PIL import Image, ImageDraw

    canvas = Image.new("RGB", SIZE, "white")
    ImageDraw.Draw(canvas).rectangle((50, 40, 99, 109), fill="red")
    canvas.save(place.parent / "a.png")
    return place.parent / "a.png"


def run(capsys, *arguments) -> tuple[int, str, str]:
    status = main([str(a) for a in arguments])
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def answer(*spans) -> str:
    return as_answer(spans, answer_sizes(*SIZE, 1024 * 1024)[1], SIZE, "red square")


def test_boxes_mask_and_overlay(folder, picture, place, monkeypatch, capsys):
    stub = answering(monkeypatch, answer((48, 39, 101, 111)))
    call = ("find", picture, "the red square", "--text-encoder", folder)
    status, out, _ = run(capsys, *call, "--mask", "m.png", "--overlay", "o.png")
    assert status == 0 and out == "48.0 39.0 101.0 111.0  red square\n"
    assert "the red square" in stub.asked[0][0]
    mask = read_picture(place / "m.png")
    want = torch.zeros(1, SIZE[1], SIZE[0])
    want[:, 40:110, 50:100] = 1
    assert torch.equal(mask[..., 0], want), "cut out at the edges"
    overlay = read_picture(place / "o.png")
    assert overlay.shape == mask.shape and not torch.equal(overlay, read_picture(picture))
    status, out, _ = run(capsys, *call, "--mask", "m.png", "--shape", "box", "--json")
    facts = json.loads(out)
    assert facts["files"] == ["m.png"] and facts["width"] == SIZE[0]
    assert facts["boxes"] == [{"label": "red square", "box": pytest.approx([48, 39, 101, 111])}]
    assert facts["answer"] == stub.text and facts["left_out"] == []
    assert int(read_picture(place / "m.png")[..., 0].sum()) == 53 * 72


def test_nothing_was_found(folder, picture, place, monkeypatch, capsys):
    answering(monkeypatch, "There is no cat here.")
    call = ("find", picture, "cat", "--text-encoder", folder, "--mask", "m.png", "--json")
    status, out, err = run(capsys, *call)
    assert status == 1 and out == "" and "the model answered 'There is no cat here.'" in err
    assert not (place / "m.png").exists()


def test_a_random_model_ends_in_a_sentence(folder, place, capsys):
    image(40, 30)[0].save(place / "a.png")
    call = ("find", "a.png", "cat", "--text-encoder", folder, "--max-tokens", "7")
    status, out, err = run(capsys, *call)
    assert status == 1 and out == "" and "No box of 'cat' was found" in err
    assert "cut at 7 tokens" in err and "Traceback" not in err


def test_the_plan(folder, picture, place, capsys):
    call = ("find", picture, "cat", "--text-encoder", folder, "--mask", "m.png", "--plan", "--json")
    status, out, _ = run(capsys, *call)
    facts = json.loads(out)
    assert status == 0 and facts["key_values"] and facts["vision_tower"]
    assert not (place / "m.png").exists()


@pytest.mark.parametrize(
    "arguments, words",
    [
        (("missing.png", "cat"), ("missing.png",)),
        (("../a.png", " "), ("What to find has 0 characters",)),
        (("../a.png", "cat", "--mask", "m.jpg"), ("--mask m.jpg", "ends in .png")),
        (("../a.png", "cat", "--mask", "x.png", "--overlay", "x.png"), ("each its own file",)),
        (("../a.png", "cat", "--mask", "../a.png"), ("the picture itself",)),
        (("../a.png", "cat", "--shape", "circle"), ("circle",)),
        (("../a.png", "cat", "--text-encoder", "none"), ("none",)),
        (("../a.png",), ("WHAT",)),
    ],
)
def test_bad_calls(arguments, words, picture, fails):
    fails(("find", *arguments), words, 2)


def test_a_file_without_its_head_says_what_to_use(picture, tmp_path, capsys):
    mute = without_head(tmp_path)
    status, _, err = run(capsys, "find", picture, "cat", "--text-encoder", mute)
    assert status == 1 and "Qwen2.5-VL-7B-Instruct" in err
