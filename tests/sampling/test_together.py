"""Several drawings in one pass: the bits of each alone, one reading of streamed blocks, and what
ends one of them.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
import torch

from inkstone.errors import InkstoneError
from inkstone.kernels import linear
from inkstone.loaders.formats.safetensors import save_safetensors
from inkstone.loaders.lora.adapters import Adapter
from inkstone.loaders.lora.file import load_lora
from inkstone.loaders.memory import residency
from inkstone.loaders.memory.residency import Prefetcher, Residency
from inkstone.loaders.models.diffusion_model import DiffusionModel
from inkstone.loaders.models.load import load_diffusion_model
from inkstone.loaders.models.weight_file import LoadOptions
from inkstone.pipeline.quantize import quantize
from inkstone.pipeline.quantize_request import QuantizeCall
from inkstone.sampling.request import Hooks, Request
from inkstone.sampling.sampler import denoise
from inkstone.sampling.schedule import LINEAR, sigmas
from inkstone.sampling.step_cache_choices import StepCache
from inkstone.sampling.together import Part, denoise_together, gains, goes_together

from ..support.quantizing import SMALL, quiet, tensors

SIZE, STEPS = (96, 64), 3
ROWS = (9, 4, 17)  # tokens of prompts
KINDS = ("Q4_K_M", "fp8_scaled", "")


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A small model by its kind of weights."""
    folder = tmp_path_factory.mktemp("models")
    source = folder / "model.safetensors"
    save_safetensors(source, {n: t * 8 for n, t in tensors().items()}, {})
    files = {"": source}
    for kind, suffix in (("Q4_K_M", "gguf"), ("fp8_scaled", "safetensors")):
        files[kind] = folder / f"{kind}.{suffix}"
        quantize(QuantizeCall(source, files[kind], kind), quiet)
    return files


@pytest.fixture
def model(files, monkeypatch):
    """Loads one."""
    monkeypatch.setattr(residency, "_all", type(residency._all)())
    monkeypatch.setattr(linear, "UNPACKED", 1 << 15)  # several pieces of each weight
    monkeypatch.setattr(linear, "_LARGE", 1 << 10)
    return lambda kind="": load_diffusion_model(files[kind], LoadOptions(torch.float32, wait=True))


