"""Qwen3-VL text encoders in every storage format: the states are those of the same weights plain.

Single files have no config.json, so heads and tapped blocks are as published; all else is small.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

from inkstone.errors import InkstoneError
from inkstone.kernels.configs import DeepVisionConfig, TextConfig
from inkstone.loaders.arch.expected_tensors import text_layout
from inkstone.loaders.arch.family import EDIT_21
from inkstone.loaders.formats.safetensors import save_safetensors
from inkstone.loaders.models import tokenizer as tokenizer_module
from inkstone.loaders.models.load import load_text_encoder
from inkstone.loaders.models.text_encoder import TextEncoderModel
from inkstone.loaders.models.weight_file import LoadOptions
from inkstone.pipeline.quantize import quantize
from inkstone.pipeline.quantize_request import QuantizeCall

from ..loaders.test_qwen3_files import mmproj
from ..support import tiny
from ..support.dfloat11_encoder import encode
from ..support.oracle import measured
from ..support.vision import image

TEXT = TextConfig(
    4, 256, 2, 1, 128, 512, 300, 5e6, bias=False, qk_norm=True, interleaved=True, final_norm=False
)
VISION = DeepVisionConfig(27, 144, 2, 64, out=256, places=64)
PROMPT = "a red cat"
LAYERS = [
    *(f"self_attn.{name}_proj" for name in "qkvo"),
    *(f"mlp.{name}_proj" for name in ("gate", "up", "down")),
]
FLOAT = LoadOptions(torch.float32)
Tensors = dict[str, Tensor]


@pytest.fixture(scope="module")
def words(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("words")
    tiny.tokenizer().save_pretrained(folder)
    return folder


def weights(head: bool = True) -> Tensors:
    """By our names, in bfloat16 as published."""
    g = torch.Generator().manual_seed(3)
    tensors = {}
    for name, shape in text_layout(TEXT, VISION, lm_head=head).items():
        near_one = 1.0 if "norm" in name and name.endswith("weight") else 0.0
        scale = 0.1 if len(shape) == 1 else shape[-1] ** -0.5
        tensors[name] = (torch.randn(shape, generator=g) * scale + near_one).bfloat16()
    return tensors


def single(ours: Tensors) -> Tensors:
    """ComfyUI's names."""
    return {
        name if name.startswith(("visual.", "lm_head.")) else f"model.{name}": tensor
        for name, tensor in ours.items()
    }


def matrices(ours: Tensors) -> list[str]:
    return [name for name in ours if name.startswith("layers.") and ours[name].dim() == 2]


def check_same(packed: TextEncoderModel, plain: TextEncoderModel, most: float) -> None:
    """Of a prompt and of an edit."""
    picture = image(96, 64)[1]
    errors = []
    for words in ("", PROMPT):
        got, want = (
            m.encode_edit(words, [picture], EDIT_21) if words else m.encode(PROMPT)
            for m in (packed, plain)
        )
        assert got.slots == want.slots and len(got.slots) == bool(words)
        errors.append(measured(got.states, want.states))
    assert max(errors) <= most, f"relative errors {errors}, allowed {most:g}"


def saved(path: Path, tensors: Tensors, words: Path, metadata=None) -> TextEncoderModel:
    save_safetensors(path, {n: t.contiguous() for n, t in tensors.items()}, metadata)
    return load_text_encoder(path, FLOAT, tokenizer=words)


def kitchen_file(case: str) -> tuple[Tensors, Tensors]:
    """(a file of comfy-kitchen's format, the same weights unpacked by it)."""
    pytest.importorskip("comfy_kitchen", reason="the oracle of these formats")
    from .test_formats_comfy import CASES, as_bytes

    layout, arguments, settings = CASES[case]
    ours = weights(head=False)
    packed, plain = single(ours), {n: t.float() for n, t in ours.items()}
    for name in matrices(ours):
        codes, params = layout.quantize(ours[name].float(), **arguments)
        plain[name] = layout.dequantize(codes, params).float()
        del packed[f"model.{name}"]
        state = layout.state_dict_tensors(codes, params)
        packed |= {f"model.{name}{suffix}": tensor for suffix, tensor in state.items()}
        mark = as_bytes({"format": case.split()[0], **settings})
        packed[f"model.{name.removesuffix('weight')}comfy_quant"] = mark
    return packed, single(plain)


