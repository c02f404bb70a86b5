"""LoRA in graphs and on the command line, with the embedded model."""

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
from inkstone.loaders.arch.expected_tensors import text_layout
from inkstone.loaders.lora.adapters import Adapter, apply_loras
from inkstone.loaders.lora.file import load_lora
from inkstone.nodes.lora_stack import LoadLora, LoraStack

from ...support.embedded_loras import embedded_lora, write
from ...support.oracle import save_file

PROMPT = "a red circle on a white background"


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

    nodes = {
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
        nodes["5"] = node(
            "InkstoneLoadLora", lora="sub/style.safetensors", strength=strength, blocks=""
        )
        nodes["6"] = node("InkstoneLoraStack", model=["1", 0], **{"loras.lora_0": ["5", 0]})
        models = {"lora": ["6", 0], "plain": ["1", 0]}
    for name, link in models.items():
        nodes[f"d{name}"] = node(
            "InkstoneDenoise",
            model=link,
            positive=["2", 0],
            sigmas=["4", 0],
            latent=["3", 0],
            seed=1,
            cfg=1.0,
        )
        nodes[f"v{name}"] = node("InkstoneDecode", vae=["1", 2], latent=[f"d{name}", 0])
        nodes[name] = node("SaveImage", images=[f"v{name}", 0], filename_prefix=name)
    return parse_graph(nodes)


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
    adapted, coverage, text = LoraStack.execute(bundle.model, **{"loras.lora_0": adapter}).result
    layers = bundle.model.network.config.layers
    assert coverage == (
        f"style.safetensors: {2 * layers} of {2 * layers} modules, rank 4, alpha 4, strength 0.5, "
        "blocks 0:2"
    )
    assert text is None and adapted.network is bundle.model.network and not bundle.model.adapters
    grown = LoraStack.execute(bundle.model, loras={"lora_0": adapter, "lora_3": adapter}).result
    assert len(grown[0].adapters) == 2 and len(grown[1].splitlines()) == 2
    assert LoraStack.execute(bundle.model, **{"loras.lora_0": None}).result[1] == ""


def test_text_encoder_part_of_a_lora(models, bundle, tmp_path, caplog):
    layout = text_layout(bundle.text_encoder.network.config)
    path = write(tmp_path / "te.safetensors", layout, ["layers.0.self_attn.v_proj"])
    adapter = Adapter(load_lora(path))
    adapted, coverage, text = LoraStack.execute(bundle.model, {"lora_0": adapter}).result
    assert adapted is bundle.model and text is None
    words = "1 text encoder modules not applied: connect the text encoder"
    assert coverage == f"te.safetensors: {words}"
    _, coverage, text = LoraStack.execute(
        bundle.model, {"lora_0": adapter}, bundle.text_encoder
    ).result
    assert coverage.endswith("1 of 1 modules, rank 4, alpha 4, strength 1 (text encoder)")
    assert not torch.equal(text.encode(PROMPT).states, bundle.text_encoder.encode(PROMPT).states)
    with pytest.raises(InkstoneError, match="it is only for the text encoder"):
        bundle.model.with_loras([adapter])


def test_wrong_wires(models, bundle):
    with pytest.raises(InkstoneError, match="Inkstone LoRA File"):
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


@pytest.mark.slow
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


def test_no_loras_change_nothing(bundle):
    assert apply_loras(bundle.model, bundle.text_encoder, []) == (
        bundle.model,
        bundle.text_encoder,
        [],
    )
