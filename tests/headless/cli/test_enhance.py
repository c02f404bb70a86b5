"""`inkstone enhance` from the command line, on a tiny random model."""

from __future__ import annotations

import json

import pytest

from inkstone.headless.cli.main import main
from inkstone.pipeline import enhance as module
from inkstone.pipeline.enhance import Enhanced, EnhanceRequest

from ...support.embedded import without_head
from ...support.vision import image, random_qwen, save_encoder

PROMPT = 'a sign "OPEN"'


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_encoder(random_qwen(), tmp_path_factory.mktemp("qwen"))


@pytest.fixture
def pictures(place):
    for name, size in (("a.png", (64, 48)), ("b.png", (40, 90))):
        image(*size)[0].save(place / name)
    (place / "own.txt").write_text("Write a haiku.")
    return ["a.png", "b.png"]


def run(capsys, *arguments) -> tuple[int, str, str]:
    status = main([str(a) for a in arguments])
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def test_a_prompt_that_is_kept_is_no_failure(folder, pictures, capsys, caplog):
    call = ("enhance", PROMPT, "--image", "a.png", "--text-encoder", folder)
    status, out, _ = run(capsys, *call)
    assert status == 0 and out == PROMPT + "\n"
    assert caplog.text.count("used as it is") == 1
    status, out, _ = run(capsys, *call, "--json", "--quiet")
    facts = json.loads(out)
    assert status == 0 and facts["enhanced"] == facts["prompt"] == PROMPT
    assert facts["kept"] is True and facts["tries"] == 3 and "used as it is" in facts["note"]


def test_the_enhanced_prompt_and_its_options(folder, pictures, capsys, monkeypatch):
    requests: list[EnhanceRequest] = []

    def stub(text_encoder, request, on_text):
        requests.append(request)
        on_text(0, "a pie")
        on_text(0, "ce")
        return Enhanced("better", "", 2)

    monkeypatch.setattr(module, "enhance", stub)
    options = ("--instructions", "own.txt", "--seed", "4", "--temperature", "0", "--max-pixels")
    call = ("enhance", PROMPT, "--image", "a.png", "--image", "b.png", "--model", folder)
    assert run(capsys, *call, *options, "9999")[:2] == (0, "better\n")
    (request,) = requests
    assert (request.prompt, request.instructions, request.seed) == (PROMPT, "Write a haiku.", 4)
    assert request.temperature == 0 and request.pixels == 9999
    assert [p.shape[1:3] for p in request.pictures] == [(48, 64), (90, 40)]
    assert "a pie" not in run(capsys, *call)[2]
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    assert "answer 1: a piece\n" in run(capsys, *call)[2], "shown on a terminal"
    assert "a pie" not in run(capsys, *call, "--quiet")[2]
    facts = json.loads(run(capsys, *call, "--json")[1])
    assert facts["kept"] is False and facts["note"] is None and facts["tries"] == 2
    assert requests[1].seed == EnhanceRequest(prompt="").seed
    assert requests[1].pixels == EnhanceRequest(prompt="").pixels


def test_the_plan(folder, pictures, capsys):
    call = ("enhance", PROMPT, *("--image", "a.png"), "--text-encoder", folder, "--plan", "--json")
    status, out, _ = run(capsys, *call)
    facts = json.loads(out)
    assert status == 0 and facts["key_values"] and facts["vision_tower"]


@pytest.mark.parametrize(
    "arguments, words, status",
    [
        ((" ",), ("The prompt is empty",), 2),
        ((PROMPT, "--image", "missing.png"), ("missing.png",), 2),
        ((PROMPT, "--instructions", "missing.txt"), ("missing.txt",), 2),
        ((PROMPT, "--instructions", "."), ("--instructions",), 2),
        ((PROMPT, "--temperature", "-1"), ("expected a number",), 2),
        ((PROMPT, "--model", "."), ("--text-encoder and --model",), 2),
    ],
)
def test_bad_calls(arguments, words, status, folder, fails):
    fails(("enhance", *arguments, "--text-encoder", folder), words, status)


def test_a_file_without_its_head_says_what_to_use(tmp_path, fails):
    call = ("enhance", PROMPT, "--text-encoder", without_head(tmp_path))
    fails(call, ("not write text", "Qwen2.5-VL-7B-Instruct"), 1)