@pytest.mark.parametrize(
    "case", ["int8_tensorwise convrot", "asym_w4a8_int8", "float8_e4m3fn", "nvfp4", "mxfp8"]
)
def test_formats_of_comfyui(case, words, tmp_path):
    packed, plain = kitchen_file(case)
    ours = saved(tmp_path / "packed.safetensors", packed, words)
    assert ours.network.layers[3].mlp.down_proj.storage is not None
    check_same(ours, saved(tmp_path / "plain.safetensors", plain, words), 1e-5)
    with pytest.raises(InkstoneError, match=r"Qwen/Qwen-Image-2\.1, or a GGUF file of Qwen3-VL-8B"):
        ours.head.open()


def test_bitsandbytes(words, tmp_path):
    from .test_formats_bnb import X, four_bit

    ours = weights()
    packed, plain = single(ours), single({n: t.float() for n, t in ours.items()})
    for name in matrices(ours):
        tensors, matrix = four_bit(*ours[name].shape, nested=True)
        factor = 0.1  # their largest numbers are near 1
        del packed[f"model.{name}"]
        stem = f"model.{name.removesuffix('.weight')}"
        tensors[f"{X}.weight.nested_absmax"] *= factor
        state = f"{X}.weight.quant_state.bitsandbytes__nf4"
        text = json.loads(bytes(tensors[state].tolist())) | {"nested_offset": 0.03125 * factor}
        tensors[state] = torch.tensor(list(json.dumps(text).encode()), dtype=torch.uint8)
        packed |= {n.replace(X, stem): t for n, t in tensors.items()}
        plain[f"model.{name}"] = matrix * factor
    one = saved(tmp_path / "nf4.safetensors", packed, words)
    assert one.network.layers[0].mlp.up_proj.storage.format == "bitsandbytes nf4"
    check_same(one, saved(tmp_path / "plain.safetensors", plain, words), 1e-5)


def test_dfloat11(words, tmp_path):
    """Bit for bit, in a folder as transformers names its tensors."""
    plain = {
        name
        if name.startswith("lm_head.")
        else f"model.{name}"
        if name.startswith("visual.")
        else f"model.language_model.{name}": tensor
        for name, tensor in weights().items()
    }
    packed = dict(plain)
    for number in range(TEXT.layers):
        at = f"model.language_model.layers.{number}"
        group = [packed.pop(f"{at}.{name}.weight") for name in LAYERS]
        packed |= {at + end: tensor for end, tensor in encode(group).items()}
    order = {r"model\.language_model\.layers\.\d+": LAYERS}
    config = {
        "architectures": ["Qwen3VLForConditionalGeneration"],
        "dfloat11_config": {"pattern_dict": order},
    }
    for folder, tensors in (("plain", plain), ("packed", packed)):
        (tmp_path / folder).mkdir()
        save_safetensors(tmp_path / folder / "model.safetensors", tensors, None)
        (tmp_path / folder / "config.json").write_text(json.dumps(config))
    a, b = (load_text_encoder(tmp_path / n, FLOAT, tokenizer=words) for n in ("packed", "plain"))
    assert a.network.layers[0].mlp.gate_proj.storage.format == "DFloat11"
    check_same(a, b, 0.0)
    assert a.head.open().nbytes > 0


@pytest.fixture
def alone(monkeypatch):
    """No tokenizer of a ComfyUI near the tests is found."""
    monkeypatch.setattr(tokenizer_module, "_comfyui_folders", lambda near: [])


