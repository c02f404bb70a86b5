"""The Upscale Picture node: what it refuses, strength 0, and the step cache that it turns off."""

import logging
from dataclasses import replace

import pytest
import torch

from inkstone.errors import InkstoneError
from inkstone.host.headless import HeadlessHost, using
from inkstone.loaders.models.load import load_all
from inkstone.loaders.models.weight_file import LoadOptions
from inkstone.nodes.schedule import SCHEDULES
from inkstone.nodes.upscale import UpscalePicture
from inkstone.sampling.pixel_lock import resized
from inkstone.sampling.step_cache_choices import StepCache

USUAL = {"factor": 1.5, "strength": 0.1, "seed": 3, "cfg": 1.0, "steps": 10, "tile": 0}


@pytest.fixture(scope="module")
def bundle():
    return load_all(None, LoadOptions(torch.float32))


def run(bundle, options=None, **changes):
    states = bundle.text_encoder.encode("a red circle").states
    inputs = {
        "model": bundle.model,
        "vae": bundle.vae,
        "image": torch.rand(1, 70, 90, 3, generator=torch.Generator().manual_seed(1)),
        "positive": [[states, options or {}]],
        "schedule": SCHEDULES[0],
        **USUAL,
        **changes,
    }
    with using(HeadlessHost()):
        return inputs["image"], UpscalePicture.execute(**inputs).args[0]


def test_strength_0_is_the_resampled_picture(bundle):
    image, out = run(bundle, strength=0.0)
    assert torch.equal(out, (resized(image, (135, 105)) * 255).round() / 255)


def test_a_strength_redraws_it(bundle):
    _, out = run(bundle)
    assert out.shape == (1, 105, 135, 3)
    assert not torch.equal(out, run(bundle, strength=0.0)[1])
    assert torch.equal(out, run(bundle)[1])
    assert not torch.equal(out, run(bundle, seed=4)[1])


def test_a_step_cache_is_off_and_a_line_says_so(bundle, caplog):
    _, plain = run(bundle)
    cached = replace(bundle.model, step_cache=StepCache("teacache", 0.25))
    with caplog.at_level(logging.INFO):
        _, out = run(bundle, model=cached)
    assert torch.equal(out, plain)
    assert "the step cache is off" in caplog.text


@pytest.mark.parametrize(
    ("options", "changes", "words"),
    [
        ({"reference_latents": [torch.zeros(1, 16, 1, 8, 8)]}, {}, "carries reference pictures"),
        ({"inkstone_controls": ("one",)}, {}, "carries controls"),
        ({"inkstone_regions": "some"}, {}, "carries regional prompts"),
        ({}, {"factor": 0.5}, "factor is 0.5: expected 1 to 16"),
        ({}, {"tile": 100}, "The tile is 100 pixels: expected a multiple of 16"),
        ({}, {"image": torch.zeros(1, 8, 8, 2)}, "expected .pictures, height, width, channels"),
        ({}, {"cfg": 3.0}, "no negative prompt"),
    ],
)
def test_what_cannot_be_is_refused(bundle, options, changes, words):
    with pytest.raises(InkstoneError, match=words):
        run(bundle, options, **changes)
