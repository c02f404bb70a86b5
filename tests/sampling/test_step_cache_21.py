"""Step caches on Qwen-Image-2.1 beside what else a run may have: a control, LoRAs, previews."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from inkstone.kernels.configs import SingleStreamConfig
from inkstone.loaders.lora.adapters import Adapter
from inkstone.loaders.lora.file import load_lora
from inkstone.loaders.models.control import load_control
from inkstone.loaders.models.weight_file import LoadOptions
from inkstone.sampling.request import NO_HOOKS, Control, Hooks, Request
from inkstone.sampling.sampler import denoise
from inkstone.sampling.schedule import LINEAR, sigmas
from inkstone.sampling.step_cache import relative_change
from inkstone.sampling.step_cache_choices import METHODS, StepCache

from ..controlnet import test_control_union as union
from ..support import single_stream_files as files
from ..support.lora_files import METHODS as LORAS
from ..support.lora_files import write_lora

STEPS, SIZE = 12, (96, 64)
OFTEN = {"fbcache": 1.2, "taylorseer": 3, "taylorseer2": 3, "easycache": 0.5, "teacache": 0.8}
NEVER = {name: 1.0 if method.whole else 0.0 for name, method in METHODS.items()}
CONFIG: SingleStreamConfig = union.WIDE
model = union.model


def noise(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def drawn(model, method="", number=0.0, hooks=NO_HOOKS, **more) -> torch.Tensor:
    """Latents of one text in 12 steps, with CFG."""
    cache = StepCache(method, number) if method else None
    text, other = noise(2, 1, 9, CONFIG.joint), noise(3, 1, 4, CONFIG.joint)
    request = Request(*SIZE, sigmas(LINEAR, STEPS, 24), **{"cfg": 3.0, **more})
    return denoise(replace(model, step_cache=cache), text, other, request, hooks)


def counted(model, *what, **more) -> tuple[torch.Tensor, int]:
    """(latents, evaluations of blocks)"""
    seen = []
    got = drawn(model, *what, hooks=Hooks(on_block=lambda *at: seen.append(at)), **more)
    return got, len(seen)


@pytest.fixture(scope="module")
def control(tmp_path_factory):
    path = union.loaded(tmp_path_factory.mktemp("c"), True)
    branch = load_control(path, LoadOptions(dtype=torch.float32))
    return Control(branch, noise(5, 1, 64, 1, 4, 6), 0.8, end=0.75)


@pytest.fixture(scope="module")
def adapter(tmp_path_factory):
    torch.manual_seed(5)
    weights = {n: w for n, w in files.weights(0, CONFIG).items() if ".attn.to_" in n}
    layers = {n.removesuffix(".weight"): LORAS["peft"](w) for n, w in weights.items()}
    path = write_lora(tmp_path_factory.mktemp("l") / "l.safetensors", layers, "transformer.")
    return Adapter(load_lora(path), 0.5)


def near(model, method, **more):
    """A cache that never skips changes no bit, one that does evaluates fewer blocks and is near."""
    want, whole = counted(model, **more)
    same, every = counted(model, method, NEVER[method], **more)
    assert every == whole and torch.equal(same, want), f"{(same - want).abs().max():.2e}"
    got, some = counted(model, method, OFTEN[method], **more)
    assert 0.1 * whole < whole - some < 0.9 * whole, (some, whole)
    change = relative_change(got, want)
    assert 0 < change < 0.5, f"{change:.3f}"
    return got


@pytest.mark.parametrize("method", METHODS)
def test_a_control(method, model, control):
    got = near(model, method, controls=(control,))
    effect = relative_change(got, drawn(model, method, OFTEN[method]))
    assert effect > 1e-2, f"the control changes only {effect:.1e}: this test would see nothing"


@pytest.mark.parametrize("method", METHODS)
def test_loras(method, model, adapter):
    got = near(model.with_loras([adapter]), method)
    effect = relative_change(got, drawn(model, method, OFTEN[method]))
    assert effect > 1e-2, f"the LoRA changes only {effect:.1e}: this test would see nothing"


@pytest.mark.parametrize("method", METHODS)
def test_references_a_control_and_loras_in_a_batch(method, model, control, adapter):
    """Each row is the single picture."""
    own = model.with_loras([adapter])
    more = {"controls": (control,), "references": (noise(6, 1, 64, 1, 2, 4),), "slots": (3,)}
    both = drawn(own, method, OFTEN[method], batch=2, seed=3, **more)
    for row in range(2):
        want = drawn(own, method, OFTEN[method], seed=3 + row, **more)
        assert torch.equal(both[row : row + 1], want), f"row {row}"


@pytest.mark.parametrize("method", METHODS)
def test_previews_are_of_every_step(method, model):
    """Skipped steps have the clean latents that their velocity predicts; the last one's are the
    result."""
    steps = []
    got = drawn(model, method, OFTEN[method], Hooks(on_step=steps.append))
    assert [step.index for step in steps] == list(range(STEPS)), "one for each step"
    assert all(step.x0.isfinite().all() for step in steps)
    assert not any(torch.equal(a.x0, b.x0) for a, b in zip(steps, steps[1:]))
    last = steps[-1]
    assert torch.equal(last.x, last.x0) or (last.x - last.x0).abs().max() < 1e-5
    assert got.shape == (1, 64, 1, 4, 6) and got.isfinite().all()
