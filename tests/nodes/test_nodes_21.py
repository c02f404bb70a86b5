"""Nodes with models, conditioning and latents of Qwen-Image-2.1 in combinations of users."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from inkstone.errors import InkstoneError
from inkstone.headless.core_nodes.registry import node_classes
from inkstone.loaders.arch.variant import VARIANTS
from inkstone.loaders.models.load import load_all

from ..support import models_21
from ..support.vision import image

NODES = node_classes()


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    pipe = models_21.pipeline()
    return models_21.load(models_21.save(pipe, tmp_path_factory.mktemp("q21")), pipe._drop_idx)


@pytest.fixture(scope="module")
def first():
    """Models of another family."""
    return load_all()


def run(name: str, **inputs):
    return NODES[name].execute(**inputs).result


def sampled(model, positive, latent, **inputs):
    call = dict(model=model, positive=positive, latent=latent, seed=1, cfg=1.0, steps=2)
    return run("InkstoneDenoise", **(call | inputs))[0]["samples"]


def edited(bundle, pictures, vae=None):
    """Positive, negative and latent of an edit."""
    return run(
        "InkstoneEncodeEdit",
        text_encoder=bundle.text_encoder,
        model=bundle.model,
        vae=vae or bundle.vae,
        prompt="make it {blue}",
        negative="bad",
        work_size="auto",
        images={f"picture_{n}": picture[None] for n, picture in enumerate(pictures, 1)},
    )


def prompted(bundle):
    inputs = dict(text_encoder=bundle.text_encoder, prompt="a {cat}", negative="a bad one")
    return run("InkstoneEncodePrompt", **inputs)


def test_references_of_cores_node_come_behind_the_prompt(bundle):
    """ReferenceLatent adds a picture that the prompt has no place for, as in core's sampler."""
    (picture,) = (image(64, 64, seed=3)[1],)
    positive, negative = prompted(bundle)
    latent = run("InkstoneImageToLatent", vae=bundle.vae, image=picture[None], work_size="auto")[0]
    (behind,) = run("ReferenceLatent", conditioning=positive, latent=latent)
    got = sampled(bundle.model, behind, latent)
    states, options = behind[0]
    placed = [[states, options | {"image_slots": (states.shape[1],)}]]
    assert torch.equal(got, sampled(bundle.model, placed, latent))
    assert not torch.equal(got, sampled(bundle.model, positive, latent)), "the picture is read"
    both = sampled(bundle.model, behind, latent, negative=negative, cfg=4.0)
    assert both.isfinite().all() and not torch.equal(both, got), "prompts of two lengths"
    own = edited(bundle, [picture])
    (more,) = run("ReferenceLatent", conditioning=own[0], latent=latent)
    assert not torch.equal(sampled(bundle.model, more, own[2]), sampled(bundle.model, *own[::2]))


def test_one_edit_prompt_serves_variants_with_the_same_template(bundle, first):
    positive, _, latent = edited(bundle, [image(64, 64, seed=3)[1]])
    turbo = replace(bundle.model, variant=VARIANTS["2.1-turbo"])
    assert sampled(turbo, positive, latent).isfinite().all()
    with pytest.raises(InkstoneError, match="encoded for 2.1, the diffusion model is embedded"):
        sampled(first.model, positive, None)


def test_models_of_two_families_are_refused_before_an_edit_is_encoded(bundle, first):
    with pytest.raises(InkstoneError, match="64 channels at 1/16.*Load the VAE of Qwen-Image-2.1"):
        edited(bundle, [image(64, 64, seed=3)[1]], first.vae)


def test_layers_are_refused_with_the_vae_of_another_family(bundle):
    inputs = dict(image=image(64, 64, seed=3)[1][None], prompt="", negative="", layers=2)
    inputs |= dict(text_encoder=bundle.text_encoder, vae=bundle.vae, area="640x640")
    with pytest.raises(InkstoneError, match="of Qwen-Image-2.1, layers need .*-Layered"):
        run("InkstoneEncodeLayers", **inputs)
