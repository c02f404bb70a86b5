"""`--cache`, the node and the Python API: the same cache, the same picture."""

from __future__ import annotations

import json
import logging

import numpy as np
import pytest
import torch

import inkstone
from inkstone.errors import CallError, InkstoneError
from inkstone.headless.cli.main import main
from inkstone.headless.draw.drawer import Drawer
from inkstone.headless.draw.option_values import parse_values
from inkstone.headless.draw.request import DrawCall
from inkstone.nodes.step_cache import StepCacheNode
from inkstone.sampling.step_cache_choices import METHODS, StepCache, parse_step_cache

PROMPT, SIZE, STEPS = "a red circle on a white background", (64, 64), 10


@pytest.fixture(scope="module")
def plain():
    with inkstone.load() as models:
        yield np.asarray(models.draw(PROMPT, size=SIZE, steps=STEPS)[0]), models


def test_command_api_and_graph_draw_the_same(tmp_path, plain, caplog, capsys):
    caplog.set_level(logging.INFO)
    off, models = plain
    out = tmp_path / "out.png"
    call = ["draw", PROMPT, "-o", str(out), "--size", "64x64", "--steps", str(STEPS)]
    assert main([*call, "--cache", "fbcache:0.5"]) == 0
    assert "step cache fbcache:0.5: " in caplog.text and "block evaluations saved" in caplog.text
    from PIL import Image

    file = np.asarray(Image.open(out))
    own = np.asarray(models.draw(PROMPT, size=SIZE, steps=STEPS, cache="fbcache:0.5")[0])
    assert np.array_equal(file, own) and not np.array_equal(own, off)
    never = np.asarray(models.draw(PROMPT, size=SIZE, steps=STEPS, cache="fbcache:0")[0])
    assert np.array_equal(never, off)
    again = tmp_path / "again.png"
    graph = json.loads(Image.open(out).info["prompt"])
    (node,) = [n for n in graph.values() if n["class_type"] == StepCacheNode.ID]
    assert node["inputs"]["method"] == "fbcache" and node["inputs"]["threshold"] == 0.5
    assert main([*call[:3], str(again), *call[4:]]) == 0
    assert np.array_equal(np.asarray(Image.open(again)), off)


def test_the_plan_counts_what_is_kept():
    texts = ["", "teacache:0.1", "taylorseer2:2"]
    calls = [DrawCall(PROMPT, cache=parse_step_cache(text) if text else None) for text in texts]
    activations = [Drawer().plan(call).activations for call in calls]
    assert activations == sorted(activations) and activations[0] < activations[2], activations


@pytest.mark.parametrize("name", ["teacache", "step_cache"])
def test_other_names_lead_to_ours(name):
    with pytest.raises(CallError, match='"cache"'):
        parse_values({name: "0.1"})
    assert parse_values({"cache": "teacache:0.1"}) == {"cache": StepCache("teacache", 0.1)}
    with pytest.raises(CallError, match="no step cache 'deepcache'"):
        parse_values({"cache": "deepcache"})


def test_few_steps_are_refused_in_one_sentence(plain):
    with pytest.raises(InkstoneError, match="3 steps, expected at least 10"):
        plain[1].draw(PROMPT, size=SIZE, steps=3, cache="fbcache")
    plain[1].draw(PROMPT, size=SIZE, steps=3, cache="fbcache:0.1:force")


@pytest.mark.parametrize("method", METHODS)
def test_the_node_gives_a_model_with_the_cache(method):
    from inkstone.loaders.models.load import load_all

    model = load_all(None).model
    (cached,) = StepCacheNode.execute(model, method).args
    assert cached.step_cache == StepCache(method, METHODS[method].usual)
    assert model.step_cache is None and cached.network is model.network
    (own,) = StepCacheNode.execute(model, method, 2, 0.1, 0.9, True).args
    assert own.step_cache == StepCache(method, 2, 0.1, 0.9, True)
    with pytest.raises(InkstoneError, match="from 0.9 to 0.1"):
        StepCacheNode.execute(model, method, 2, 0.9, 0.1)
    assert torch.equal(cached.latent_mean, model.latent_mean)
