"""Variety: the embedded model drawn with it, as singles, batches, edits, inpaintings, controls,
regions, LoRAs, step caches and from streamed weights.
"""

from __future__ import annotations

import logging
from dataclasses import replace

import pytest
import torch

from inkstone.errors import InkstoneError
from inkstone.loaders.memory import residency
from inkstone.loaders.memory.residency import Residency
from inkstone.loaders.models.control import load_control
from inkstone.loaders.models.load import EMBEDDED_FOLDER, load_diffusion_model
from inkstone.loaders.models.weight_file import LoadOptions
from inkstone.sampling.regions import Region, Regional
from inkstone.sampling.request import Control, Hooks, Request
from inkstone.sampling.run_memory import working_bytes
from inkstone.sampling.sampler import denoise
from inkstone.sampling.schedule import LINEAR, sigmas
from inkstone.sampling.step_cache_choices import METHODS as CACHES
from inkstone.sampling.step_cache_choices import StepCache
from inkstone.sampling.variety import Prompt, noisy_prompt
from inkstone.sampling.variety_choices import (
    METHODS,
    NO_EARLY_CFG,
    REWRITE,
    TEXT_NOISE,
    Variety,
    VarietyOption,
    parse_variety,
    variety_of,
)

from ..support.embedded import prompts

STEPS = 10
SIZE = (64, 48)
NOISE = Variety(text_noise=2.0, noise_steps=0.5)
EARLY = Variety(no_early_cfg=0.3)
BOTH = Variety(text_noise=2.0, noise_steps=0.5, no_early_cfg=0.3)
NO_HOOKS = Hooks()


@pytest.fixture(scope="module")
def model():
    return load_diffusion_model(EMBEDDED_FOLDER, LoadOptions(torch.float32, wait=True))


@pytest.fixture(scope="module")
def branch():
    return load_control(EMBEDDED_FOLDER)


def latent(seed: int, batch: int = 1) -> torch.Tensor:
    return torch.randn(batch, 16, 1, 6, 8, generator=torch.Generator().manual_seed(seed))


def drawn(model, variety=None, hooks=NO_HOOKS, **request):
    """Latents in 10 steps at CFG 3."""
    r = {"sigmas": sigmas(LINEAR, STEPS, 12), "cfg": 3.0, "seed": 3, **request}
    own = model if variety is None else replace(model, variety=variety)
    return denoise(own, *prompts().values(), Request(*SIZE, **r), hooks)


def requests(branch):
    """Kinds of drawings, by name."""
    mask = torch.zeros(1, 1, 6, 8)
    mask[..., 4:] = 1
    levels = torch.cat([torch.tensor([0.9]), sigmas(LINEAR, STEPS, 12)[2:]])
    cells = torch.zeros(3, 4, dtype=torch.bool)
    cells[:, 2:] = True
    return {
        "text to image": {},
        "edit": {"references": (latent(7),)},
        "inpaint": {"latent": latent(8), "repaint": mask, "sigmas": levels},
        "control": {"controls": (Control(branch, latent(9), 0.9, end=0.6),)},
        "regions": {"regional": Regional((Region(prompts()["positive"][:, :4], cells),))},
        "no CFG": {"cfg": 1.0},
    }


KINDS = ("text to image", "edit", "inpaint", "control", "regions", "no CFG")


@pytest.mark.parametrize("kind", KINDS)
def test_works_in_every_kind_of_drawing_and_a_batch_is_its_singles(model, branch, kind):
    request = requests(branch)[kind]
    plain = drawn(model, batch=2, **request)
    off = drawn(model, Variety(), batch=2, **request)
    assert torch.equal(off, plain), f"{(off - plain).abs().max():.2e}"
    got = drawn(model, BOTH, batch=2, **request)
    assert torch.isfinite(got).all() and not torch.allclose(got, plain, atol=1e-3)
    for k in range(2):
        want = drawn(model, BOTH, seed=3 + k, **request)
        error = (got[k : k + 1] - want).abs().max().item()
        assert error < 1e-4, f"row {k}: {error:.2e}"
    again = drawn(model, BOTH, batch=2, **request)
    assert torch.equal(got, again), f"{(got - again).abs().max():.2e}"


