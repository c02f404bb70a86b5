"""Guidance, noise and the loop against diffusers and written-out numbers."""

import math
from contextlib import nullcontext
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from inkstone.errors import InkstoneError
from inkstone.kernels.configs import MMDiTConfig
from inkstone.kernels.mmdit import MMDiT
from inkstone.kernels.modulation import modulation, modulation_keys
from inkstone.sampling.denoise import euler
from inkstone.sampling.geometry import FIRST_LATENTS, pack
from inkstone.sampling.guidance import guide
from inkstone.sampling.noise import noise
from inkstone.sampling.request import Hooks, Request
from inkstone.sampling.sampler import denoise
from inkstone.sampling.schedule import LIGHTNING, LINEAR, QWEN, sigmas
from inkstone.sampling.variety_choices import Variety

from ..support.oracle import fill, library
from .test_schedule import PIPELINE, QWEN_CONFIG

# --- guidance


def test_guidance_by_hand():
    """neg + 4 (pos - neg) = (9, 16), as long as pos = (3, 4): 5 / sqrt(337) of it."""
    got = guide(torch.tensor([[[3.0, 4.0]]]), torch.tensor([[[1.0, 0.0]]]), 4.0)
    want = torch.tensor([[[45 / math.sqrt(337), 80 / math.sqrt(337)]]])
    assert torch.allclose(got, want, atol=1e-6, rtol=0), got


def test_guidance_per_token():
    """The reference's formula in numpy float64, token by token: lengths are never mixed."""
    positive, negative = torch.randn(2, 3, 5, 64) * torch.tensor([0.01, 1, 30.0]).view(1, 3, 1, 1)
    got = guide(positive, negative, 2.5).numpy()
    worst = 0.0
    for b in range(3):
        for s in range(5):
            p, n = positive[b, s].double().numpy(), negative[b, s].double().numpy()
            c = n + 2.5 * (p - n)
            want = c * np.sqrt((p * p).sum()) / np.sqrt((c * c).sum())
            worst = max(worst, np.abs(got[b, s] - want).max() / np.abs(want).max())
    assert worst < 1e-6, f"relative error {worst:.1e}"
    assert guide(torch.zeros(1, 2, 64), torch.zeros(1, 2, 64), 4.0).abs().max() == 0


# --- noise


@pytest.mark.parametrize("rows, columns", [(8, 12), (26, 38), (2, 2), (166, 166)])
def test_noise_is_the_references_and_comfyuis(rows, columns):
    before = torch.random.get_rng_state()
    got = noise(2**40 + 7, 1, rows, columns)
    assert torch.equal(torch.random.get_rng_state(), before), "the global generator was used"
    generator = torch.Generator("cpu").manual_seed(2**40 + 7)
    drawn = torch.randn((1, 1, 16, rows, columns), generator=generator)
    packed = library(PIPELINE).QwenImagePipeline._pack_latents(drawn, 1, 16, rows, columns)
    assert torch.equal(pack(got), packed)
    comfy = torch.randn([1, 16, 1, rows, columns], generator=generator.manual_seed(2**40 + 7))
    assert torch.equal(got[:, :, None], comfy)


@pytest.mark.parametrize("seed", [0, 41, 2**64 - 2])
def test_noise_of_item_k_is_that_of_seed_plus_k(seed):
    batch = noise(seed, 4, 6, 10)
    for k in range(4):
        assert torch.equal(batch[k : k + 1], noise((seed + k) % 2**64, 1, 6, 10)), f"item {k}"
    assert not torch.equal(batch[0], batch[1])


@pytest.mark.parametrize(
    "seed, batch, words", [(-1, 1, "Seed is -1"), (2**64, 1, "Seed is"), (1, 0, "Batch is 0")]
)
def test_impossible_noise(seed, batch, words):
    with pytest.raises(InkstoneError, match=words):
        noise(seed, batch, 4, 4)


# --- the loop


def test_euler_equals_the_reference_steps():
    scheduler = library("diffusers").FlowMatchEulerDiscreteScheduler(**QWEN_CONFIG)
    scheduler.set_timesteps(sigmas=np.linspace(1, 1 / 6, 6), mu=QWEN.mu(15))
    start, mix = torch.randn(2, 15, 64), torch.randn(64, 64) / 8
    x = start
    for t in scheduler.timesteps:
        x = scheduler.step(torch.tanh(x @ mix), t, x).prev_sample
    got = euler(lambda x, step: (torch.tanh(x @ mix), None), start, sigmas(QWEN, 6, 15))
    error = (got - x).abs().max().item()
    assert error < 1e-5, f"states differ by {error:.1e}"


def test_every_step_is_reported_with_the_picture_it_predicts():
    """Straight paths: v = noise - data, so every x0 is the data and so is the end."""
    data, start, steps = torch.randn(1, 4, 64), torch.randn(1, 4, 64), []
    levels = sigmas(LIGHTNING, 4, 4)
    end = euler(lambda x, step: (start - data, None), start, levels, on_step=steps.append)
    assert [(s.index, s.total, s.sigma) for s in steps] == [
        (i, 4, levels[i].item()) for i in range(4)
    ]
    for s in steps:
        assert torch.allclose(s.x0, data, atol=1e-5), f"step {s.index}"
    assert torch.equal(steps[-1].x, end) and torch.allclose(end, data, atol=1e-5)


