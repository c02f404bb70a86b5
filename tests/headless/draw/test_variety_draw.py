"""`--variety`, the node and the Python API: the same variety, the same pictures."""

from __future__ import annotations

import json
import logging
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

import inkstone
from inkstone.errors import CallError, InkstoneError
from inkstone.headless.cli.main import main
from inkstone.headless.draw.option_values import parse_values
from inkstone.headless.draw.request import DrawCall, check_call
from inkstone.nodes.enhance import EnhancePrompt
from inkstone.nodes.variety import VarietyNode
from inkstone.sampling.variety_choices import METHODS, TEXT_NOISE, Variety, parse_variety

from ...support.embedded_loras import embedded_lora

PROMPT, SIZE, STEPS = "a red circle on a white background", (64, 64), 4
OPTION = ["text-noise:2:0.5", "no-early-cfg:0.25"]


@pytest.fixture(scope="module")
def models():
    with inkstone.load() as own:
        yield own


def pictures(models, prompt=PROMPT, **options):
    return [np.asarray(p) for p in models.draw(prompt, **{"size": SIZE, "steps": STEPS, **options})]


def test_command_api_and_graph_draw_the_same(tmp_path, models, caplog):
    caplog.set_level(logging.INFO)
    out = tmp_path / "out.png"
    call = ["draw", PROMPT, "-o", str(out), "--size", "64x64", "--steps", str(STEPS)]
    assert main([*call, "--variety", OPTION[0], "--variety", OPTION[1]]) == 0
    assert "variety text-noise 2 acts in the first 2 of 4 steps" in caplog.text
    assert "variety no-early-cfg acts in the first 1 of 4 steps" in caplog.text
    (own,), (off,) = pictures(models, variety=OPTION), pictures(models)
    assert np.array_equal(np.asarray(Image.open(out)), own) and not np.array_equal(own, off)
    (never,) = pictures(models, variety=["text-noise:0", "no-early-cfg:0", "rewrite:0"])
    assert np.array_equal(never, off)
    chunks = Image.open(out).info
    assert json.loads(chunks["inkstone"])["variety"] == OPTION
    (node,) = [
        n for n in json.loads(chunks["prompt"]).values() if n["class_type"] == VarietyNode.ID
    ]
    amounts = {k: v for k, v in node["inputs"].items() if k != "model"}
    assert amounts == {"text_noise": 2.0, "noise_steps": 0.5, "no_early_cfg": 0.25}


def test_a_batch_is_its_singles(models):
    both = pictures(models, variety=OPTION, batch=2, seed=5)
    for k, picture in enumerate(both):
        (single,) = pictures(models, variety=OPTION, seed=5 + k)
        error = np.abs(picture.astype(int) - single).max()
        assert error <= 1, f"picture {k}: {error}"


def test_rewriting_gives_each_picture_a_prompt_of_its_seed(tmp_path, models):
    """As files, and each is the picture that its own graph draws."""
    out = tmp_path / "out.png"
    call = ["draw", "star on cyan", "-o", str(out), "--size", "64x64", "--steps", str(STEPS)]
    assert main([*call, "--seed", "3", "--batch", "2", "--variety", "rewrite"]) == 0
    files = [tmp_path / f"out_{k}.png" for k in (1, 2)]
    facts = [json.loads(Image.open(file).info["inkstone"]) for file in files]
    texts = [one["enhanced"] for one in facts]
    assert len(set(texts)) == 2 and all("cyan" in text and "star" in text for text in texts)
    steps = []
    several = models.draw(
        "star on cyan",
        size=SIZE,
        steps=STEPS,
        seed=3,
        batch=2,
        variety="rewrite",
        on_step=lambda done, total: steps.append((done, total)),
    )
    assert steps[-1] == (2 * STEPS, 2 * STEPS) and steps == sorted(steps)
    for k, file in enumerate(files):
        picture = np.asarray(Image.open(file))
        assert np.array_equal(picture, np.asarray(several[k]))
        (single,) = pictures(models, "star on cyan", seed=3 + k, variety="rewrite")
        assert np.array_equal(picture, single), f"picture {k}"
        (plain,) = pictures(models, texts[k], seed=3 + k)
        assert np.array_equal(picture, plain), f"picture {k}"
        graph = json.loads(Image.open(file).info["prompt"])
        (node,) = [n for n in graph.values() if n["class_type"] == EnhancePrompt.ID]
        assert node["inputs"]["seed"] == 3 + k and node["inputs"]["enhanced"] == texts[k]


def test_an_edit_is_rewritten_for_each_picture(models):
    """With the edit's picture; each is the picture of its own seed."""
    request, source = "make the circle blue", Image.fromarray(pictures(models)[0])
    options = {"image": source, "steps": STEPS, "variety": "rewrite"}
    both = [np.asarray(p) for p in models.draw(request, seed=3, batch=2, **options)]
    assert len(both) == 2 and not np.array_equal(*both)
    for k, picture in enumerate(both):
        (single,) = models.draw(request, seed=3 + k, **options)
        assert np.array_equal(picture, np.asarray(single)), f"picture {k}"
        assert picture.shape == (64, 64, 3)