def noise(*shape: int) -> torch.Tensor:
    """The same for the same shape."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


def parts(model: DiffusionModel, **request: object) -> list[Part]:
    """Drawings with prompts of different lengths and seeds of their own."""
    joint = model.network.config.joint
    r = Request(*SIZE, **{"sigmas": sigmas(LINEAR, STEPS, 24), "cfg": 4.0, **request})
    negative = noise(1, 5, joint)
    return [Part(noise(1, n, joint), negative, replace(r, seed=n)) for n in ROWS]


def alone(model: DiffusionModel, part: Part) -> torch.Tensor:
    """The latents of one without the others."""
    return denoise(model, part.positive, part.negative, part.request)


def check_same(model: DiffusionModel, some: list[Part]) -> list[torch.Tensor]:
    """The latents together, which are those of each alone."""
    got = denoise_together(model, some)
    for part, latents in zip(some, got, strict=True):
        want = alone(model, part)
        assert torch.equal(latents, want), f"{(latents - want).abs().max():.2e}"
        assert latents.isfinite().all() and latents.std() > 0.1
    assert not torch.equal(got[0], got[1])
    return got


def stream(model: DiffusionModel, monkeypatch) -> None:
    """Leaves room for two blocks."""
    rest, groups = model.weights.sizes
    room = rest + 2 * max(groups)
    monkeypatch.setattr(
        Residency, "_room", lambda self, budget, working, makes=True: room + working
    )


@pytest.mark.parametrize("cfg", [1.0, 4.0])
@pytest.mark.parametrize("kind", KINDS)
def test_each_has_the_bits_that_it_has_alone(model, kind, cfg):
    check_same(one := model(kind), parts(one, cfg=cfg))
    assert not gains(one, 64), "its weights are in memory"


@pytest.mark.parametrize("kind", KINDS)
def test_streamed_blocks_are_read_once_for_all(model, monkeypatch, kind):
    one = model(kind)
    some = parts(one)
    want = check_same(one, some)
    one.weights.park()
    stream(one, monkeypatch)
    reads: Counter[int] = Counter()
    read = Prefetcher._read

    def counted(self, index):
        reads[index] += 1
        return read(self, index)

    monkeypatch.setattr(Prefetcher, "_read", counted)
    got = denoise_together(one, some)
    assert one.weights.placement.resident == 0
    assert all(torch.equal(a, b) for a, b in zip(got, want, strict=True))
    assert max(reads.values()) <= STEPS + 1, f"{reads} for {STEPS} steps"
    most = 256 if kind else 576
    assert gains(one, most) and not gains(one, most + 1)


def test_batches_pictures_to_start_from_and_masks(model):
    one = model()
    latent = noise(1, *one.latents.shape(*SIZE)).mul(0.3)
    mask = (noise(1, 1, *one.latents.sides(*SIZE)) > 0).float()
    check_same(one, parts(one, batch=2))
    check_same(one, parts(one, sigmas=sigmas(LINEAR, STEPS, 24)[1:], latent=latent))
    check_same(one, parts(one, latent=latent, repaint=mask))


def test_loras(model, tmp_path):
    state = {}
    for name in ("transformer_blocks.0.attn.to_k", "transformer_blocks.1.attn.to_q"):
        state[f"{name}.lora_down.weight"] = noise(4, SMALL.width) * 0.1
        state[f"{name}.lora_up.weight"] = noise(SMALL.width, 4)
    save_safetensors(tmp_path / "lora.safetensors", state, {})
    one = model()
    adapted = one.with_loras([Adapter(load_lora(tmp_path / "lora.safetensors"))])
    got = check_same(adapted, parts(adapted))
    assert not torch.equal(got[0], check_same(one, parts(one))[0])


class Stop(Exception):
    """Of a hook."""


@pytest.mark.parametrize("at", [(0, 0), (1, 2), (2, 1)])
@pytest.mark.parametrize("streamed", [False, True])
def test_a_hook_that_raises_ends_its_own_drawing_only(model, monkeypatch, streamed, at):
    one = model("Q4_K_M")
    some = parts(one)
    if streamed:
        stream(one, monkeypatch)

    def on_block(step: int, block: int) -> None:
        if (step, block) == at:
            raise Stop

    some[1] = replace(some[1], hooks=Hooks(on_block=on_block))
    got = denoise_together(one, some)
    assert isinstance(got[1], Stop)
    for number in (0, 2):
        assert torch.equal(got[number], alone(one, some[number]))


def test_a_hook_after_a_step_too(model):
    one = model()
    some = parts(one)
    steps: list[int] = []

    def on_step(step) -> None:
        steps.append(step.index)
        if step.index == 1:
            raise Stop

    some[2] = replace(some[2], hooks=Hooks(on_step=on_step))
    got = denoise_together(one, some)
    assert isinstance(got[2], Stop) and steps == [0, 1]
    assert torch.equal(got[0], alone(one, some[0]))


def test_what_is_no_ones_fault_is_raised(model, monkeypatch):
    one = model()
    some = parts(one)

    def broken(self, xs, gelu=False):
        raise MemoryError

    monkeypatch.setattr(linear.Linear, "each", broken)
    with pytest.raises(MemoryError):
        denoise_together(one, some)


def test_what_has_something_of_its_own_is_refused(model):
    one = model()
    some = parts(one)
    cached = replace(one, step_cache=StepCache("fbcache", 0.4))
    assert goes_together(one, some[0].request) and not goes_together(cached, some[0].request)
    for other in ({"width": 64}, {"cfg": 3.0}, {"sigmas": sigmas(LINEAR, STEPS + 1, 24)}):
        mixed = [some[0], replace(some[1], request=replace(some[1].request, **other))]
        with pytest.raises(InkstoneError, match="does not go together.*Draw them one by one"):
            denoise_together(one, mixed)
    with pytest.raises(InkstoneError, match="does not go together"):
        denoise_together(cached, some)
