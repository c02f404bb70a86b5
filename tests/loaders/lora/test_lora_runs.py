"""LoRA in graphs, on the command line, and Lightning recognized, with the embedded model."""

import json
import logging

import numpy as np
import pytest
import torch
from PIL import Image

from inkstone.errors import InkstoneError
from inkstone.files.png import read_text_chunks
from inkstone.headless.cli.main import main
from inkstone.headless.cli.parser import build_parser
from inkstone.headless.core_nodes.registry import node_classes
from inkstone.headless.graph.api_graph import parse_graph
from inkstone.headless.graph.executor import Executor
from inkstone.headless.workflow.run import model_hashes
from inkstone.host import model_folders
from inkstone.host.api import io
from inkstone.host.headless import HeadlessHost, using
from inkstone.loaders.arch.expected_tensors import mmdit_layout, text_layout
from inkstone.loaders.arch.key_maps_lora import DISTILLED_MODULES
from inkstone.loaders.lora.adapters import Adapter, apply_loras, warn_of_fp8
from inkstone.loaders.lora.file import load_lora
from inkstone.loaders.models.load import load_all
from inkstone.nodes.lora import LoadLora, LoraStack
from inkstone.sampling.lightning import Distilled, misfit
from inkstone.sampling.request import Request
from inkstone.sampling.sampler import denoise
from inkstone.sampling.schedule import LIGHTNING, QWEN, sigmas

from ...support.oracle import save_file

PROMPT = "a red circle on a white background"
LIGHT = "distilled Lightning"


@pytest.fixture(scope="module")
def bundle():
    return load_all(None)


def write(path, layout, modules, rank=4, size=1.0, metadata=None):
    """A LoRA for these modules of a layout, bare names and an alpha each."""
    g = torch.Generator().manual_seed(11)
    tensors = {}
    for m in modules:
        n, k = layout[f"{m}.weight"]
        tensors[f"{m}.lora_down.weight"] = torch.randn(rank, k, generator=g) * k**-0.5
        tensors[f"{m}.lora_up.weight"] = torch.randn(n, rank, generator=g) * size * rank**-0.5
        tensors[f"{m}.alpha"] = torch.tensor(float(rank))
    save_file(tensors, path, metadata)
    return path


def embedded_lora(path, bundle, **more):
    layout = mmdit_layout(bundle.model.network.config)
    names = [n[:-7] for n in layout if n.endswith("attn.to_v.weight") or "img_mod" in n]
    return write(path, layout, [n for n in names if f"{n}.weight" in layout], size=1.0, **more)


def lightning_like(path, bundle, leave=(), rank=64):
    config = bundle.model.network.config
    names = [f"transformer_blocks.{i}.{m}" for i in range(config.layers) for m in DISTILLED_MODULES]
    names = sorted(set(names) - set(leave))
    return write(path, mmdit_layout(config), names, rank, size=0.05)


@pytest.fixture
def models(tmp_path, bundle):
    (tmp_path / "models" / "loras" / "sub").mkdir(parents=True)
    embedded_lora(tmp_path / "models" / "loras" / "sub" / "style.safetensors", bundle)
    headless = HeadlessHost((tmp_path / "models",), output=tmp_path / "out", device="cpu")
    with using(headless):
        yield headless


# --- nodes


def graph(stacked: bool, strength=1.0):
    """Two Denoise nodes on one model; with `stacked` one of them behind a LoRA."""

    def node(kind, **inputs):
        return {"class_type": kind, "inputs": inputs}

    made = {
        "1": node("InkstoneLoadAll", folder="embedded (ships with Inkstone)", dtype="float32"),
        "2": node("InkstoneEncodePrompt", text_encoder=["1", 1], prompt=PROMPT, negative=""),
        "3": node(
            "InkstoneEmptyLatent",
            size="custom (width and height below)",
            width=64,
            height=64,
            batch_size=1,
        ),
        "4": node("InkstoneSchedule", model=["1", 0], latent=["3", 0], steps=2, schedule="linear"),
    }
    models = {"plain": ["1", 0]}
    if stacked:
        made["5"] = node(
            "InkstoneLoadLora", lora="sub/style.safetensors", strength=strength, blocks=""
        )
        made["6"] = node("InkstoneLoraStack", model=["1", 0], **{"loras.lora_0": ["5", 0]})
        models = {"lora": ["6", 0], "plain": ["1", 0]}
    for name, link in models.items():
        made[f"d{name}"] = node(
            "InkstoneDenoise",
            model=link,
            positive=["2", 0],
            sigmas=["4", 0],
            latent=["3", 0],
            seed=1,
            cfg=1.0,
        )
        made[f"v{name}"] = node("InkstoneDecode", vae=["1", 2], latent=[f"d{name}", 0])
        made[name] = node("SaveImage", images=[f"v{name}", 0], filename_prefix=name)
    return parse_graph(made)


