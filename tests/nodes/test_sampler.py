"""Sampler and Empty Latent: the model's own settings, and what one choice overrides."""

from dataclasses import replace

import pytest
import torch

from inkstone.errors import InkstoneError
from inkstone.headless.core_nodes.registry import node_classes
from inkstone.headless.graph.api_graph import parse_graph
from inkstone.headless.graph.executor import Executor
from inkstone.host.headless import HeadlessHost
from inkstone.loaders.models.load import load_all
from inkstone.loaders.models.text_encoder import TextEncoderModel
from inkstone.nodes.canvas import CUSTOM, MODELS_SIZE, SIDE, SMALL, EmptyLatent
from inkstone.nodes.encode import EncodePrompt
from inkstone.nodes.load import EMBEDDED
from inkstone.nodes.sample import Denoise
from inkstone.nodes.schedule import SCHEDULES, ScheduleSigmas
from inkstone.sampling.schedule import LIGHTNING, QWEN

PROMPT = 'the word "INK" in blue on a white background'


@pytest.fixture(scope="module")
def models():
    return load_all(None)


@pytest.fixture(scope="module")
def prompts(models):
    return EncodePrompt.execute(models.text_encoder, PROMPT, "").result


def sampled(models, positive, **inputs):
    """Samples of the sampler with these inputs, seed 3."""
    return Denoise.execute(models.model, positive, **{"seed": 3, "cfg": 0.0, **inputs}).result[0][
        "samples"
    ]


def test_a_new_node_draws_as_the_model_card_says(models, prompts):
    """Nothing connected but model and positive: size, steps, CFG and negative prompt are those of
    the graph that says all of them.
    """
    positive, negative = prompts
    preset = models.model.preset()
    latent = EmptyLatent.execute(CUSTOM, *preset.size, 1).result[0]
    sigmas = ScheduleSigmas.execute(models.model, latent, preset.steps, SCHEDULES[0]).result[0]
    full = dict(negative=negative, sigmas=sigmas, latent=latent, cfg=preset.cfg)
    assert preset.cfg > 1, "the negative prompt counts"
    assert torch.equal(sampled(models, positive), sampled(models, positive, **full))
    other = EncodePrompt.execute(models.text_encoder, PROMPT, "a red star").result[0]
    assert not torch.equal(sampled(models, other), sampled(models, positive))


def test_own_steps_schedule_and_strength_are_those_of_the_schedule_node(models, prompts):
    latent = EmptyLatent.execute(CUSTOM, 96, 64, 1).result[0]
    for schedule in SCHEDULES:
        sigmas = ScheduleSigmas.execute(models.model, latent, 4, schedule, 0.5).result[0]
        own = dict(steps=4, schedule=schedule, strength=0.5)
        apart = sampled(models, prompts[0], latent=latent, sigmas=sigmas, cfg=1.0)
        assert torch.equal(sampled(models, prompts[0], latent=latent, cfg=1.0, **own), apart)


@pytest.mark.parametrize(
    "setting", [{"steps": 8}, {"schedule": SCHEDULES[2]}, {"strength": 0.5}], ids=str
)
def test_settings_that_sigmas_override_are_refused(models, prompts, setting):
    with pytest.raises(InkstoneError, match="sigmas is connected, which decides all three"):
        sampled(models, prompts[0], sigmas=torch.tensor([1.0, 0.0]), **setting)


def test_cfg_without_any_negative_prompt_is_refused(models, prompts):
    states = [[prompts[0][0][0], {}]]  # as a core node gives it
    with pytest.raises(InkstoneError, match="no negative prompt"):
        sampled(models, states, steps=1)
    assert sampled(models, states, steps=1, cfg=1.0).isfinite().all()


def test_settings_that_are_not_the_cards_are_named(models, prompts, caplog):
    """A merged Lightning model: its own settings are those for few steps, and a line says so."""
    caplog.set_level("INFO")
    merged = replace(
        models.model, schedule=LIGHTNING, family=replace(models.model.family, schedule=QWEN)
    )
    bundle = replace(models, model=merged)
    words = f"defaults are {merged.family.fast.steps} steps, CFG 1"
    sampled(bundle, prompts[0], steps=1, cfg=1.0)
    assert words not in caplog.text, "they were not used"
    sampled(bundle, prompts[0])
    assert caplog.text.count(words) == 1