@pytest.mark.parametrize("kind", ["Q8_0", "Q4_K_M", "FP8_SCALED"])
def test_what_quantize_writes(kind, words, tmp_path, alone):
    """Within the error of the format; GGUF files have their tokenizer in them, and no vision."""
    source = tmp_path / "qwen3vl.safetensors"
    plain = saved(source, single(weights()), words)
    tiny.tokenizer().save_pretrained(tmp_path / "tokenizer")
    out = tmp_path / "out" / ("small.safetensors" if "FP8" in kind else "small.gguf")
    out.parent.mkdir()
    quantize(QuantizeCall(source, out, kind), lambda *_: None)
    small = load_text_encoder(out, FLOAT, tokenizer=words if "FP8" in kind else None)
    assert small.family is plain.family
    error = measured(small.encode(PROMPT).states, plain.encode(PROMPT).states)
    most = {"Q8_0": 0.05, "Q4_K_M": 0.3, "FP8_SCALED": 0.2}[kind]
    assert 1e-4 < error < most, f"relative error {error:.2e}"
    if out.suffix == ".gguf":
        gguf = pytest.importorskip("gguf")
        fields = gguf.GGUFReader(out).fields
        assert fields["general.architecture"].contents() == "qwen3vl"
        assert fields["qwen3vl.rope.dimension_sections"].contents() == [24, 20, 20, 0]
        assert fields["qwen3vl.n_deepstack_layers"].contents() == 3


def test_gguf_with_its_mmproj(words, tmp_path, alone):
    """As llama.cpp's converter writes both; a tower of another model beside it is not taken."""
    gguf = pytest.importorskip("gguf")
    kinds = gguf.GGMLQuantizationType
    ours = weights()
    table = gguf.get_tensor_name_map(gguf.MODEL_ARCH.QWEN3VL, TEXT.layers)
    floats = {n: t.float() for n, t in ours.items()}
    writer = gguf.GGUFWriter(tmp_path / "Qwen3-VL-8B-Q8_0.gguf", "qwen3vl")
    for name, tensor in ours.items():
        if name.startswith("visual."):
            continue
        theirs = table.get_name(
            name if name.startswith("lm_head") else f"model.{name}", (".weight", ".bias")
        )
        raw = tensor.float().numpy()
        if tensor.dim() == 2:
            raw = gguf.quants.quantize(raw, kinds.Q8_0)
            floats[name] = torch.from_numpy(gguf.quants.dequantize(raw, kinds.Q8_0))
        writer.add_tensor(theirs, raw, raw_dtype=kinds.Q8_0 if tensor.dim() == 2 else None)
    _finish(writer)
    for file, taps in (("mmproj-a.gguf", VISION.taps), ("mmproj-qwen3.5.gguf", ())):
        writer = gguf.GGUFWriter(tmp_path / file, "clip")
        writer.add_uint32("clip.vision.attention.head_count", VISION.heads)
        for theirs, tensor in _tower(ours, taps).items():
            writer.add_tensor(theirs, tensor.float().contiguous().numpy())
        _finish(writer)
    packed = load_text_encoder(tmp_path / "Qwen3-VL-8B-Q8_0.gguf", FLOAT, tokenizer=words)
    check_same(packed, saved(tmp_path / "p.safetensors", single(floats), words), 1e-5)
    assert packed.vision.open().path.name == "mmproj-a.gguf"
    assert packed.vision.open().network.config == VISION


def _finish(writer) -> None:
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _tower(ours: Tensors, taps: tuple[int, ...]) -> Tensors:
    """The tensors of the tower by the names of llama.cpp, level by level."""
    from dataclasses import replace

    from inkstone.loaders.arch.key_maps_gguf import vision_parts

    table, strange = vision_parts(mmproj(replace(VISION, taps=taps)))
    assert not strange
    file = {}
    for name, parts in table.items():
        slices = ours[name].unbind(2) if parts.stack else [ours[name]]
        file |= dict(zip(parts.names, slices, strict=True))
    return file
