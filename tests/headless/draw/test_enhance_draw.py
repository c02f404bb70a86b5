"""`draw --enhance`: through the graph, kept in the PNG, the same by every face."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import inkstone
from inkstone.errors import CallError
from inkstone.files.png import read_text_chunks
from inkstone.headless.cli.main import main
from inkstone.headless.draw import drawer as module_of_drawer
from inkstone.headless.draw.decide import decide, with_enhanced
from inkstone.headless.draw.drawer import Drawer
from inkstone.headless.draw.request import DrawCall
from inkstone.pipeline import enhance as module
from inkstone.pipeline.answer_stages import PlannedAnswer
from inkstone.pipeline.enhance import Enhanced, EnhanceRequest

from ...support.draw_graphs import check, folders
from ...support.embedded import without_head
from .test_edit_draw import pixels, save

pytestmark = pytest.mark.slow

PROMPT = 'a sign "OPEN"'
BETTER = 'A red wooden sign that reads "OPEN" above a door.'
QUICK = {"steps": 2, "cfg": 1.0, "dtype": "float32", "size": "64x64"}


@pytest.fixture
def files(place) -> Path:
    return folders(place)


@pytest.fixture
def requests(monkeypatch) -> list[EnhanceRequest]:
    """Prompts become BETTER; what was asked for."""
    asked: list[EnhanceRequest] = []

    def stub(text_encoder, request, on_text):
        asked.append(request)
        return Enhanced(BETTER, "", 1)

    monkeypatch.setattr(module, "enhance", stub)
    return asked


def words(options: dict[str, object]) -> list[str]:
    return [word for name, value in options.items() for word in (f"--{name}", str(value))]


def drawn(*arguments: object) -> dict[str, np.ndarray]:
    assert main(["draw", *map(str, arguments), "-o", "made.png", "--quiet"]) == 0
    return {path.name: np.asarray(Image.open(path)) for path in sorted(Path().glob("made*.png"))}


def graph_of(name: str) -> dict:
    return json.loads(read_text_chunks(name)["prompt"])


def nodes_of(name: str, kind: str) -> list[dict]:
    return [n["inputs"] for n in graph_of(name).values() if n["class_type"] == f"Inkstone{kind}"]


@pytest.fixture
def model(files, tiny_folder) -> str:
    Path("models/diffusers/tiny").symlink_to(tiny_folder("qwen-image"))
    return "models/diffusers/tiny"


def test_the_graph_keeps_both_texts_and_draws_the_same(model, requests):
    made = drawn(PROMPT, "--enhance", "--model", model, "--batch", 2, "--seed", 3, *words(QUICK))
    assert len(requests) == 1 and requests[0].seed == 3, "one prompt for all pictures of a batch"
    for name in made:
        (enhance,) = nodes_of(name, "EnhancePrompt")
        assert (enhance["prompt"], enhance["enhanced"], enhance["seed"]) == (PROMPT, BETTER, 3)
        (encode,) = nodes_of(name, "EncodePrompt")
        assert graph_of(name)[encode["prompt"][0]]["class_type"] == "InkstoneEnhancePrompt"
        own = json.loads(read_text_chunks(name)["inkstone"])
        assert (own["prompt"], own["enhanced"]) == (PROMPT, BETTER)
    check(made)
    assert len(requests) == 1, "the graph of a picture has the text and asks for none"
    for name in made:
        Path(name).unlink()
    plain = drawn(BETTER, "--model", model, "--batch", 2, "--seed", 3, *words(QUICK))
    assert all(np.array_equal(plain[name], made[name]) for name in made)
    assert "enhanced" not in json.loads(read_text_chunks("made_1.png")["inkstone"])


def test_queue_and_api(model, requests):
    want = drawn(PROMPT, "--enhance", "--model", model, *words(QUICK))["made.png"]
    job = {"id": "job", "prompt": PROMPT, "enhance": True, "model": model, **QUICK}
    plain = {**job, "id": "plain", "prompt": BETTER, "enhance": False}
    Path("jobs.jsonl").write_text(f"{json.dumps(job)}\n{json.dumps(plain)}\n")
    assert main(["batch", "jobs.jsonl", "--output", "out", "--quiet"]) == 0
    for name in ("out/job.png", "out/plain.png"):
        assert np.array_equal(np.asarray(Image.open(name)), want)
    assert json.loads(read_text_chunks("out/job.png")["inkstone"])["enhanced"] == BETTER
    (picture,) = inkstone.draw(PROMPT, enhance=True, model=model, **QUICK)
    assert np.array_equal(np.asarray(picture), want)
    assert [request.prompt for request in requests] == [PROMPT] * 3
    Path("jobs.jsonl").write_text(json.dumps({**job, "id": "a", "enhance": "yes"}))
    assert main(["batch", "jobs.jsonl", "--output", "other", "--quiet"]) != 0


def test_encoded_ahead_it_is_enhanced_once(model, requests):
    call = DrawCall(PROMPT, enhance=True, model=Path(model), steps=2, cfg=1.0, size=(64, 64))
    drawer = Drawer()
    drawer.encode_ahead(call)
    encoded = drawer.prompts_encoded
    result = drawer.draw(call, lambda done, of: None)
    assert len(requests) == 1 and drawer.prompts_encoded == encoded
    assert result.drawing.enhance.text == BETTER


def test_an_edit_is_enhanced_with_its_pictures(files, tiny_folder, requests):
    Path("models/diffusers/edit").symlink_to(tiny_folder("edit-2511"))
    save("input/one.png", pixels(96, 64))
    save("input/two.png", pixels(64, 64, seed=1))
    Path("own.txt").write_text("Write a haiku.")
    options = {**QUICK, "image": "input/one.png"}
    del options["size"]
    call = ("--image", "input/two.png", "--model", "models/diffusers/edit", "--enhance")
    made = drawn(PROMPT, *words(options), *call, "--instructions", "own.txt")
    (request,) = requests
    assert [p.shape[1:3] for p in request.pictures] == [(64, 96), (64, 64)]
    assert request.instructions == "Write a haiku."
    (enhance,) = nodes_of("made.png", "EnhancePrompt")
    assert enhance["instructions"] == "Write a haiku." and "images.picture_2" in enhance
    check(made)


def plan_of(capsys, *arguments: object) -> dict:
    assert main(["draw", PROMPT, *map(str, arguments), "--plan", "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def answer_of(call: DrawCall, text: str = "") -> PlannedAnswer | None:
    """What a plan counts; text: of the enhanced prompt, where it is known."""
    models = Drawer().load(call)
    drawing = decide(call, models)
    drawing = with_enhanced(drawing, text, models) if text else drawing
    return module_of_drawer._enhancing(call, drawing, models)


def test_the_plan_counts_the_answer(model, capsys):
    """What writes the prompt stays, and the longest answer has keys and values."""
    call = ("--model", model, *words(QUICK))
    plain, both = plan_of(capsys, *call), plan_of(capsys, *call, "--enhance")
    same = DrawCall(PROMPT, enhance=True, model=Path(model), dtype="float32")
    answer = answer_of(same)
    assert answer_of(same, BETTER) is None, "it is written before the drawing is planned"
    assert answer is not None and answer.max_tokens == answer.text.family.most_tokens
    head, text = answer.head.nbytes, answer.text.weights.nbytes
    assert plain["enhancing"] == 0 < both["enhancing"] == head
    assert both["peak"] - both["runtime"] >= text + head + answer.working > plain["activations"]
    assert f"output head and its forms {head / 1e9:.2f} GB" in both["sentence"]
    assert "output head" not in plain["sentence"]


def test_the_plan_of_an_edit_counts_its_pictures(files, tiny_folder):
    Path("models/diffusers/edit").symlink_to(tiny_folder("edit-2511"))
    save("input/one.png", pixels(96, 64))
    save("input/map.png", pixels(32, 32))
    call = DrawCall(PROMPT, enhance=True, model=Path("models/diffusers/edit"))
    one = answer_of(replace(call, image=[Path("input/one.png")]))
    two = answer_of(replace(call, image=[Path("input/one.png"), Path("input/map.png")]))
    assert one is not None and two is not None and two.tower is not None
    assert one.sizes == [(96, 64)] and two.sizes == [(96, 64), (32, 32)]
    assert one.tokens < two.tokens and len(one.stages()) == 2
    assert answer_of(replace(call, enhance=False, image=[Path("input/one.png")])) is None


def test_a_random_model_keeps_the_prompt(model, caplog):
    """A real one, without a stub: its text breaks the rules."""
    want = drawn(PROMPT, "--model", model, *words(QUICK))["made.png"]
    got = drawn(PROMPT, "--model", model, "--enhance", *words(QUICK))["made.png"]
    assert "used as it is" in caplog.text
    assert np.array_equal(got, want)
    assert json.loads(read_text_chunks("made.png")["inkstone"])["enhanced"] == PROMPT


@pytest.mark.parametrize(
    "arguments, said, status",
    [
        ((PROMPT, "--instructions", "a.txt"), ("--instructions is for --enhance",), 2),
        ((PROMPT, "--enhance", "--instructions", "a.txt"), ("a.txt",), 2),
        ((" ", "--enhance"), ("prompt is empty",), 2),
    ],
)
def test_bad_calls(arguments, said, status, fails):
    fails(("draw", *arguments), said, status)


def test_a_file_without_its_head_says_what_to_use(tmp_path, fails):
    call = (PROMPT, "--enhance", "--text-encoder", without_head(tmp_path))
    fails(("draw", *call), ("not write text", "Qwen2.5-VL-7B-Instruct"), 1)


def test_layers(files, tiny_folder):
    call = DrawCall(PROMPT, enhance=True, model=tiny_folder("layered"))
    save("input/one.png", pixels(64, 64))
    with pytest.raises(CallError, match="does not apply to Qwen-Image-Layered"):
        Drawer().draw(replace(call, image=[Path("input/one.png")]), lambda done, of: None)


def test_what_is_done_to_models_is_done_once(requests, place, caplog):
    """The prompt is written, then encoded, then drawn: in three runs of one graph."""
    caplog.set_level("INFO")
    assert main(["draw", PROMPT, "--enhance", "--reference-cache", "host", *words(QUICK)]) == 0
    assert len(requests) == 1
    for line in ("there is nothing to keep", "diffusion model embedded"):
        assert caplog.text.count(line) == 1, caplog.text
