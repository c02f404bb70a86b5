"""Whole runs of Qwen-Image-2.1 against diffusers' pipeline on the same tiny random weights."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from inkstone.host.memory import guest_of
from inkstone.loaders.arch.variant import VARIANTS
from inkstone.loaders.memory import residency
from inkstone.pipeline.edit import edit_states, locks_for, references, seen_pictures
from inkstone.sampling.request import Request
from inkstone.sampling.run_memory import working_bytes
from inkstone.sampling.sampler import denoise
from inkstone.sampling.schedule import TURBO_21, sigmas
from inkstone.sampling.variety_choices import Variety

from ..support import models_21
from ..support.oracle import measured, relative
from ..support.vision import image

SIZES = [(64, 64), (128, 32), (32, 128), (64, 64)]  # of references: 64 x 64 pixels in area
STEPS = 3


@pytest.fixture(scope="module")
def pipe():
    return models_21.pipeline()


@pytest.fixture(scope="module")
def bundle(pipe, tmp_path_factory):
    folder = models_21.save(pipe, tmp_path_factory.mktemp("qwen21"))
    return models_21.load(folder, pipe._drop_idx)


def reference(pipe, prompt, cfg, size, pictures, seeds):
    """Raw latents [B,64,1,h,w] of the reference."""
    width, height = size
    call = dict(image=pictures, output_resolution=64) if pictures else {}
    results = []
    for seed in seeds:  # it has one noise for a batch
        with torch.no_grad():
            packed = pipe(
                prompt,
                negative_prompt="bad {x}" if cfg > 1 else None,
                true_cfg_scale=cfg,
                width=width,
                height=height,
                num_inference_steps=STEPS,
                generator=torch.Generator().manual_seed(seed),
                output_type="latent",
                **call,
            ).images
        results.append(packed)
    z = torch.cat(results).mT.unflatten(-1, (height // 16, width // 16))[:, :, None]
    c = pipe.vae.config
    mean, std = (torch.tensor(v).view(1, -1, 1, 1, 1) for v in (c.latents_mean, c.latents_std))
    return z * std + mean


def ours(bundle, prompt, cfg, size, pictures, batch=1, seed=3):
    """Raw latents of ours."""
    model, text = bundle.model, bundle.text_encoder
    negative = "bad {x}" if cfg > 1 else None
    edit = model.edit
    if pictures:
        floats = [picture[None] for picture in pictures]
        locks = locks_for(model.family, floats)
        latents = references(bundle.vae, floats, locks)
        seen = seen_pictures(edit, floats, locks)
        both = [None if p is None else edit_states(text, edit, p, seen) for p in (prompt, negative)]
    else:
        latents = ()
        both = [None if p is None else text.encode(p) for p in (prompt, negative)]
    tokens = size[0] // 16 * (size[1] // 16)
    request = Request(
        *size,
        sigmas=sigmas(model.schedule, STEPS, tokens),
        seed=seed,
        batch=batch,
        cfg=cfg,
        references=latents,
        slots=both[0].slots,
    )
    return denoise(model, both[0].states, both[1].states if both[1] else None, request)


@pytest.mark.parametrize("cfg", [1.0, 4.0])
@pytest.mark.parametrize("size, seeds", [((96, 64), [3]), ((32, 160), [3, 4])])
def test_text_to_image(pipe, bundle, cfg, size, seeds):
    want = reference(pipe, "a red {cat}", cfg, size, None, seeds)
    got = ours(bundle, "a red {cat}", cfg, size, [], len(seeds))
    error = measured(got, want)
    assert got.shape == want.shape and error < 1e-5, f"relative error {error:.2e}"


@pytest.mark.parametrize("count, cfg", [(1, 1.0), (2, 4.0), (4, 1.0)])
def test_edits(pipe, bundle, count, cfg):
    pictures = [image(*size, seed=n) for n, size in enumerate(SIZES[:count])]
    size = SIZES[count - 1]
    want = reference(pipe, "make it {blue}", cfg, size, [theirs for theirs, _ in pictures], [3])
    got = ours(bundle, "make it {blue}", cfg, size, [own for _, own in pictures])
    error = measured(got, want)
    assert got.shape == want.shape and error < 1e-5, f"relative error {error:.2e}"


def test_kept_prefixes_change_nothing(bundle):
    """Off, on the device and in main memory; again with another seed; with another prompt."""
    pictures = [image(64, 64, seed=5)[1]]
    model = bundle.model
    runs = {}
    for keep in ("off", "device", "host"):
        own = replace(bundle, model=model.with_prefix_kept(keep))
        runs[keep] = [
            ours(own, prompt, 4.0, (64, 96), pictures, seed=seed)
            for prompt, seed in (("a {b}", 1), ("a {b}", 2), ("c", 2))
        ]
    assert torch.equal(runs["off"][0], runs["device"][0]), "the store changes the numbers"
    for place in ("device", "host"):
        for one, other in zip(runs["off"], runs[place], strict=True):
            assert torch.equal(one, other), f"{place}: {relative(one, other):.2e}"
    assert not torch.equal(runs["off"][1], runs["off"][2])


def test_variety_and_kept_prefixes(bundle):
    """Steps with noise on the words use no store, and the stores of the others stay right."""
    pictures, variety = [image(64, 64, seed=5)[1]], Variety(2.0, 0.5, 0.4)
    plain = ours(bundle, "a {b}", 4.0, (64, 96), pictures, batch=2)
    for keep in ("off", "device"):
        varied = replace(bundle.model.with_prefix_kept(keep), variety=variety)
        own = replace(bundle, model=varied)
        got = ours(own, "a {b}", 4.0, (64, 96), pictures, batch=2)
        assert not torch.allclose(got, plain, atol=1e-3)
        for k in range(2):
            want = ours(own, "a {b}", 4.0, (64, 96), pictures, seed=3 + k)
            error = relative(got[k : k + 1], want)
            assert error < 1e-5, f"{keep}, row {k}: {error:.2e}"
    again = ours(bundle, "a {b}", 4.0, (64, 96), pictures, batch=2)
    assert torch.equal(again, plain), f"{relative(again, plain):.2e}"


def test_the_plan_counts_noisy_words_for_each_row(bundle):
    text = {"positive": torch.randn(1, 40, bundle.model.network.config.joint)}
    request = Request(64, 96, torch.tensor([1.0, 0.5, 0.0]), batch=3)
    noisy = replace(bundle.model, variety=Variety(1.0, 0.5))
    assert working_bytes(noisy, request, text) > working_bytes(bundle.model, request, text)


def test_stores_go_with_the_weights(bundle):
    """They count in what ComfyUI's memory manager is shown, and are freed with the weights."""
    model = bundle.model
    weights = model.weights
    pictures = [image(64, 64, seed=5)[1]]
    own = replace(bundle, model=model.with_prefix_kept("device"))
    first = ours(own, "a {b}", 4.0, (64, 96), pictures)
    one_run = weights.kept
    assert one_run == weights.reserved - weights.placement.nbytes > 0
    assert guest_of(weights).model_size() == weights.reserved, "the manager sees them"
    ours(own, "another", 4.0, (64, 96), pictures)
    assert weights.kept < 1.1 * one_run, "those of the earlier prompt are freed"
    weights.park()
    assert weights.kept == weights.reserved == weights.in_memory == 0
    again = ours(own, "a {b}", 4.0, (64, 96), pictures)
    assert torch.equal(again, first) and weights.kept == one_run


