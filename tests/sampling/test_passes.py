"""Both halves of CFG and the rows of a batch in one pass over packed weights: the bits of separate
passes, and when memory is too short for it.
"""

from __future__ import annotations

import gc
import logging
from dataclasses import replace

import pytest
import torch

from inkstone.kernels import interrupt, linear
from inkstone.loaders.arch.expected_tensors import controlnet_layout
from inkstone.loaders.formats.safetensors import save_safetensors
from inkstone.loaders.lora.adapters import Adapter
from inkstone.loaders.lora.file import load_lora
from inkstone.loaders.memory import residency
from inkstone.loaders.memory.residency import Residency
from inkstone.loaders.models.control import load_control
from inkstone.loaders.models.diffusion_model import DiffusionModel
from inkstone.loaders.models.load import load_diffusion_model
from inkstone.loaders.models.weight_file import LoadOptions
from inkstone.pipeline.quantize import quantize
from inkstone.pipeline.quantize_request import QuantizeCall
from inkstone.sampling.request import Control, Request
from inkstone.sampling.run_memory import passes_apart, together_bytes, working_bytes
from inkstone.sampling.sampler import denoise
from inkstone.sampling.schedule import LINEAR, sigmas
from inkstone.sampling.step_cache_choices import StepCache

from ..support import single_stream_files
from ..support.quantizing import SMALL, quiet, tensors

SIZE, STEPS = (96, 64), 2
FORMS = {
    "Q4_K": ("Q4_K_M", torch.float32),
    "fp8": ("fp8_scaled", torch.float32),
    "fp8 in bf16": ("fp8_scaled", torch.bfloat16),
    "bf16": ("", torch.bfloat16),
    "fp32": ("", torch.float32),
}
ONCE = "go together: each weight is unpacked once"


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """The file of a small model of a family in a type, written once."""
    folder, files = tmp_path_factory.mktemp("models"), {}

    def get(family: str, kind: str):
        if (family, kind) not in files:
            source = folder / f"{family}.safetensors"
            if family == "2.1":
                deeper = replace(single_stream_files.CONFIG, layers=3)
                state = single_stream_files.weights(config=deeper)
                single_stream_files.write(source, single_stream_files.bf16(state))
            else:
                save_safetensors(source, {n: t * 8 for n, t in tensors().items()}, {})
            out = folder / f"{family}-{kind}{'.safetensors' if 'fp8' in kind else '.gguf'}"
            if kind:
                quantize(QuantizeCall(source, out, kind), quiet)
            files[family, kind] = out if kind else source
        return files[family, kind]

    return get


@pytest.fixture
def model(file, monkeypatch):
    """A loaded model; plain ones go together as well."""
    monkeypatch.setattr(residency, "_all", type(residency._all)())
    monkeypatch.setattr(DiffusionModel, "packed", True)
    monkeypatch.setattr(linear, "UNPACKED", 1 << 15)  # several pieces of each weight
    monkeypatch.setattr(linear, "_LARGE", 1 << 10)

    def get(family: str = "1", form: str = "Q4_K", variant: str | None = None) -> DiffusionModel:
        kind, dtype = FORMS[form]
        options = LoadOptions(dtype, wait=True, variant=variant)
        return load_diffusion_model(file(family, kind), options)

    return get


