"""`inkstone ask` from the command line, on a tiny random model."""

from __future__ import annotations

import json

import pytest
import torch

from inkstone.errors import InkstoneError
from inkstone.headless.cli.main import main
from inkstone.loaders.arch.family import QWEN_IMAGE
from inkstone.loaders.models.load import load_text_encoder
from inkstone.pipeline.ask import ask, question_of
from inkstone.pipeline.ask_choices import CAPTIONS, FREE
from inkstone.sampling.next_token import Decoding

from ...support.embedded import without_head
from ...support.vision import image, random_qwen, save_encoder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_encoder(random_qwen(), tmp_path_factory.mktemp("qwen"))


@pytest.fixture
def pictures(place):
    for name, size in (("a.png", (64, 48)), ("b.png", (40, 90))):
        image(*size)[0].save(place / name)
    return ["a.png", "b.png"]


def run(capsys, *arguments) -> tuple[int, str, str]:
    status = main([str(a) for a in arguments])
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def test_a_question_about_a_picture(folder, pictures, capsys):
    call = ("ask", "a.png", "what is it?", "--text-encoder", folder, "--max-tokens", "12")
    status, out, _ = run(capsys, *call)
    assert status == 0 and out.endswith("\n")
    want = ask(
        load_text_encoder(folder), "what is it?", [image(64, 48)[1]], Decoding(max_tokens=12)
    )
    assert out == want.text + "\n"
    status, text, _ = run(capsys, *call, "--json", "--quiet")
    (facts,) = json.loads(text)
    assert facts["answer"] == want.text and facts["files"] == ["a.png"]
    assert facts["seen"] == [[56, 56]] and facts["tokens"] == len(want.tokens)
    assert run(capsys, *call, "--quiet")[1] == out, "a call again gives the same text"


def test_several_pictures_are_one_question(folder, pictures, capsys):
    call = ("ask", *pictures, "what differs?", "--model", folder, "--max-tokens", "5", "--json")
    status, out, _ = run(capsys, *call, "--temperature", "1", "--seed", "3", "--top-k", "9")
    (facts,) = json.loads(out)
    assert status == 0 and facts["files"] == pictures and len(facts["seen"]) == 2
    again = run(capsys, *call, "--temperature", "1", "--seed", "3", "--top-k", "9")[1]
    assert json.loads(again)[0]["answer"] == facts["answer"]
    other = run(capsys, *call, "--temperature", "1", "--seed", "4", "--top-k", "9")[1]
    assert json.loads(other)[0]["answer"] != facts["answer"]


@pytest.mark.parametrize("flag", ["short", "long", "training"])
def test_captions_of_each_picture(flag, folder, pictures, capsys):
    call = ("ask", *pictures, f"--{flag}", "--text-encoder", folder, "--max-tokens", "3")
    status, out, _ = run(capsys, *call)
    assert status == 0 and out.startswith("a.png: ") and "\nb.png: " in out
    facts = json.loads(run(capsys, *call, "--json")[1])
    assert [f["files"] for f in facts] == [["a.png"], ["b.png"]]
    assert {f["question"] for f in facts} == {CAPTIONS[f"{flag} caption"]}


def test_the_plan(folder, pictures, capsys):
    call = ("ask", *pictures, "what?", "--text-encoder", folder, "--plan", "--json")
    status, out, _ = run(capsys, *call)
    facts = json.loads(out)
    assert status == 0 and facts["output_head"] == 300 * 32 * 4
    assert facts["vision_tower"] and facts["key_values"] and "keys and values" in facts["sentence"]
    assert facts["peak"] > facts["runtime"]


@pytest.mark.parametrize(
    "arguments, words, status",
    [
        (("a.png",), ("only 'a.png'", "--short"), 2),
        (("missing.png", "what?"), ("missing.png",), 2),
        (("missing.png", "--short"), ("missing.png",), 2),
        (("a.png", " "), ("The question is empty",), 2),
        (("a.png", "what?", "--temperature", "-1"), ("expected a number",), 2),
        (("a.png", "--short", "--long"), ("not allowed",), 2),
    ],
)
def test_bad_calls(arguments, words, status, folder, tmp_path, place, fails):
    fails(("ask", *arguments, "--text-encoder", folder), words, status)


def test_a_file_without_its_head_says_what_to_use(place, tmp_path, capsys):
    image(32, 32)[0].save(place / "a.png")
    mute = without_head(tmp_path)
    status, _, err = run(capsys, "ask", "a.png", "what?", "--text-encoder", mute)
    assert status == 1 and "not write text" in err and "Qwen2.5-VL-7B-Instruct" in err
    with pytest.raises(InkstoneError, match="not write text"):
        ask(load_text_encoder(mute), "a", [torch.rand(9, 9, 3)], Decoding())


@pytest.mark.parametrize(
    "caption, question, words",
    [
        (FREE, " ", "question is empty"),
        ("short caption", "a", "which is a question of its own"),
        ("poem", "", "expected free question or one of"),
    ],
)
def test_what_is_asked(caption, question, words):
    with pytest.raises(InkstoneError, match=words):
        question_of(caption, question, QWEN_IMAGE)