def test_a_store_in_memory_does_not_move(bundle, monkeypatch):
    """Room for twice the store: the device, and again in the next run, when it holds the store."""
    model, pictures = bundle.model.with_prefix_kept("auto"), [image(64, 64, seed=5)[1]]
    own, weights = replace(bundle, model=model), model.weights
    weights.park()
    ours(replace(own, model=model.with_prefix_kept("device")), "a {b}", 1.0, (64, 96), pictures)
    need = weights.kept
    weights.park()

    def free(device):
        return 2 * need + weights.nbytes - weights.in_memory

    monkeypatch.setattr(residency, "free_bytes", free)
    assert model.prefix_place(need) == "device" and model.prefix_place(need + 1) == "off"
    monkeypatch.undo()
    ours(own, "a {b}", 1.0, (64, 96), pictures)
    assert weights.kept == need
    monkeypatch.setattr(residency, "free_bytes", free)
    assert model.prefix_place(need) == "device" and model.prefix_place(need + 1) == "off"


def test_pictures_have_transparency(pipe, bundle):
    latent = ours(bundle, "a {cat}", 1.0, (64, 96), [])
    with torch.no_grad():
        z = reference(pipe, "a {cat}", 1.0, (64, 96), None, [3])
        want = pipe.vae.decode(z).sample[:, :, 0] if z.dim() == 5 else pipe.vae.decode(z).sample
    want = (want.clamp(-1, 1) / 2 + 0.5).permute(0, 2, 3, 1)
    got = bundle.vae.decode(latent)
    error = measured(got, want)
    assert got.shape == (1, 96, 64, 4) and error < 1e-5, f"relative error {error:.2e}"


def test_turbo_says_what_does_not_fit(bundle, caplog):
    """Its variant alone makes it a model of 8 steps without CFG."""
    turbo = replace(bundle.model, variant=VARIANTS["2.1-turbo"], schedule=TURBO_21)
    assert turbo.preset().steps == 8 and turbo.preset().cfg == 1
    ours(replace(bundle, model=turbo), "a", 4.0, (64, 64), [])
    assert "this model is a distilled 2.1 Turbo one (8 steps)" in caplog.text, caplog.text
    assert "CFG 4" in caplog.text and "3 steps" in caplog.text
