"""The file that a training writes, in diffusers and in a real ComfyUI: every module is loaded, and
it draws what Inkstone draws with it.
"""

import json
import logging
import os
import re
import subprocess
from pathlib import Path

import pytest
import torch

from inkstone.loaders.lora.adapters import Adapter, apply_loras
from inkstone.loaders.lora.file import load_lora
from inkstone.loaders.models.load import load_all
from inkstone.loaders.models.weight_file import LoadOptions
from inkstone.sampling.request import Request
from inkstone.sampling.sampler import denoise
from inkstone.sampling.schedule import sigmas
from inkstone.training.lora.save import DTYPES, Origin, save_lora

from ...support import lora_files as files
from ...support import models_21, tiny
from ...support.comfy_install import (
    default_cache,
    given_source,
    prepare_python,
    prepare_stubs,
    prepare_tree,
)
from ...support.oracle import load_file, measured, relative

PROMPT = "a red cat on a mat, and a prompt that is longer than the dropped head of the template"
# bf16 factors: the difference of the two readers is of how they compute, not of the format
LIMIT = 1e-4


def square(w, rank=0):
    """A LoKr that splits rows and columns alike, as trainers do (PEFT expects it)."""
    n, k = (size // 4 for size in w.shape)
    w1 = {"lokr_w1": torch.randn(4, 4) * 0.5, "alpha": torch.tensor(1.5)}
    if not rank:
        return w1 | {"lokr_w2": torch.randn(n, k) * k**-0.5}
    return w1 | {"lokr_w2_a": torch.randn(n, rank), "lokr_w2_b": torch.randn(rank, k) * k**-0.5}


METHODS = {
    "lora": files.low_rank,
    "dora": files.dora_rows,
    "lokr": lambda w: square(w, 3),
    "whole": square,
}


def write(folder, pipe, kind, modules=None, dtype="float32"):
    """A trained file with an alpha that is not its rank, on every linear layer of the network."""
    torch.manual_seed(len(kind))
    state = {
        f"{n}.weight": m.weight.detach()
        for n, m in pipe.transformer.named_modules()
        if isinstance(m, torch.nn.Linear) and (modules is None or modules(n))
    }
    layers = {n[:-7]: METHODS[kind](w) for n, w in state.items()}
    tensors = {f"{m}.{end}": t for m, parts in layers.items() for end, t in parts.items()}
    algo = "lokr" if kind == "whole" else kind
    path = folder / f"{kind}.safetensors"
    save_lora(path, tensors, Origin(name=kind, kind=algo, spec="Qwen-Image"), DTYPES[dtype])
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    torch.manual_seed(5)
    return tiny.save(tiny.pipeline("even"), tmp_path_factory.mktemp("d") / "model")


def opened(folder):
    from diffusers import QwenImagePipeline

    return QwenImagePipeline.from_pretrained(folder)


def ours(folder, path, strength=1.0):
    bundle = load_all(folder, LoadOptions(torch.float32))
    adapter = Adapter(load_lora(path), strength)
    model, text, lines = apply_loras(bundle.model, bundle.text_encoder, [adapter])
    assert not model.adapters[0].misses, lines
    levels = sigmas(model.schedule, 3, 6 * 4)
    return denoise(model, text.encode(PROMPT).states, None, Request(96, 64, levels, seed=5))


def theirs(pipe):
    return tiny.reference(pipe, PROMPT, None, (96, 64), dict(steps=3, cfg=1.0), [5])[0]


@pytest.mark.slow
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("strength", [1.0, 0.6])
def test_diffusers_loads_every_module_at_the_same_strength(
    folder, tmp_path, caplog, dtype, strength
):
    pipe = opened(folder)
    plain = theirs(pipe)
    path = write(tmp_path, pipe, "lora", dtype=dtype)
    with caplog.at_level(logging.WARNING):
        pipe.load_lora_weights(tmp_path, weight_name=path.name, adapter_name="a")
    pipe.set_adapters(["a"], [strength])
    layers = sum(hasattr(m, "lora_A") for m in pipe.transformer.modules())
    assert layers == sum(n.endswith(".alpha") for n in load_file(path)), "every module"
    assert "expected" not in caplog.text and "LoRA keys" not in caplog.text
    want = theirs(pipe)
    error, effect = measured(ours(folder, path, strength), want), relative(plain, want)
    assert error < LIMIT and effect > 0.05, f"error {error:.2e}, effect {effect:.2e}"


@pytest.mark.slow
def test_diffusers_loads_every_module_of_a_2_1(tmp_path):
    """Each layer of its network gets the change that we read from the file."""
    torch.manual_seed(3)
    pipe = models_21.pipeline()
    path = write(tmp_path, pipe, "lora", lambda name: name.startswith("transformer_blocks"))
    pipe.load_lora_weights(tmp_path, weight_name=path.name)
    read = load_lora(path)
    layers = {n: m for n, m in pipe.transformer.named_modules() if hasattr(m, "lora_A")}
    assert layers.keys() == read.model.keys() and len(layers) > 6
    for name, layer in layers.items():
        (a, b), scale = (layer.lora_A["default_0"], layer.lora_B["default_0"]), layer.scaling
        got = scale["default_0"] * b.weight @ a.weight
        error = relative(got, read.model[name].change.delta.dense())
        assert error < 1e-6, f"{name}: {error:.1e}"


DOCS = (Path(__file__).resolve().parents[3] / "docs" / "training.md").read_text("utf-8")


def as_docs_say(path, monkeypatch):
    """The tensors that the Python block of docs/training.md makes of a file."""
    (block,) = re.findall(r"```python\n(.*?)```", DOCS, re.S)
    found = {}
    monkeypatch.chdir(path.parent)
    exec(block.replace("zkcat.safetensors", path.name), found)
    return found["state"]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["lokr", "whole"])