def test_amounts_of_zero_are_off_bit_for_bit(model):
    plain = drawn(model)
    for variety in (Variety(0.0, 1.0, 0.0), variety_of([parse_variety("rewrite:1")])):
        got = drawn(model, variety)
        assert torch.equal(got, plain), f"{(got - plain).abs().max():.2e}"


def test_cfg_begins_where_it_is_said(model, caplog):
    """The first steps run once, the others twice, and are those of a run without CFG."""
    caplog.set_level(logging.INFO)
    counts, states = dict.fromkeys(range(STEPS), 0), {}

    def block(step, index):
        counts[step] += index == 0

    hooks = Hooks(on_step=lambda step: states.setdefault(step.index, step.x), on_block=block)
    drawn(model, EARLY, hooks)
    assert list(counts.values()) == [1] * 3 + [2] * 7
    assert "variety no-early-cfg acts in the first 3 of 10 steps" in caplog.text
    alone = {}
    drawn(model, None, Hooks(on_step=lambda s: alone.setdefault(s.index, s.x)), cfg=1.0)
    assert torch.equal(states[2], alone[2]) and not torch.equal(states[3], alone[3])


def test_words_are_noisy_in_the_first_steps_only(model):
    """Each step reads the words that it should; the negative prompt stays clean."""
    network, seen = type(model.network), []
    walk = network.walk

    def noted(self, inputs, hooks):
        seen.append(inputs.txt.clone())
        return walk(self, inputs, hooks)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(network, "walk", noted)
        drawn(model, NOISE)
    positive, negative = seen[::2], seen[1::2]
    clean = [torch.equal(text, prompts()["positive"]) for text in positive]
    assert clean == [False] * 5 + [True] * 5
    assert all(torch.equal(text, positive[0]) for text in positive[:5])
    assert all(torch.equal(text, prompts()["negative"]) for text in negative)


def test_no_early_cfg_without_cfg_says_so(model, caplog):
    got = drawn(model, EARLY, cfg=1.0)
    assert "variety no-early-cfg has no effect: CFG is 1" in caplog.text
    assert "text-noise" in caplog.text
    plain = drawn(model, cfg=1.0)
    assert torch.equal(got, plain), f"{(got - plain).abs().max():.2e}"


def test_too_few_steps_are_said(model, caplog):
    small = Variety(text_noise=1.0, noise_steps=0.1, no_early_cfg=0.2)
    levels = sigmas(LINEAR, 4, 12)
    assert torch.equal(drawn(model, small, sigmas=levels), drawn(model, sigmas=levels))
    assert caplog.text.count("has no effect: the first of 4 steps is more than") == 2
    assert "Use 0.25 or more" in caplog.text


@pytest.mark.parametrize("method", CACHES)
def test_step_caches_work_with_it(model, method):
    """The step in which the noise ends is whole, and a batch is its singles."""
    cached = replace(model, step_cache=StepCache(method, 3 if CACHES[method].whole else 9.0))
    whole = set(range(STEPS))
    hooks = Hooks(on_block=lambda step, index: whole.discard(step) if index == 5 else None)
    got = drawn(cached, BOTH, hooks, batch=2)
    assert not whole & {0, 3, 5}, f"skipped: {whole}"
    assert whole, "no step was skipped"
    for k in range(2):
        want = drawn(cached, BOTH, seed=3 + k)
        error = (got[k : k + 1] - want).abs().max().item()
        assert torch.equal(got[k : k + 1], want), f"row {k}: {error:.2e}"