def noise(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


def prompts(model) -> tuple[torch.Tensor, torch.Tensor]:
    """Of different lengths."""
    joint = model.network.config.joint
    return noise(1, 9, joint), noise(1, 4, joint)


def latent(model) -> torch.Tensor:
    return noise(1, *model.latents.shape(*SIZE)).mul(0.3)


def both_ways(model, caplog, **request) -> torch.Tensor:
    """The latents, which are the same bits together and apart."""
    caplog.set_level(logging.INFO)
    levels = sigmas(LINEAR, request.pop("steps", STEPS), 24)
    r = Request(*SIZE, levels, seed=3, **{"cfg": 4.0, "batch": 2, **request})
    got = denoise(model, *prompts(model), r)
    assert ONCE in caplog.text
    caplog.clear()
    with passes_apart():
        want = denoise(model, *prompts(model), r)
    assert ONCE not in caplog.text
    assert torch.equal(got, want), f"{(got - want).abs().max():.2e}"
    assert got.isfinite().all() and got.std() > 0.1
    return got


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("family", ["1", "2.1"])
def test_together_is_apart(model, caplog, family, form):
    both_ways(model(family, form), caplog)


@pytest.mark.parametrize("family", ["1", "2.1"])
def test_references(model, caplog, family):
    one = model(family, variant="edit-2511" if family == "1" else None)
    picture = latent(one)
    edited = both_ways(one, caplog, references=(picture, picture.flip(-1)))
    assert not torch.equal(edited, both_ways(one, caplog))


@pytest.mark.parametrize("method", ["fbcache", "taylorseer", "easycache"])
def test_rows_with_a_step_cache_are_passes(model, caplog, method):
    one = replace(model(), step_cache=StepCache(method, 3 if "taylor" in method else 0.4))
    both_ways(one, caplog, steps=12, batch=3, cfg=1.0)
    both_ways(one, caplog, steps=12)


def test_controls(model, caplog, tmp_path):
    layout = controlnet_layout(replace(SMALL, layers=2))
    g = torch.Generator().manual_seed(1)
    state = {name: torch.randn(shape, generator=g) * 0.1 for name, shape in layout.items()}
    save_safetensors(tmp_path / "control.safetensors", state, {})
    branch = load_control(tmp_path / "control.safetensors", LoadOptions(torch.float32, wait=True))
    one = model()
    control = Control(branch, latent(one), 0.8)
    got = both_ways(one, caplog, controls=(control,))
    assert not torch.equal(got, both_ways(one, caplog))
    cached = replace(one, step_cache=StepCache("fbcache", 0.4))
    both_ways(cached, caplog, steps=12, controls=(control,))


def test_loras(model, caplog, tmp_path):
    names = [
        f"transformer_blocks.{i}.{n}" for i in range(2) for n in ("attn.to_k", "img_mlp.net.2")
    ]
    state = {}
    for name in names:
        width = SMALL.ff if name.endswith("net.2") else SMALL.width
        state[f"{name}.lora_down.weight"] = noise(4, width) * 0.1
        state[f"{name}.lora_up.weight"] = noise(SMALL.width, 4)
    save_safetensors(tmp_path / "lora.safetensors", state, {})
    one = model()
    adapted = one.with_loras([Adapter(load_lora(tmp_path / "lora.safetensors"))])
    got = both_ways(adapted, caplog)
    assert not torch.equal(got, both_ways(one, caplog))


@pytest.mark.parametrize("family", ["1", "2.1"])
def test_streamed_weights(model, monkeypatch, caplog, family):
    one = model(family)
    whole = both_ways(one, caplog)
    one.weights.park()
    rest, groups = one.weights.sizes
    r = Request(*SIZE, sigmas(LINEAR, STEPS, 24), cfg=4.0, batch=2)
    texts = dict(zip(("positive", "negative"), prompts(one)))
    room = rest + 2 * max(groups) + together_bytes(one, r, texts)
    monkeypatch.setattr(Residency, "_room", lambda *_: room)
    got = both_ways(one, caplog)
    assert one.weights.placement.streamed and torch.equal(got, whole)


def test_short_memory_takes_no_weights_their_place(model, monkeypatch, caplog):
    """A byte less than all together need: one after the other, resident, and a line says it."""
    one = model()
    caplog.set_level(logging.INFO)
    r = Request(*SIZE, sigmas(LINEAR, STEPS, 24), seed=3, cfg=4.0, batch=2)
    texts = dict(zip(("positive", "negative"), prompts(one)))
    apart, together = working_bytes(one, r, texts), together_bytes(one, r, texts)
    assert apart < together
    lines = {}
    for room in (one.weights.nbytes + together, one.weights.nbytes + together - 1):
        monkeypatch.setattr(Residency, "_room", lambda *_, room=room: room)
        caplog.clear()
        lines[room] = denoise(one, *texts.values(), r), caplog.text
        assert not one.weights.placement.streamed
    (first, enough), (second, short) = lines.values()
    assert ONCE in enough and ONCE not in short
    assert "2 passes of a step go one by one for want of memory" in short
    assert torch.equal(first, second)


def test_nothing_is_planned_for_what_gains_nothing(model, monkeypatch):
    one = model()
    r = Request(*SIZE, sigmas(LINEAR, STEPS, 24), cfg=1.0, batch=2)
    positive, negative = prompts(one)
    assert together_bytes(one, r, {"positive": positive}) == 0, "one pass"
    both = {"positive": positive, "negative": negative}
    assert together_bytes(one, r, both) > working_bytes(one, r, both)
    monkeypatch.setattr(DiffusionModel, "packed", False)
    assert together_bytes(one, r, both) == 0, "plain weights"


def test_which_files_are_packed(file):
    for kind, packed in (("Q4_K_M", True), ("fp8_scaled", True), ("", False)):
        for family in ("1", "2.1"):
            one = load_diffusion_model(file(family, kind), LoadOptions(torch.float32, wait=True))
            assert one.packed == packed, (family, kind)


@pytest.mark.parametrize("family", ["1", "2.1"])
def test_stopped_anywhere_it_works_again(model, family):
    """A cancellation between two products: nothing of the passes stays, the next run is whole."""
    one = model(family)
    r = Request(*SIZE, sigmas(LINEAR, STEPS, 24), seed=3, cfg=4.0)
    texts, beats = prompts(one), []

    def listener(*_: object) -> None:
        beats.append(1)
        if len(beats) == stop:
            raise KeyboardInterrupt

    def alive() -> int:
        gc.collect()
        return sum(isinstance(x, torch.Tensor) for x in gc.get_objects())

    want, stop = denoise(one, *texts, r), 0
    before = interrupt.listen(listener)
    try:
        denoise(one, *texts, r)
        whole = len(beats)
        first = alive()
        for stop in (whole // 7, whole // 2, whole - 9):
            beats.clear()
            with pytest.raises(KeyboardInterrupt):
                denoise(one, *texts, r)
            assert alive() <= first, (stop, whole)
        stop = 0
        assert torch.equal(denoise(one, *texts, r), want)
    finally:
        interrupt.listen(before)