# --- the canvas


def test_the_models_own_size(models):
    size = models.model.preset().size
    known = EmptyLatent.execute(MODELS_SIZE, SIDE, SIDE, 2, models.model).result[0]
    assert known["samples"].shape == (2, 16, 1, size[1] // 8, size[0] // 8)
    left = EmptyLatent.execute(MODELS_SIZE, SIDE, SIDE, 2).result[0]
    assert left["samples"].shape == (2, 16, 1, SIDE // 8, SIDE // 8), "for core samplers"
    states = EncodePrompt.execute(models.text_encoder, PROMPT, "").result[0]
    a, b = (sampled(models, states, latent=x, steps=2) for x in (known, left))
    assert torch.equal(a, b)
    one, two = (
        ScheduleSigmas.execute(models.model, x, 4, SCHEDULES[0]).result[0] for x in (known, left)
    )
    assert torch.equal(one, two)


@pytest.mark.parametrize("size", [MODELS_SIZE, SMALL, "16:9 (1664x928)"])
def test_a_size_that_another_choice_overrides_is_refused(size):
    with pytest.raises(InkstoneError, match="width 512 and height 1328, which that choice"):
        EmptyLatent.execute(size, 512, SIDE, 1)
    EmptyLatent.execute(size, SIDE, SIDE, 1)  # a new node's


def test_a_canvas_far_from_the_models_is_named(models, prompts, caplog):
    for sides, named in (((128, 128), False), ((160, 96), False), ((256, 256), True)):
        caplog.clear()
        latent = EmptyLatent.execute(CUSTOM, *sides, 1).result[0]
        sampled(models, prompts[0], latent=latent, steps=1, cfg=1.0)
        lines = [r.getMessage() for r in caplog.records if "was trained for" in r.getMessage()]
        assert len(lines) == named, lines
        assert not named or "4 times the area" in lines[0] and "(128x128)" in lines[0]


# --- the negative prompt that a positive one carries, in graphs that skip what nobody reads


@pytest.mark.parametrize("cfg, texts", [(0, 2), (2.0, 2), (1.0, 1)])
def test_a_negative_prompt_is_encoded_where_the_sampler_reads_it(tmp_path, monkeypatch, cfg, texts):
    def node(kind, **inputs):
        return {"class_type": f"Inkstone{kind}", "inputs": inputs}

    encoded, encode = [], TextEncoderModel.encode
    monkeypatch.setattr(
        TextEncoderModel, "encode", lambda self, text: encoded.append(text) or encode(self, text)
    )
    graph = {
        "1": node("LoadAll", folder=EMBEDDED, dtype="auto"),
        "2": node("EncodePrompt", text_encoder=["1", 1], prompt=PROMPT, negative="a red star"),
        "3": node("Denoise", model=["1", 0], positive=["2", 0], seed=1, cfg=cfg, steps=1),
        "4": node("Decode", vae=["1", 2], latent=["3", 0]),
        "5": {"class_type": "SaveImage", "inputs": {"images": ["4", 0], "filename_prefix": "x"}},
    }
    host = HeadlessHost(output=tmp_path, device="cpu")
    Executor(node_classes()).run(parse_graph(graph), host)
    assert encoded == [PROMPT, "a red star"][:texts] and list(tmp_path.glob("*.png"))


def test_a_strength_below_1_needs_a_picture_to_start_from(models, prompts):
    own = EmptyLatent.execute(MODELS_SIZE, SIDE, SIDE, 1).result[0]
    for latent, got in ((None, "nothing is connected"), (own, "an empty latent")):
        with pytest.raises(InkstoneError, match=f"input latent, but {got}.* Image to Latent"):
            sampled(models, prompts[0], latent=latent, strength=0.6, steps=2)


def test_a_schedule_without_a_latent_is_that_of_the_models_own_size(models):
    size = EmptyLatent.execute(CUSTOM, *models.model.preset().size, 1).result[0]
    alone = ScheduleSigmas.execute(model=models.model, steps=5, schedule=SCHEDULES[1]).result[0]
    assert torch.equal(alone, ScheduleSigmas.execute(models.model, size, 5, SCHEDULES[1]).result[0])