def test_streamed_weights_draw_the_same(monkeypatch):
    monkeypatch.setattr(residency, "_all", type(residency._all)())
    streamed = load_diffusion_model(EMBEDDED_FOLDER, LoadOptions(torch.float32, wait=True))
    monkeypatch.setattr(Residency, "_room", lambda *_: 1 << 40)
    want = drawn(streamed, BOTH, batch=2)
    streamed.weights.park()
    own = replace(streamed, variety=BOTH)
    request = Request(*SIZE, sigmas(LINEAR, STEPS, 12), cfg=3.0, batch=2)
    rest, groups = streamed.weights.sizes
    room = rest + 2 * max(groups) + working_bytes(own, request, prompts())
    monkeypatch.setattr(Residency, "_room", lambda *_: room)
    got = drawn(streamed, BOTH, batch=2)
    assert streamed.weights.placement.resident == 0
    assert torch.equal(got, want), f"{(got - want).abs().max():.2e}"


# --- the noise


def test_noise_of_a_picture_is_that_of_its_seed():
    text = torch.randn(1, 6, 8, generator=torch.Generator().manual_seed(1))
    three = noisy_prompt(Prompt(text), NOISE, 2**64 - 1, 3).text
    for k, seed in enumerate((2**64 - 1, 0, 1)):
        one = noisy_prompt(Prompt(text), NOISE, seed, 1).text
        assert torch.equal(three[k : k + 1], one)
    assert not torch.allclose(three[0], three[1])


def test_noise_has_the_size_of_each_channel_whatever_one_word_has():
    """A word and a channel that are a thousand times larger do not drown the others."""
    text = torch.randn(1, 200, 64, generator=torch.Generator().manual_seed(1))
    text[0, 0] *= 1000
    text[..., 5] *= 1000
    noise = noisy_prompt(Prompt(text), Variety(text_noise=0.5), 0, 1).text - text
    spread = noise[0].std(dim=0)
    usual = torch.cat([spread[:5], spread[6:]])
    assert 0.2 < usual.min() and usual.max() < 0.5, (usual.min(), usual.max())
    assert 200 < spread[5] < 500, spread[5]


# --- settings


@pytest.mark.parametrize(
    "text, want",
    [
        (TEXT_NOISE, VarietyOption(TEXT_NOISE, METHODS[TEXT_NOISE].usual)),
        ("text-noise:0.3", VarietyOption(TEXT_NOISE, 0.3)),
        ("text-noise:0.3:0.4", VarietyOption(TEXT_NOISE, 0.3, 0.4)),
        ("no-early-cfg:0", VarietyOption(NO_EARLY_CFG, 0.0)),
        (REWRITE, VarietyOption(REWRITE, METHODS[REWRITE].usual)),
    ],
)
def test_parse(text, want):
    assert parse_variety(text) == want
    assert parse_variety(want.words()) == want


@pytest.mark.parametrize(
    "text, words",
    [
        ("", "no variety ''.*text-noise"),
        ("noise", "'noise'.*no-early-cfg"),
        ("text-noise:a", "NAME:AMOUNT or NAME:AMOUNT:STEPS"),
        ("text-noise:1:0.2:3", "NAME:AMOUNT:STEPS"),
        ("no-early-cfg:0.1:0.2", "expected NAME, NAME:AMOUNT, for example"),
        ("text-noise:nan", "NAME:AMOUNT"),
        ("text-noise:-1", r"0 \(off\) to 10"),
        ("text-noise:inf", r"0 \(off\) to 10"),
        ("text-noise:1:0", "above 0, up to 1"),
        ("no-early-cfg:1.5", r"0 \(off\) to 1\. It is the fraction"),
        ("rewrite:3", r"0 \(off\) to 2\. It is the temperature"),
    ],
)
def test_what_is_no_variety(text, words):
    with pytest.raises(InkstoneError, match=words):
        parse_variety(text)


def test_each_name_once():
    with pytest.raises(InkstoneError, match="each name once"):
        variety_of([parse_variety("text-noise:1"), parse_variety("text-noise:2")])
    both = variety_of([parse_variety("text-noise:1:0.3"), parse_variety("no-early-cfg:0.2")])
    assert both == Variety(1.0, 0.3, 0.2)
    assert both.words() == "text-noise:1:0.3 and no-early-cfg:0.2"
