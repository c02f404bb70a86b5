"""Step caches: the embedded model drawn with them, as singles, batches, edits, with controls, from
streamed weights and after an interrupt.
"""

from __future__ import annotations

import logging
from collections import Counter
from dataclasses import replace
from itertools import pairwise

import pytest
import torch

from inkstone.errors import InkstoneError
from inkstone.kernels.block_streaming import in_step
from inkstone.loaders.memory import residency
from inkstone.loaders.memory.residency import Prefetcher, Residency
from inkstone.loaders.models.control import load_control
from inkstone.loaders.models.load import EMBEDDED_FOLDER, load_diffusion_model
from inkstone.loaders.models.weight_file import LoadOptions
from inkstone.sampling.lightning import Distilled
from inkstone.sampling.request import Control, Hooks, Request
from inkstone.sampling.run_memory import working_bytes
from inkstone.sampling.sampler import denoise
from inkstone.sampling.schedule import LINEAR, sigmas
from inkstone.sampling.step_cache import extrapolated, relative_change
from inkstone.sampling.step_cache_choices import METHODS, StepCache, parse_step_cache

from ..support.embedded import prompts

STEPS = 12
SIZE = (96, 64)
NEVER = {name: 1.0 if method.whole else 0.0 for name, method in METHODS.items()}
OFTEN = {"fbcache": 0.4, "taylorseer": 3, "taylorseer2": 3, "easycache": 0.3, "teacache": 0.5}
NO_HOOKS = Hooks()


@pytest.fixture(scope="module")
def model():
    return load_diffusion_model(EMBEDDED_FOLDER, LoadOptions(torch.float32, wait=True))


def latent(seed: int, batch: int = 1) -> torch.Tensor:
    return torch.randn(batch, 16, 1, 8, 12, generator=torch.Generator().manual_seed(seed))


def drawn(model, step_cache=None, hooks=NO_HOOKS, **request):
    """Latents in 12 steps at CFG 3."""
    r = {"sigmas": sigmas(LINEAR, STEPS, 24), "cfg": 3.0, "seed": 3, **request}
    cached = replace(model, step_cache=step_cache)
    return denoise(cached, *prompts().values(), Request(*SIZE, **r), hooks)


def blocks(model, step_cache, **request):
    """(latents, (step, block) of every evaluation)"""
    seen = []
    hooks = Hooks(on_block=lambda step, block: seen.append((step, block)))
    return drawn(model, step_cache, hooks, **request), seen


def requests():
    """Kinds of drawings, by name."""
    mask = torch.zeros(1, 1, 8, 12)
    mask[..., 6:] = 1
    levels = torch.cat([torch.tensor([0.9]), sigmas(LINEAR, STEPS, 24)[2:]])
    return {
        "text to image": {},
        "edit": {"references": (latent(7),)},
        "inpaint": {"latent": latent(8), "repaint": mask, "sigmas": levels},
        "no CFG": {"cfg": 1.0},
    }


@pytest.mark.parametrize("kind", requests())
@pytest.mark.parametrize("method", METHODS)
def test_a_cache_that_never_skips_changes_no_bit(model, method, kind):
    request = requests()[kind]
    got, seen = blocks(model, StepCache(method, NEVER[method]), **request)
    want, whole = blocks(model, None, **request)
    assert seen == whole and torch.equal(got, want), f"{(got - want).abs().max():.2e}"


@pytest.mark.parametrize("method", METHODS)
def test_a_cache_skips_blocks_and_stays_near(model, method, caplog):
    caplog.set_level(logging.INFO)
    want, whole = blocks(model, None)
    got, seen = blocks(model, StepCache(method, OFTEN[method]))
    saved = len(whole) - len(seen)
    assert 0.2 * len(whole) < saved < 0.8 * len(whole), saved
    line = f"{saved} of {len(whole)} block evaluations saved ({100 * saved / len(whole):.0f} %)"
    assert line in caplog.text
    assert relative_change(got, want) < 0.3 and not torch.equal(got, want)
    assert [key for key in seen if key[0] == 0] == [key for key in whole if key[0] == 0]
    layers = model.network.config.layers
    least = 1 if method == "fbcache" else 0
    for step in range(STEPS):
        counts = Counter(block for at, block in seen if at == step)
        assert counts[0] >= 2 * least
        assert len(set(counts.values())) <= 2 and max(counts, default=0) in (0, layers - 1), counts


@pytest.mark.parametrize("method", METHODS)
def test_a_batch_is_its_singles(model, method):
    """Each row decides for itself; a picture's latent, mask and reference are its own."""
    own = StepCache(method, OFTEN[method])
    both, together = blocks(model, own, batch=2, references=(latent(7),))
    alone = [blocks(model, own, seed=3 + k, references=(latent(7),)) for k in range(2)]
    assert len(together) == sum(len(seen) for _, seen in alone)
    for k, (want, _) in enumerate(alone):
        error = (both[k : k + 1] - want).abs().max().item()
        assert torch.equal(both[k : k + 1], want), f"row {k}: {error:.2e}"