def test_a_queue_rewrites_as_a_call_does(tmp_path, models):
    """Beside lines with other variety; a second run draws nothing again."""
    line = {"prompt": "star on cyan", "size": "64x64", "steps": STEPS, "seed": 3}
    lines = [
        {"id": "two", **line, "batch": 2, "variety": "rewrite"},
        {"id": "both", **line, "variety": ["rewrite:0.5", "text-noise:1"]},
        {"id": "plain", **line},
    ]
    jobs, out = tmp_path / "jobs.jsonl", tmp_path / "out"
    jobs.write_text("\n".join(map(json.dumps, lines)))
    assert main(["batch", str(jobs), "--output", str(out)]) == 0
    files = sorted(out.glob("*.png"))
    assert len(files) == 4
    call = {"size": SIZE, "steps": STEPS, "seed": 3}
    want = [
        *models.draw("star on cyan", **call, variety=["rewrite:0.5", "text-noise:1"]),
        *models.draw("star on cyan", **call),
        *models.draw("star on cyan", **call, batch=2, variety="rewrite"),
    ]
    for file, picture in zip(files, want, strict=True):
        assert np.array_equal(np.asarray(Image.open(file)), np.asarray(picture)), file.name
    before = [file.stat().st_mtime_ns for file in files]
    assert main(["batch", str(jobs), "--output", str(out)]) == 0
    assert [file.stat().st_mtime_ns for file in files] == before


def test_loras_work_with_variety(tmp_path, models):
    """Of strength 0 nothing changes; else both act, and a batch equals its singles."""
    bundle = models._drawer.load(DrawCall(PROMPT)).bundle
    path = embedded_lora(tmp_path / "lora.safetensors", bundle)
    for variety in (*OPTION, "rewrite"):
        off, on = (
            pictures(models, variety=variety, lora=(path, strength), batch=2, seed=5)
            for strength in (0.0, 0.7)
        )
        without = pictures(models, variety=variety, batch=2, seed=5)
        plain = pictures(models, lora=(path, 0.7), batch=2, seed=5)
        for k in range(2):
            assert np.array_equal(off[k], without[k]), variety
            assert not np.array_equal(on[k], off[k]) and not np.array_equal(on[k], plain[k])
            (single,) = pictures(models, variety=variety, lora=(path, 0.7), seed=5 + k)
            assert np.abs(on[k].astype(int) - single).max() <= 1, variety


def test_the_bridge_says_that_cores_samplers_draw_without_variety(models, monkeypatch, caplog):
    import sys
    import types

    from inkstone.nodes.bridge import nodes

    core = types.ModuleType("model_patcher")
    core.core_model = lambda model: model
    monkeypatch.setitem(sys.modules, "inkstone.nodes.bridge.model_patcher", core)
    monkeypatch.setattr(nodes.api, "require_comfyui", lambda _: None)
    model = models._drawer.load(DrawCall(PROMPT)).bundle.model
    nodes.ToModel.execute(model)
    assert caplog.messages == []
    nodes.ToModel.execute(replace(model, variety=Variety(2.0, 0.5, 0.25)))
    (line,) = caplog.messages
    assert "works with Inkstone Sampler only: core's samplers draw without it" in line
    assert "text-noise:2:0.5 and no-early-cfg:0.25" in line


@pytest.mark.parametrize(
    "options, words",
    [
        ({"enhance": True}, "--enhance and --variety rewrite both rewrite"),
        ({"prompt": " "}, "--variety rewrite: the prompt is empty"),
        ({"variety": ["text-noise:1", "text-noise:2"]}, "each name once"),
    ],
)
def test_what_does_not_go_together(options, words):
    values = {"variety": ["rewrite"], "prompt": PROMPT} | options
    call = DrawCall(
        values["prompt"],
        enhance=bool(values.get("enhance")),
        variety=[parse_variety(text) for text in values["variety"]],
    )
    with pytest.raises(CallError, match=words):
        check_call(call)


def test_a_job_line_says_what_is_wrong():
    assert parse_values({"variety": "text-noise:1"})["variety"] == [parse_variety("text-noise:1")]
    with pytest.raises(CallError, match="There is no variety 'noise'"):
        parse_values({"variety": "noise"})
    with pytest.raises(CallError, match='Did you mean "variety"'):
        parse_values({"diversity": "text-noise"})


def test_a_second_node_is_refused(models):
    model = models._drawer.load(DrawCall(PROMPT)).bundle.model
    usual = METHODS[TEXT_NOISE].usual
    with_noise = VarietyNode.execute(model, usual, 0.3, 0.0).result[0]
    assert with_noise.variety == Variety(usual, 0.3, 0.0) and not model.variety
    with pytest.raises(InkstoneError, match="has variety already.*two Inkstone Variety nodes"):
        VarietyNode.execute(with_noise, 0.1, 0.3, 0.0)
    assert VarietyNode.execute(with_noise, 0.0, 0.3, 0.0).result[0].variety == with_noise.variety
    assert VarietyNode.execute(model, 0.0, 0.3, 0.0).result[0] == replace(model)
