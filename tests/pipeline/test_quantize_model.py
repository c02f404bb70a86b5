"""Quantizing the models that ship: importance matrices, from files and from prompts, and the
embedded diffusion model and text encoder in fewer bits."""

from __future__ import annotations

import json
import logging
import shutil
import struct
from dataclasses import replace

import pytest
import torch

from inkstone.errors import InkstoneError
from inkstone.headless.cli.main import main
from inkstone.loaders.formats.imatrix import Importance, read_imatrix, save_imatrix
from inkstone.loaders.models.generation import ready
from inkstone.loaders.models.load import EMBEDDED_FOLDER, load_diffusion_model, load_text_encoder
from inkstone.pipeline.calibrate import kept_at
from inkstone.pipeline.quantize import quantize
from inkstone.pipeline.quantize_layout import suffix_of
from inkstone.pipeline.quantize_request import QuantizeCall

gguf = pytest.importorskip("gguf")


def quiet(value: int, total: int) -> None:
    """No progress."""


# --- importance


def test_forms_of_importance_matrices(tmp_path):
    total = torch.tensor([4.0, 0.0, 12.0, 8.0])
    save_imatrix(tmp_path / "a.gguf", {"blk.0.attn_q.weight": (total, 4)}, "said", "p.txt")
    one = read_imatrix(tmp_path / "a.gguf")
    name = b"blk.0.attn_q.weight"
    numbers = struct.pack("<4f", *total.tolist())
    old = struct.pack("<ii", 1, len(name)) + name + struct.pack("<ii", 4, 4) + numbers
    (tmp_path / "a.dat").write_bytes(old)
    two = read_imatrix(tmp_path / "a.dat")
    for found in (one, two):
        value = found.of(("blk.0.attn_v.weight",), 4)  # q, k and v have one input
        assert torch.allclose(value, torch.tensor([1.0, 1.5e-6, 3.0, 2.0])), value
        assert found.of(("blk.1.attn_q.weight",), 4) is None
        with pytest.raises(InkstoneError, match="4 columns.* 8"):
            found.of(("blk.0.attn_k.weight",), 8)
    assert one.text == "said"
    for number in (3, 20, len(old) - 3):
        (tmp_path / "cut.dat").write_bytes(old[:number])
        with pytest.raises(InkstoneError, match="importance matrix"):
            read_imatrix(tmp_path / "cut.dat")
    bad = {"x": (torch.tensor([float("nan")]), 1)}
    save_imatrix(tmp_path / "nan.gguf", bad, "", "")
    with pytest.raises(InkstoneError, match="x has values"):
        read_imatrix(tmp_path / "nan.gguf")
    assert Importance({"x": torch.zeros(3)}, tmp_path).of(("x",), 3) is None


@pytest.mark.slow
def test_importance_from_prompts(tmp_path, monkeypatch, caplog):
    caplog.set_level(logging.INFO)
    prompts = tmp_path / "p.txt"
    prompts.write_text("a red circle on a white background\n\n# not this\n")
    call = QuantizeCall(EMBEDDED_FOLDER, tmp_path / "x.gguf", "Q4_0", prompts=prompts)
    quantize(call, quiet)
    found = read_imatrix(kept_at(call.out))
    assert "not in the importance matrix" not in caplog.text
    model = load_diffusion_model(EMBEDDED_FOLDER)
    width = model.network.config.width
    for name in ("attn.to_q", "attn.add_v_proj", "img_mlp.net.0.proj", "txt_mod.1"):
        value = found.of((f"transformer_blocks.2.{name}.weight",), width)
        assert value is not None and value.std() > 0, name
    assert found.of(("transformer_blocks.2.img_mlp.net.2.weight",), 4 * width) is not None
    caplog.clear()
    first = call.out.read_bytes()
    monkeypatch.setattr("inkstone.pipeline.calibrate.measure", None)  # not drawn again
    quantize(call, quiet)
    assert "importance of inputs: from x.imatrix.gguf" in caplog.text
    assert call.out.read_bytes() == first
    quantize(replace(call, prompts=None, imatrix=kept_at(call.out)), quiet)
    assert call.out.read_bytes() == first
    quantize(replace(call, prompts=None), quiet)
    assert call.out.read_bytes() != first


# --- the embedded model


@pytest.mark.slow
def test_embedded_model_in_fewer_bits(tmp_path, capsys):
    out = tmp_path / "small.gguf"
    said = main(["quantize", str(EMBEDDED_FOLDER), str(out), "--type", "Q4_K_S", "--json"])
    facts = json.loads(capsys.readouterr().out)
    assert said == 0 and facts["file"] == str(out)
    lines = "\n".join(facts["said"])
    assert "no multiple of 256: they become Q5_0 instead of Q4_K" in lines
    plain, small = load_diffusion_model(EMBEDDED_FOLDER), load_diffusion_model(out)
    assert small.family.name == plain.family.name and small.network.config == plain.network.config
    quantize(QuantizeCall(EMBEDDED_FOLDER, tmp_path / "q8.gguf", "Q8_0"), quiet)
    eight = load_diffusion_model(tmp_path / "q8.gguf")
    name = "transformer_blocks.1.img_mlp.net.0.proj"
    weight = plain.network.get_submodule(name).dequantize()
    for model, limit in ((small, 0.06), (eight, 0.007)):
        found = model.network.get_submodule(name).dequantize()
        error = float((found - weight).norm() / weight.norm())
        assert error < limit, error


def test_text_encoder_with_its_tokenizer(tmp_path):
    folder, out = EMBEDDED_FOLDER / "text_encoder", tmp_path / "text.gguf"
    quantize(QuantizeCall(folder, out, "Q8_0"), quiet)
    reader = gguf.GGUFReader(out)
    assert reader.fields["general.architecture"].contents() == "qwen2vl"
    assert reader.fields["qwen2vl.block_count"].contents() == 6
    assert "blk.1.ffn_down.weight" in {t.name for t in reader.tensors}
    plain, small = load_text_encoder(folder), load_text_encoder(out)  # no tokenizer beside it
    prompt = 'a red circle and the word "INK"'
    assert small.tokenizer.encode(prompt) == plain.tokenizer.encode(prompt)
    assert small.network.config == plain.network.config, "the layers of the condition, too"
    a, b = plain.encode(prompt).states, small.encode(prompt).states
    error = float((a - b).norm() / a.norm())
    assert error < 0.03, error
    a, b = (scores_of(model, a) for model in (plain, small))
    error = float((a - b).norm() / a.norm())
    assert error < 0.02, f"the head is packed too, and not lost: {error}"


@pytest.mark.parametrize("type_name", ["FP8_SCALED", "Q4_K_M"])
def test_a_packed_text_encoder_answers(type_name, tmp_path):
    folder, out = EMBEDDED_FOLDER / "text_encoder", tmp_path / f"text{suffix_of(type_name)}"
    quantize(QuantizeCall(folder, out, type_name), quiet)
    shutil.copy(folder / "config.json", tmp_path)  # of fp8 only it has the heads
    plain = load_text_encoder(folder)
    small = load_text_encoder(out, tokenizer=EMBEDDED_FOLDER / "tokenizer")
    a = plain.encode("a red circle").states
    a, b = (scores_of(model, a) for model in (plain, small))
    error = float((a - b).norm() / a.norm())
    assert error < 0.02, error


def scores_of(model, states):
    """Scores of the output head for states."""
    head = model.head.open()
    ready(model, head, [9], 1)
    return head.scores(states)