def test_diffusers_takes_a_lokr_as_docs_say(folder, tmp_path, kind, monkeypatch):
    """Its pipelines refuse LoKr for this model; its network takes one without alpha."""
    pipe = opened(folder)
    # PEFT finds one factor of all modules, where their sizes have one
    path = write(tmp_path, pipe, kind, lambda n: n.endswith(("to_q", "to_k", "to_out.0")))
    with pytest.raises(ValueError):
        pipe.load_lora_weights(tmp_path, weight_name=path.name)
    plain = theirs(pipe)
    pipe.transformer.load_lora_adapter(as_docs_say(path, monkeypatch))
    want = theirs(pipe)
    error, effect = measured(ours(folder, path), want), relative(plain, want)
    assert error < LIMIT and effect > 0.02, f"error {error:.2e}, effect {effect:.2e}"


@pytest.mark.slow
def test_diffusers_takes_a_dora_as_docs_say(folder, tmp_path, monkeypatch):
    """It drops `dora_scale` with a warning; under PEFT's names it reads the lengths."""
    pipe = opened(folder)
    path = write(tmp_path, pipe, "dora")
    plain = theirs(pipe)
    pipe.load_lora_weights(as_docs_say(path, monkeypatch))
    want = theirs(pipe)
    error, effect = measured(ours(folder, path), want), relative(plain, want)
    assert error < LIMIT and effect > 0.05, f"error {error:.2e}, effect {effect:.2e}"


@pytest.fixture(scope="module")
def in_comfyui(tmp_path_factory):
    """File -> the measurements of tests/support/trained_loras.py inside a ComfyUI."""
    source = given_source()
    if source is None:
        pytest.skip("no ComfyUI: set INKSTONE_COMFYUI_SOURCE to a git directory or tree of it")
    cache, root = default_cache(), tmp_path_factory.mktemp("comfy")
    tree = prepare_tree(source, cache)
    python = prepare_python(tree, cache)
    stubs = prepare_stubs(python, cache)
    torch.manual_seed(4)
    pipe = tiny.pipeline("heads as published")  # core knows no other
    tiny.save(pipe, root / "qwen-image")
    loras = root / "loras"
    loras.mkdir()
    for kind in METHODS:
        write(loras, pipe, kind)
    script = Path(__file__).resolve().parents[2] / "support" / "trained_loras.py"
    done = subprocess.run(
        [str(python), str(script), str(tree), str(root), str(loras)],
        env=os.environ | {"PYTHONPATH": str(stubs)},
        capture_output=True,
        text=True,
        check=False,
    )
    line = next((x for x in done.stdout.splitlines() if x.startswith("RESULT ")), None)
    assert line, done.stderr[-3000:]
    return json.loads(line[7:])


@pytest.mark.comfyui
@pytest.mark.parametrize("kind", METHODS)
def test_comfyui_loads_every_module(in_comfyui, kind):
    found = in_comfyui[f"{kind}.safetensors"]
    assert found["said"] == [] and found["patched"] == found["modules"] > 30
    assert found["moved"] > 0.2
    if kind == "dora":  # core divides by the lengths of the plain weights: docs/training.md says so
        assert LIMIT < found["core"] < found["moved"]
    else:
        assert found["core"] < LIMIT, f"latents differ by {found['core']:.2e} relative"


@pytest.mark.comfyui
@pytest.mark.parametrize("kind", METHODS)
def test_core_s_loader_works_on_the_bridge(in_comfyui, kind):
    found = in_comfyui[f"{kind}.safetensors"]
    assert found["said on the bridge"] == []
    assert found["bridge"] < LIMIT, f"latents differ by {found['bridge']:.2e} relative"