def picture(headless, result, node):
    entry = result.outputs[node]["images"][0]
    return np.asarray(Image.open(headless.output / entry["subfolder"] / entry["filename"]))


def test_two_wires_of_one_model(models):
    """One Denoise with LoRA, one without, in one graph: the plain one is as if alone."""
    executor = Executor(node_classes())
    alone = picture(models, executor.run(graph(False), models), "plain")
    both = executor.run(graph(True), models)
    one = picture(models, both, "lora")
    assert np.array_equal(picture(models, both, "plain"), alone)
    assert np.abs(one.astype(int) - alone).max() > 8, "the LoRA does something"
    again = executor.run(graph(True, 0.3), models)
    assert set(again.cached) >= {"1", "2", "vplain"} and "dlora" in again.executed
    assert np.abs(picture(models, again, "lora").astype(int) - one).max() > 1
    off = picture(models, executor.run(graph(True, 0.0), models), "lora")
    assert np.array_equal(off, alone)


def test_hashes_of_a_run_name_the_lora(models):
    hashes = model_hashes(graph(True))
    assert hashes["sub/style.safetensors"].startswith("sha256:") and len(hashes) == 2


def test_stack_says_what_it_did(models, bundle):
    (adapter,) = LoadLora.execute("sub/style.safetensors", 0.5, "0:2").result
    made, coverage, text = LoraStack.execute(bundle.model, **{"loras.lora_0": adapter}).result
    layers = bundle.model.network.config.layers
    assert coverage == (
        f"style.safetensors: {2 * layers} of {2 * layers} modules, rank 4, alpha 4, strength 0.5, "
        "blocks 0:2"
    )
    assert text is None and made.network is bundle.model.network and not bundle.model.adapters
    grown = LoraStack.execute(bundle.model, loras={"lora_0": adapter, "lora_3": adapter}).result
    assert len(grown[0].adapters) == 2 and len(grown[1].splitlines()) == 2
    assert LoraStack.execute(bundle.model, **{"loras.lora_0": None}).result[1] == ""


def test_text_encoder_part_of_a_lora(models, bundle, tmp_path, caplog):
    layout = text_layout(bundle.text_encoder.network.config)
    path = write(tmp_path / "te.safetensors", layout, ["layers.0.self_attn.v_proj"])
    adapter = Adapter(load_lora(path))
    made, coverage, text = LoraStack.execute(bundle.model, {"lora_0": adapter}).result
    assert made is bundle.model and text is None
    words = "1 text encoder modules not applied: connect the text encoder"
    assert coverage == f"te.safetensors: {words}"
    _, coverage, text = LoraStack.execute(
        bundle.model, {"lora_0": adapter}, bundle.text_encoder
    ).result
    assert coverage.endswith("1 of 1 modules, rank 4, alpha 4, strength 1 (text encoder)")
    assert not torch.equal(text.encode(PROMPT), bundle.text_encoder.encode(PROMPT))
    with pytest.raises(InkstoneError, match="it is only for the text encoder"):
        bundle.model.with_loras([adapter])


def test_wrong_wires(models, bundle):
    with pytest.raises(InkstoneError, match="Inkstone Load LoRA"):
        LoraStack.execute(bundle.model, {"lora_0": bundle.vae})
    with pytest.raises(InkstoneError, match="Inkstone Load Diffusion Model"):
        LoraStack.execute(bundle.vae)
    assert LoadLora.validate_inputs("sub/style.safetensors") is True
    assert "loras" in LoadLora.validate_inputs("nothing.safetensors")
    assert model_folders.model_files("loras") == ["sub/style.safetensors"]


def test_inputs_grow_where_the_host_can(monkeypatch):
    """With the newer hosts' Autogrow one growing input; its names are those of the fixed set."""

    class Autogrow:
        class TemplatePrefix:
            def __init__(self, input, prefix, min, max):
                self.input, self.prefix, self.min, self.max = input, prefix, min, max

        class Input:
            def __init__(self, id, template, tooltip):
                self.id, self.template, self.tooltip = id, template, tooltip

    fixed = [i.id for i in LoraStack.define_schema().inputs if i.id.startswith("loras")]
    monkeypatch.setattr(io, "Autogrow", Autogrow, raising=False)
    (grown,) = (i for i in LoraStack.define_schema().inputs if i.id == "loras")
    names = [f"{grown.id}.{grown.template.prefix}{i}" for i in range(len(fixed))]
    assert fixed == names and grown.template.input.get_io_type() == "INKSTONE_LORA"
    assert grown.template.max <= 100