@pytest.mark.parametrize("method", METHODS)
def test_halves_of_cfg_are_apart(model, method):
    """Each half has one cache in all steps, and it is not that of the other."""
    network, seen = type(model.network), set()
    walk = network.walk

    def noted(self, inputs, hooks):
        seen.add((inputs.txt.shape[1], hooks._shortcut))
        return walk(self, inputs, hooks)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(network, "walk", noted)
        drawn(model, StepCache(method, OFTEN[method]))
    assert {length for length, _ in seen} == {t.shape[1] for t in prompts().values()}
    assert len(seen) == 2 == len({id(own) for _, own in seen})


@pytest.mark.parametrize("method", METHODS)
def test_an_interrupted_run_leaves_nothing_behind(model, method):
    own = StepCache(method, OFTEN[method])
    want = drawn(model, own)

    def stop(step: int, block: int) -> None:
        if step >= 7:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        drawn(model, own, Hooks(on_block=stop))
    got = drawn(model, own)
    assert torch.equal(got, want), f"{(got - want).abs().max():.2e}"


# --- controls


@pytest.fixture(scope="module")
def branch():
    return load_control(EMBEDDED_FOLDER)


@pytest.mark.parametrize("method", METHODS)
def test_controls_are_inside_of_what_is_kept(model, branch, method):
    """Skipped steps do not compute them; a step in which one begins or ends is whole."""
    control = Control(branch, latent(9), 0.9, start=0.25, end=0.75)
    steps = []
    handle = branch.network.transformer_blocks[0].register_forward_hook(
        lambda *_: steps.append(len(steps))
    )
    never = drawn(model, StepCache(method, NEVER[method]), controls=(control,))
    whole = len(steps)
    plain = drawn(model, controls=(control,))
    assert torch.equal(never, plain), f"{(never - plain).abs().max():.2e}"
    assert whole == 6 == len(steps) - whole  # of 12 steps, once for both halves
    steps.clear()
    got, seen = blocks(model, StepCache(method, OFTEN[method]), controls=(control,))
    handle.remove()
    assert 1 <= len(steps) < whole, steps
    layers = model.network.config.layers
    for changed in (0, 3, 9):
        counts = Counter(block for step, block in seen if step == changed)
        assert all(counts[block] >= 2 for block in range(layers)), (changed, counts)
    assert relative_change(got, plain) < relative_change(drawn(model), plain)


def test_controls_of_a_batch(model, branch):
    """A control picture for each row."""
    own, maps = StepCache("fbcache", OFTEN["fbcache"]), latent(9, batch=2)
    both = drawn(model, own, batch=2, controls=(Control(branch, maps),))
    for k in range(2):
        want = drawn(model, own, seed=3 + k, controls=(Control(branch, maps[k : k + 1]),))
        error = (both[k : k + 1] - want).abs().max().item()
        assert torch.equal(both[k : k + 1], want), f"row {k}: {error:.2e}"


# --- streamed weights


@pytest.mark.parametrize("method", METHODS)
def test_skipped_blocks_are_not_read(monkeypatch, method):
    monkeypatch.setattr(residency, "_all", type(residency._all)())
    streamed = load_diffusion_model(EMBEDDED_FOLDER, LoadOptions(torch.float32, wait=True))
    own = StepCache(method, OFTEN[method])
    cached = replace(streamed, step_cache=own)
    monkeypatch.setattr(Residency, "_room", lambda *_: 1 << 40)
    want, seen = blocks(streamed, own, batch=2)
    streamed.weights.park()
    request = Request(*SIZE, sigmas(LINEAR, STEPS, 24), cfg=3.0, batch=2)
    working = working_bytes(cached, request, prompts())
    rest, groups = streamed.weights.sizes
    room = rest + 2 * max(groups) + working
    monkeypatch.setattr(Residency, "_room", lambda *_: room)
    reads = Counter()
    fetch = Prefetcher._read

    def count(self, index):
        reads[index] += 1
        return fetch(self, index)

    monkeypatch.setattr(Prefetcher, "_read", count)
    got, again = blocks(streamed, own, batch=2)
    assert streamed.weights.placement.resident == 0
    assert torch.equal(got, want), f"{(got - want).abs().max():.2e}"
    assert sorted(again) == sorted(seen)
    used = Counter(block for _, block in dict.fromkeys(again))
    assert used[5] < STEPS
    # one block is read ahead; block 0 stays where a step computed nothing else
    for block, times in reads.items():
        assert times <= used[block] + 1, (block, reads, used)


