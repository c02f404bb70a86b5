"""Quantizing Qwen-Image-2.1: fused matrices as the field's files have them, from both spellings."""

from __future__ import annotations

import pytest
import torch

from inkstone.loaders.arch.identify import identify
from inkstone.loaders.formats.imatrix import sharing
from inkstone.loaders.formats.open import open_weights
from inkstone.loaders.models.load import load_diffusion_model
from inkstone.loaders.models.weight_file import LoadOptions
from inkstone.pipeline.gguf_recipes import mix_named, types_of
from inkstone.pipeline.quantize import quantize
from inkstone.pipeline.quantize_request import QuantizeCall
from inkstone.pipeline.weight_rows import Matrices

from ..support import single_stream_files as files
from ..support.oracle import relative

SPELLINGS = {"split": dict, "fused": files.fused}


def written(folder, name: str, state, kind: str):
    source = files.write(folder / f"{name}.safetensors", state)
    suffix = ".safetensors" if kind == "fp8_scaled" else ".gguf"
    out = folder / f"{name}-out{suffix}"
    quantize(QuantizeCall(source=source, out=out, type=kind), lambda done, total: None)
    return out


@pytest.mark.parametrize(("kind", "most"), [("Q8_0", 0.02), ("BF16", 0.0), ("fp8_scaled", 0.1)])
def test_both_spellings_give_the_same_fused_file(kind, most, tmp_path):
    state = files.weights()
    outs = [written(tmp_path, n, files.bf16(f(state)), kind) for n, f in SPELLINGS.items()]
    with open_weights(outs[0]) as one, open_weights(outs[1]) as two:
        assert one.entries.keys() == two.entries.keys()
        names = one.entries.keys()
        assert all("gate_layer" not in n and "mlp.proj" not in n for n in names)
        assert sum(n.endswith("img_mlp.gate_up.weight") for n in names) == files.CONFIG.layers
        for name in names:
            assert torch.equal(one.read(name).float(), two.read(name).float()), name
    facts = identify(outs[0])
    assert not facts.problem and facts.family == "qwen-image-2.1", facts.sentence
    model = load_diffusion_model(outs[0], LoadOptions(dtype=torch.float32))
    for name, tensor in state.items():
        value = model.file.read(name)
        value = value.float() if isinstance(value, torch.Tensor) else value.dequantize()
        error = relative(value, tensor)
        assert error <= most, f"{name} is off by {error:.1e}"


def test_rows_over_the_seam_and_packed_bytes_are_kept(tmp_path):
    state = files.weights()
    split = files.write_gguf(tmp_path / "split.gguf", state, "Q8_0")
    whole = "transformer_blocks.0.img_mlp.gate_up.weight"
    with Matrices(split) as model:
        ff = files.CONFIG.ff
        assert model.shapes[whole] == (2 * ff, files.CONFIG.width)
        rows = model.rows(whole)
        want = [model.file.packed[n].load().dequantize() for n in model.joined[whole]]
        assert torch.equal(rows(0, 2 * ff), torch.cat(want)), "gate first"
        assert torch.equal(rows(ff - 3, ff + 2), torch.cat(want)[ff - 3 : ff + 2])
        assert torch.equal(rows(ff, ff + 4), want[1][:4])
        assert model.form(whole) == "Q8_0" and model.bits(whole) == 8.5
    out = tmp_path / "out.gguf"
    quantize(QuantizeCall(source=split, out=out, type="Q8_0"), lambda done, total: None)
    fused = files.write_gguf(tmp_path / "fused.gguf", files.fused(state), "Q8_0")
    with open_weights(out) as one, open_weights(fused) as two:
        assert torch.equal(one.raw(whole), two.raw(whole))


def test_types_follow_the_mix():
    shapes = {n: tuple(t.shape) for n, t in files.fused(files.weights()).items()}
    types, replaced = types_of(shapes, mix_named("Q4_K_S"))
    assert not replaced
    block = "transformer_blocks.1."
    assert types[block + "img_mlp.out.weight"].name == "Q5_K"
    assert types[block + "img_mlp.gate_up.weight"].name == "Q4_K"
    assert types["modulation.1.weight"].name == "BF16"
    assert types["txt_in.text_norm.weight"].name == "F32"


def test_layers_of_one_input_share_their_importance():
    at = "transformer_blocks.3.img_mlp."
    for name in ("gate_up", "gate_layer", "proj"):
        names = sharing(f"{at}{name}.weight")
        assert names[0] == f"{at}{name}.weight" and len(set(names)) == 3
    first = "transformer_blocks.3.img_mlp.net.0.proj.weight"
    assert sharing(first) == [first]