# --- command line


@pytest.mark.parametrize(
    "text, want",
    [
        ("a.safetensors", ("a.safetensors", 1.0)),
        ("a.safetensors:0.5", ("a.safetensors", 0.5)),
        ("a.safetensors:-1", ("a.safetensors", -1.0)),
        (r"C:\loras\a.safetensors", (r"C:\loras\a.safetensors", 1.0)),
        (r"C:\loras\a.safetensors:.7", (r"C:\loras\a.safetensors", 0.7)),
        ("C:/loras/a.safetensors:1e-1", ("C:/loras/a.safetensors", 0.1)),
    ],
)
def test_lora_option(text, want):
    args = build_parser().parse_args(["draw", "x", "--lora", text, "--lora", "b:2"])
    assert [(str(p), s) for p, s in args.lora] == [want, ("b", 2.0)]


def test_draw(place, bundle, capsys, caplog):
    caplog.set_level(logging.INFO)
    path = embedded_lora(place / "style.safetensors", bundle)
    call = ["draw", PROMPT, "--size", "64x64", "--steps", "2", "--cfg", "1", "--json"]
    assert main([*call, "-o", "a.png", "--lora", f"{path}:0.5", "--lora", str(path)]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert [(x["name"], x["strength"]) for x in facts["loras"]] == [
        ("style.safetensors", 0.5),
        ("style.safetensors", 1.0),
    ]
    assert all(x["hash"].startswith("sha256") for x in facts["loras"])
    assert json.loads(read_text_chunks(place / "a.png")["inkstone"])["loras"] == facts["loras"]
    assert "modules, rank 4, alpha 4, strength 0.5" in caplog.text
    assert main([*call, "-o", "b.png", "--lora", f"{path}:0"]) == 0
    assert main([*call, "-o", "c.png"]) == 0
    a, b, c = (np.asarray(Image.open(place / f"{n}.png")) for n in "abc")
    assert np.array_equal(b, c) and not np.array_equal(a, c)


def test_draw_refuses_before_it_loads_a_model(place, fails):
    save_file(
        {"lora_unet_double_blocks_0_img_attn_qkv.lora_down.weight": torch.zeros(4, 8)},
        place.parent / "flux.safetensors",
    )
    fails(
        ("draw", "x", "-o", "x.png", "--lora", place.parent / "flux.safetensors"),
        ("0 of 1 modules", "seems to be for FLUX"),
    )


# --- Lightning


def test_lightning_is_told_by_its_layout(bundle, tmp_path):
    path = lightning_like(tmp_path / "x.safetensors", bundle)
    assert load_lora(path).distilled == Distilled(
        None, "rank 64 on every layer but modulation, bare names"
    )
    some = {"transformer_blocks.1.attn.to_q"}
    assert load_lora(lightning_like(path, bundle, leave=some)).distilled is None
    assert load_lora(lightning_like(path, bundle, rank=32)).distilled is None
    assert load_lora(embedded_lora(path, bundle)).distilled is None


@pytest.mark.parametrize(
    "metadata, steps",
    [
        ({"modelspec.title": "Qwen-Image-Lightning 4steps V2"}, 4),
        ({"description": "distilled, 8-step"}, 8),
        ({"comment": "a Turbo LoRA"}, None),
    ],
)
def test_lightning_is_told_by_metadata(metadata, steps, bundle, tmp_path):
    path = embedded_lora(tmp_path / "x.safetensors", bundle, metadata=metadata)
    assert load_lora(path).distilled == Distilled(steps, "its metadata says so")


@pytest.mark.parametrize(
    "steps, made, run, cfg, words",
    [
        (8, LIGHTNING, 8, 1.0, None),
        (None, LIGHTNING, 4, 1.0, None),
        (8, LIGHTNING, 4, 1.0, "this run has 4 steps"),
        (
            None,
            LIGHTNING,
            20,
            4.0,
            "use 4 or 8 steps, CFG 1, schedule Lightning; this run has 20 steps, CFG 4",
        ),
        (8, QWEN, 8, 1.0, "this run has another schedule"),
        (
            8,
            QWEN,
            50,
            4.0,
            "(8 steps): use 8 steps, CFG 1, schedule Lightning; this run has 50 "
            "steps, CFG 4, another schedule",
        ),
    ],
)
def test_what_does_not_fit_lightning(steps, made, run, cfg, words):
    said = misfit(Distilled(steps, ""), sigmas(made, run, 4096), cfg)
    assert said is None if words is None else words in said


def test_sigmas_of_comfyui_simple_are_near_enough():
    """ModelSamplingAuraFlow at shift 3.1 and the scheduler `simple`, as the templates have it."""
    s = torch.linspace(1, 1 / 8, 8, dtype=torch.float64)
    levels = torch.cat([3.1 * s / (1 + 2.1 * s), torch.zeros(1)]).float()
    assert misfit(Distilled(8, ""), levels, 1.0) is None


def test_hint_at_denoise(bundle, tmp_path, caplog):
    path = lightning_like(tmp_path / "x.safetensors", bundle)
    text = bundle.text_encoder.encode(PROMPT)

    def said(strength, made, steps):
        caplog.clear()
        model = bundle.model.with_loras([Adapter(load_lora(path), strength)])
        assert model.schedule == LIGHTNING
        denoise(model, text, None, Request(32, 32, sigmas(made, steps, 4)))
        return [r.message for r in caplog.records if r.levelno == logging.WARNING]

    assert said(1.0, LIGHTNING, 8) == [] and said(0.0, QWEN, 9) == []
    (line,) = said(1.0, QWEN, 9)
    assert f"this LoRA is a {LIGHT} one" in line and "9 steps, another schedule" in line


def test_lightning_brings_its_schedule(bundle, tmp_path, caplog):
    from dataclasses import replace

    adapter = Adapter(load_lora(lightning_like(tmp_path / "x.safetensors", bundle)))
    base = replace(bundle.model, schedule=QWEN)
    with caplog.at_level(logging.INFO):
        assert base.with_loras([adapter]).schedule == LIGHTNING and base.schedule == QWEN
        assert "the model's own schedule is Lightning's now" in caplog.text
        assert base.with_loras([Adapter(adapter.lora, 0.0)]).schedule == QWEN
        base.with_loras([adapter, adapter])
        assert "2 distilled LoRAs at once" in caplog.text
        assert "go on top" not in caplog.text
        merged = replace(base, schedule=LIGHTNING, family=replace(base.family, schedule=QWEN))
        merged.with_loras([adapter])
        assert "by its scheduler the model is a merged Lightning one" in caplog.text


@pytest.mark.parametrize(
    "form, warned",
    [
        ("fp8 e4m3 plain + bfloat16", True),
        ("bfloat16+float8_e4m3fn", True),
        ("bfloat16", False),
        ("fp8 e4m3 scaled + float32", False),
        ("Q4_K + Q6_K", False),
    ],
)
def test_unscaled_fp8_under_lightning(form, warned, bundle, tmp_path, caplog):
    adapter = Adapter(load_lora(lightning_like(tmp_path / "x.safetensors", bundle)))
    warn_of_fp8(bundle.model.with_loras([adapter]).adapters, form)
    assert ("grid pattern" in caplog.text) == warned


def test_draw_takes_lightning_defaults(place, bundle, capsys, caplog):
    caplog.set_level(logging.INFO)
    title = {"title": "Lightning 4 steps"}
    path = embedded_lora(place / "fast.safetensors", bundle, metadata=title)
    call = ["draw", PROMPT, "--size", "32x32", "--json", "--lora", str(path)]
    assert main([*call, "-o", "a.png"]) == 0
    facts = json.loads(capsys.readouterr().out)["call"]
    assert (facts["steps"], facts["cfg"]) == (4, 1.0)
    assert f"a LoRA is a {LIGHT} one (4 steps)" in caplog.text
    assert "defaults are 4 steps, CFG 1" in caplog.text and "this run has" not in caplog.text
    assert main([*call, "-o", "b.png", "--steps", "3", "--cfg", "2"]) == 0
    facts = json.loads(capsys.readouterr().out)["call"]
    assert (facts["steps"], facts["cfg"]) == (3, 2.0)
    assert "this run has 3 steps, CFG 2" in caplog.text


def test_dress_without_loras_is_nothing(bundle):
    assert apply_loras(bundle.model, bundle.text_encoder, []) == (
        bundle.model,
        bundle.text_encoder,
        [],
    )