def test_walks_that_end_early_leave_the_others_alone():
    class Network:
        stream, transformer_blocks = None, [None] * 4

    def walk(blocks: int, name: str):
        for _ in range(blocks):
            yield
        return name

    names = [walk(4, "a"), walk(1, "b"), walk(0, "c")]
    assert in_step(Network(), names) == ["a", "b", "c"]
    with pytest.raises(RuntimeError, match="more blocks"):
        in_step(Network(), [walk(5, "d")])


# --- settings


@pytest.mark.parametrize(
    "text, want",
    [
        ("fbcache", StepCache("fbcache", METHODS["fbcache"].usual)),
        ("fbcache:0.2", StepCache("fbcache", 0.2)),
        ("taylorseer:3:force", StepCache("taylorseer", 3, forced=True)),
        ("teacache:force", StepCache("teacache", METHODS["teacache"].usual, forced=True)),
    ],
)
def test_parse(text, want):
    assert parse_step_cache(text) == want
    assert parse_step_cache(want.words()) == want


@pytest.mark.parametrize(
    "text, words",
    [
        ("", "no step cache ''.*fbcache"),
        ("deepcache", "'deepcache'.*teacache"),
        ("fbcache:a", "'fbcache:a'.*NAME:THRESHOLD"),
        ("fbcache:1:2", "NAME:THRESHOLD"),
        ("fbcache:nan", "NAME:THRESHOLD"),
        ("fbcache:-1", "from 0 to 10"),
        ("fbcache:inf", "from 0 to 10"),
        ("taylorseer:2.5", "a whole number from 1 to 20.*2 is usual"),
        ("taylorseer:0", "from 1 to 20"),
    ],
)
def test_what_is_no_cache(text, words):
    with pytest.raises(InkstoneError, match=words):
        parse_step_cache(text)


def test_start_and_end(model):
    with pytest.raises(InkstoneError, match="from 0.5 to 0.5"):
        StepCache("fbcache", 0.1, 0.5, 0.5)
    _, seen = blocks(model, StepCache("fbcache", 9, start=0.25, end=0.75))
    skipped = {step for step, n in Counter(s for s, _ in seen).items() if n == 2}
    assert skipped == set(range(3, 9))


FEW = sigmas(LINEAR, 8, 24)


def test_few_steps_and_distilled_models_are_refused_unless_forced(model, monkeypatch):
    own = StepCache("fbcache", 0.1)
    with pytest.raises(InkstoneError, match=r"8 steps.*at least 10.*--cache fbcache:0.1:force"):
        drawn(model, own, sigmas=FEW)
    drawn(model, replace(own, forced=True), sigmas=FEW)
    drawn(model, own, sigmas=sigmas(LINEAR, STEPS, 24)[6:], latent=latent(4))  # from a picture
    for what in ("this LoRA", "this model"):
        own_kind = Distilled(8, "its name", what=what)
        monkeypatch.setattr(type(model), "trained_for", property(lambda self, k=own_kind: k))
        with pytest.raises(InkstoneError, match=f"{what} is a distilled Lightning one"):
            drawn(model, own)
    drawn(model, replace(own, forced=True))
    drawn(model, None, sigmas=FEW)


# --- functions


@pytest.mark.parametrize("order", [0, 1, 2])
def test_polynomials_are_extrapolated_exactly(order):
    factors = torch.randn(order + 1, 3, dtype=torch.float32)

    def value(t: float) -> torch.Tensor:
        return sum(factor * t**power for power, factor in enumerate(factors))

    points = [(t, value(t)) for t in (1.0, 3.0, 4.0)[: order + 1]]
    error = (extrapolated(points, 6.0) - value(6.0)).abs().max().item()
    assert error < 1e-3, f"{error:.1e}"


def test_what_caches_keep_is_in_the_plan(model):
    """Bytes grow with the tokens, the batch and the halves of CFG."""
    texts = prompts()
    request = Request(*SIZE, sigmas(LINEAR, STEPS, 24), cfg=3.0)
    plain = working_bytes(model, request, texts)
    need = [
        working_bytes(
            replace(model, step_cache=StepCache(name, METHODS[name].usual)), request, texts
        )
        for name in ("easycache", "teacache", "taylorseer", "taylorseer2")
    ]
    assert need[0] == plain and all(a <= b for a, b in pairwise(need)) and need[3] > need[2]
    own = replace(model, step_cache=StepCache("fbcache", 0.1))
    one = working_bytes(own, request, texts) - plain
    stream = 24 * model.network.config.width * 4
    assert one == 2 * (2 + 3) * stream  # kept, and copies at work, for each half
    wide = replace(request, batch=3)
    assert working_bytes(own, wide, texts) - working_bytes(model, wide, texts) == 3 * one
