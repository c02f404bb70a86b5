"""The first-block cache against diffusers' hook, and step caches on Qwen-Image-2.1, whole runs in
float32 on tiny random weights.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from inkstone.loaders.models.load import load_all
from inkstone.loaders.models.weight_file import LoadOptions
from inkstone.sampling.request import Hooks, Request
from inkstone.sampling.sampler import denoise
from inkstone.sampling.schedule import sigmas
from inkstone.sampling.step_cache_choices import METHODS, StepCache

from ..support import models_21, tiny
from ..support.oracle import measured
from ..support.vision import image
from .test_runs_21 import ours as drawn_21

STEPS, CFG = 12, 3.0
PROMPT, NEGATIVE = "a red cat on a mat, and a prompt that is longer than the dropped head", "blurry"


@pytest.fixture(scope="module", params=["odd layers, three heads", "five layers, one wide head"])
def both(request, tmp_path_factory):
    """(diffusers' pipeline, our models)"""
    torch.manual_seed(4)
    pipe = tiny.pipeline(request.param)
    folder = tiny.save(pipe, tmp_path_factory.mktemp("tiny") / "model")
    return pipe, load_all(folder, LoadOptions(torch.float32))


def reference(pipe, threshold: float, size: tuple[int, int], seed: int):
    """(raw latents, for each step and half of CFG whether all blocks were computed) of diffusers"""
    from diffusers.hooks import FirstBlockCacheConfig
    from diffusers.hooks.first_block_cache import FBCHeadBlockHook

    decisions = []
    decide = FBCHeadBlockHook._should_compute_remaining_blocks

    def noted(self, residual):
        decisions.append(bool(decide(self, residual)))
        return decisions[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FBCHeadBlockHook, "_should_compute_remaining_blocks", noted)
        pipe.transformer.enable_cache(FirstBlockCacheConfig(threshold=threshold))
        try:
            run = dict(steps=STEPS, cfg=CFG)
            latents, _ = tiny.reference(pipe, PROMPT, NEGATIVE, size, run, [seed])
        finally:
            pipe.transformer.disable_cache()
    return latents, decisions


def ours(bundle, threshold: float, size: tuple[int, int], seed: int):
    """As `reference`."""
    width, height = size
    model = replace(bundle.model, step_cache=StepCache("fbcache", threshold))
    texts = [bundle.text_encoder.encode(text).states for text in (PROMPT, NEGATIVE)]
    levels = sigmas(model.schedule, STEPS, width // 16 * (height // 16))
    seen: list[int] = []
    hooks = Hooks(on_block=lambda step, block: seen.append(block))
    request = Request(width, height, levels, seed=seed, cfg=CFG)
    latents = denoise(model, *texts, request, hooks)
    heads = [at for at, block in enumerate(seen) if block == 0]
    ends = [*heads[1:], len(seen)]
    return latents, [end - at > 1 for at, end in zip(heads, ends)]


@pytest.mark.parametrize("threshold", [0.5, 0.95, 1.05])
@pytest.mark.parametrize("size", [(96, 64)])
def test_first_block_cache_is_that_of_diffusers(both, threshold, size):
    pipe, bundle = both
    want, theirs = reference(pipe, threshold, size, 5)
    got, decisions = ours(bundle, threshold, size, 5)
    assert decisions == theirs and len(theirs) == 2 * STEPS, (decisions, theirs)
    error = measured(got, want)
    print(f"latents {error:.1e} relative, {theirs.count(False)} of {len(theirs)} skipped")
    assert error < 1e-4, f"latents differ by {error:.2e} relative"


def test_the_thresholds_above_skip_some_and_not_all(both):
    counts = [ours(both[1], t, (96, 64), 5)[1].count(False) for t in (0.5, 0.95, 1.05)]
    assert counts[0] == 0 < counts[1] < counts[2] < 2 * STEPS, counts


# --- Qwen-Image-2.1


@pytest.fixture(scope="module")
def bundle_21(tmp_path_factory):
    pipe = models_21.pipeline()
    folder = models_21.save(pipe, tmp_path_factory.mktemp("qwen21"))
    return models_21.load(folder, pipe._drop_idx)


@pytest.mark.parametrize("keep", ["off", "device"])
@pytest.mark.parametrize("method", METHODS)
def test_caches_work_with_the_single_stream(bundle_21, method, keep):
    """A batch is its singles; what is kept of the prefix changes nothing; no skip, no change."""
    pictures = [image(64, 64, seed=5)[1]]

    def drawn(cache, batch=1, seed=3, keep=keep):
        model = replace(bundle_21.model, step_cache=cache).with_prefix_kept(keep)
        own = replace(bundle_21, model=model)
        return drawn_21(own, "a red {cat}", 4.0, (64, 96), pictures, batch, seed)

    often = 2 if METHODS[method].whole else 5.0
    never = 1 if METHODS[method].whole else 0.0
    cache = StepCache(method, often, forced=True)
    plain = drawn(None)
    assert torch.equal(drawn(StepCache(method, never, forced=True)), plain)
    pair = drawn(cache, batch=2)
    singles = torch.cat([drawn(cache, seed=3 + k) for k in range(2)])
    assert torch.equal(pair, singles), f"{(pair - singles).abs().max():.2e}"
    assert torch.equal(drawn(cache, keep="off"), drawn(cache, keep="device"))
    if method in ("fbcache", "teacache"):  # the others need more than the three steps here
        assert not torch.equal(pair[:1], plain)