@pytest.mark.parametrize("cfg, passes", [(0.0, 1), (1.0, 1), (1.01, 2)])
def test_the_negative_runs_only_where_guidance_is_on(cfg, passes):
    """By the lengths of the text states that the network gets: 5 positive, 2 negative."""
    model, lengths = random_model(1), []
    model.network.txt_in.register_forward_pre_hook(lambda _, args: lengths.append(args[0].shape[1]))
    positive, negative = torch.randn(1, 5, 32), torch.randn(1, 2, 32)
    denoise(model, positive, negative, Request(32, 32, sigmas(LINEAR, 2, 4), cfg=cfg))
    assert lengths == [5, 2][:passes] * 2


def test_the_velocity_is_computed_once_a_step():
    steps = []

    def velocity(x, step):
        steps.append(step)
        return x, x / 2

    euler(velocity, torch.ones(1, 1, 64), sigmas(LINEAR, 2, 1), 4.0)
    assert steps == [0, 1]


def random_model(layers: int = 3):
    """The parts of a model that `denoise` uses, with random weights."""
    config = MMDiTConfig(layers, 2, 16, 64, 32, 64, (4, 6, 6))
    d = config.width
    rows = {"linear_1": d, "linear_2": d, "norm_out": 2 * d, "img_mod": 6 * d, "txt_mod": 6 * d}

    def weight(key):
        out = next(n for part, n in rows.items() if part in key)
        return torch.randn(out, 256 if "linear_1" in key else d) * 0.1

    weights = {k: weight(k) for k in modulation_keys(layers)}
    weights = {k: w[:, 0] if k.endswith("bias") else w for k, w in weights.items()}
    return SimpleNamespace(
        network=fill(MMDiT(config)),
        dtype=torch.float32,
        device=torch.device("cpu"),
        weights_format="float32",
        latents=FIRST_LATENTS,
        rescales=True,
        latent_mean=torch.randn(1, 16, 1, 1),
        latent_std=torch.rand(1, 16, 1, 1) + 0.5,
        trained_for=None,
        step_cache=None,
        variety=Variety(),
        variant=None,
        edit=None,
        apart=False,
        layered=False,
        adapted=nullcontext,
        ready=lambda working, controls, together: False,
        packed=False,
        modulation=lambda s: modulation(weights.__getitem__, s, layers),
    )


def first_state(model, request: Request) -> torch.Tensor:
    """The first input of the network."""
    states = []
    hook = model.network.img_in.register_forward_pre_hook(lambda _, args: states.append(args[0]))
    denoise(model, torch.randn(1, 5, 32), None, request)
    hook.remove()
    return states[0]


def test_a_run_starts_from_the_references_noise():
    got = first_state(random_model(1), Request(48, 80, sigmas(QWEN, 2, 15), seed=9, batch=3))
    for k in range(3):
        drawn = torch.randn((1, 1, 16, 10, 6), generator=torch.Generator().manual_seed(9 + k))
        assert torch.equal(
            got[k : k + 1], library(PIPELINE).QwenImagePipeline._pack_latents(drawn, 1, 16, 10, 6)
        )


def test_a_schedule_that_starts_below_one_mixes_the_latent_in():
    model, latent = random_model(1), torch.randn(1, 16, 1, 4, 6)
    got = first_state(model, Request(48, 32, torch.tensor([0.6, 0.3, 0]), 4, latent=latent))
    clean = (latent[:, :, 0] - model.latent_mean) / model.latent_std
    want = pack(0.6 * noise(4, 1, 4, 6) + 0.4 * clean)
    error = (got - want).abs().max().item()
    assert error < 1e-6, f"differs by {error:.1e}"


@pytest.mark.parametrize(
    "levels, words",
    [
        ([], "0 sigmas"),
        ([1.0], "1 sigmas"),
        ([14.6, 3.0, 0.0], "14.6"),
        ([1.0, 0.2, 0.5, 0.0], "rise"),
        ([1.0, math.nan, 0.0], "nan"),
        ([0.5, 0.0], "no latent"),
    ],
)
def test_sigmas_of_other_models_are_told_in_words(levels, words):
    with pytest.raises(InkstoneError, match=words):
        denoise(random_model(1), torch.randn(1, 5, 32), None, Request(32, 32, torch.tensor(levels)))


@pytest.mark.parametrize("cfg, stop", [(1.0, 4), (4.0, 4), (4.0, 9)])
def test_stopping_between_blocks(cfg, stop):
    """The hook raises on its call number `stop`: that block and all after it never run."""
    model, calls, ran, steps = random_model(), [], [], []
    for block in model.network.transformer_blocks:
        block.register_forward_hook(lambda *_: ran.append(1))

    def on_block(step, block):
        calls.append((step, block))
        if len(calls) > stop:
            raise KeyboardInterrupt

    hooks = Hooks(steps.append, on_block)
    text = torch.randn(1, 5, 32)
    with pytest.raises(KeyboardInterrupt):
        denoise(model, text, text, Request(32, 32, sigmas(LINEAR, 3, 4), cfg=cfg), hooks)
    per_step = 3 if cfg == 1 else 6
    assert calls == [(i // per_step, i % 3) for i in range(stop + 1)]
    assert len(ran) == stop and len(steps) == stop // per_step
