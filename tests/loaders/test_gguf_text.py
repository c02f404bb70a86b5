"""GGUF text encoders: their names, settings and tokenizer, and the vision tower in its own file."""

import json
import logging
import random
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from inkstone.errors import InkstoneError
from inkstone.kernels.configs import TextConfig, VisionConfig
from inkstone.loaders.arch import expected_tensors, key_maps, key_maps_gguf
from inkstone.loaders.arch.identify import identify, require
from inkstone.loaders.formats.gguf import GGUFFile
from inkstone.loaders.formats.open import open_weights
from inkstone.loaders.models import tokenizer as tokenizer_module
from inkstone.loaders.models.tokenizer_gguf import gguf_tokenizer, tokenizer_for
from inkstone.loaders.models.vision_gguf import VisionFile, find_mmproj
from inkstone.quant.gguf_storage import find_gguf

from .test_tokenizer import TEXTS, _random_text, reference, toy  # noqa: F401 (fixtures)

gguf = pytest.importorskip("gguf")
Q = gguf.GGMLQuantizationType

TEXT = TextConfig(layers=2, width=256, heads=2, kv_heads=1, head_dim=128, ff=512, vocab=300)
FULL = TextConfig(layers=28, width=3584, heads=28, kv_heads=4, head_dim=128, ff=18944, vocab=152064)
VISION = VisionConfig(depth=2, width=64, ff=60, patch=4, out=256)


def write(path: Path, arch: str, tensors: dict, quantized: dict | None = None, **values) -> Path:
    """A file by the gguf package. `quantized`: name -> type; values: metadata."""
    writer = gguf.GGUFWriter(path, arch)
    for key, value in values.items():
        kind = {str: writer.add_string, int: writer.add_uint32, float: writer.add_float32}
        kind[type(value)](key.replace("__", "."), value)
    for name, tensor in tensors.items():
        kind = (quantized or {}).get(name)
        array = tensor.numpy() if kind is None else gguf.quants.quantize(tensor.numpy(), kind)
        writer.add_tensor(name, array, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def random_tensors(shapes: expected_tensors.Layout) -> dict[str, torch.Tensor]:
    torch.manual_seed(1)
    return {name: torch.randn(shape) for name, shape in shapes.items()}


def to_gguf(shapes: expected_tensors.Layout) -> dict[str, str]:
    """The file's name -> ours, by the tables of the gguf package."""
    arch, start = gguf.MODEL_ARCH.QWEN2VL, "model."
    if next(iter(shapes)).startswith("visual."):
        arch, start = gguf.MODEL_ARCH.MMPROJ, ""
    names = gguf.get_tensor_name_map(arch, 40)
    full = {n: n if n.startswith("lm_head.") else start + n for n in shapes}
    return {names.get_name(f, (".weight", ".bias")): ours for ours, f in full.items()}


def encoder(path: Path, kind=None, **values) -> Path:
    shapes = expected_tensors.text_layout(TEXT, lm_head=True)
    ours = random_tensors(shapes)
    tensors = {theirs: ours[name] for theirs, name in to_gguf(shapes).items()}
    matrices = {name: kind for name, t in tensors.items() if t.dim() == 2 and kind}
    return write(path, "qwen2vl", tensors, matrices, **values)


def tower(
    path: Path, kinds: dict | None = None, vision=VISION, arch: str = "clip", fused: bool = False
) -> Path:
    """The vision tower as converters write it: q, k, v apart, two frames of the kernel apart."""
    shapes = expected_tensors.vision_layout(vision)
    ours = random_tensors(shapes)
    tensors = {theirs: ours[name] for theirs, name in to_gguf(shapes).items()}
    if not fused:
        tensors = {name: t for name, t in tensors.items() if "attn_qkv" not in name}
    kernel = ours["visual.patch_embed.proj.weight"]
    tensors |= {
        "v.patch_embd.weight": kernel[:, :, 0].contiguous(),
        "v.patch_embd.weight.1": kernel[:, :, 1].contiguous(),
    }
    for n in range(0 if fused else vision.depth):
        for leaf in ("weight", "bias"):
            rows = ours[f"visual.blocks.{n}.attn.qkv.{leaf}"].chunk(3)
            tensors |= {f"v.blk.{n}.attn_{part}.{leaf}": r.clone() for part, r in zip("qkv", rows)}
    return write(path, arch, tensors, kinds)


def test_every_name_of_the_text_encoder_is_mapped_one_to_one():
    shapes = expected_tensors.text_layout(FULL, lm_head=True)
    theirs = to_gguf(shapes)
    assert len(theirs) == len(shapes) == 339
    names = key_maps.text_names(theirs)
    assert names.table == {ours: t for t, ours in theirs.items() if not ours.startswith("lm_head")}
    assert names.unused == ("output.weight",) and not names.others and names.layout == "gguf"
    assert key_maps.text_names([*theirs, "blk.0.attn_sub_norm.weight"]).others == (
        "blk.0.attn_sub_norm.weight",
    )
    for name in ("xblk.0.attn_q.weight", "blk.0.attn_q.weight.x", "blk.00.attn_q.weight"):
        assert key_maps_gguf.text_name(name) is None


def test_the_text_encoder_is_recognized_and_read(tmp_path):
    path = encoder(
        tmp_path / "e.gguf",
        Q.Q8_0,
        qwen2vl__attention__head_count=2,
        qwen2vl__attention__head_count_kv=1,
        qwen2vl__attention__layer_norm_rms_epsilon=1e-6,
        qwen2vl__rope__freq_base=1e6,
    )
    facts = identify(path)
    assert not facts.problem and facts.role == "text_encoder" and facts.layout == "gguf"
    assert facts.sentence.startswith("Qwen2.5-VL text encoder, width 256, vision in an mmproj file")
    assert facts.sentence.endswith("Q8_0 + fp32")
    assert (facts.config["heads"], facts.config["kv_heads"]) == (2, 1)
    with open_weights(path) as file:
        assert key_maps_gguf.settings(file.metadata) == {
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
            "rope_theta": 1e6,
            "rms_norm_eps": 1e-6,
        }
        table = key_maps.text_names(file.entries).table
        found = find_gguf(file, table)
        assert set(found) == {
            n for n, s in expected_tensors.text_layout(TEXT).items() if len(s) == 2
        }
        ours = random_tensors(expected_tensors.text_layout(TEXT, lm_head=True))
        for name, one in found.items():
            storage = one.load()
            assert one.format == "Q8_0" and one.nbytes == storage.nbytes
            worst = (storage.dequantize() - ours[name]).abs().max()
            assert worst < 0.025, f"{name}: {worst}"
        index = torch.tensor([5, 299])
        rows = found["embed_tokens.weight"].load().gather(index)
        assert torch.equal(rows, file.read("token_embd.weight")[index])


def test_another_language_model_is_told(tmp_path):
    shapes = {n: s for n, s in expected_tensors.text_layout(TEXT).items() if not n.endswith("bias")}
    ours = random_tensors(shapes)
    tensors = {t: ours[name] for t, name in to_gguf(shapes).items()}
    facts = identify(write(tmp_path / "e.gguf", "llama", tensors))
    assert "without biases on q, k and v" in facts.sentence
    with pytest.raises(InkstoneError, match="Qwen2.5-VL-7B"):
        require(facts, "text_encoder")
    facts = identify(write(tmp_path / "x.gguf", "rwkv7", {"a": torch.ones(4)}))
    assert "; its architecture is rwkv7" in facts.sentence


# --- the vision tower


@pytest.mark.parametrize("fused", [False, True], ids=["q k v", "qkv"])
def test_the_vision_tower_under_our_names(tmp_path, fused):
    with VisionFile(tower(tmp_path / "mmproj.gguf", fused=fused)) as file:
        wanted = expected_tensors.vision_layout(VISION)
        ours = random_tensors(wanted)
        assert {n: e.shape for n, e in file.entries.items()} == wanted
        for name, tensor in ours.items():
            assert torch.equal(file.read(name), tensor), name
            half = file.read(name, out=torch.empty(tensor.shape, dtype=torch.bfloat16))
            assert torch.equal(half, tensor.bfloat16()), name
        assert file.metadata["general.architecture"] == "clip"
        assert sum(e.nbytes for e in file.entries.values()) == 4 * sum(
            t.numel() for t in ours.values()
        )


def test_a_packed_vision_tower(tmp_path):
    """q, k and v of one type stay packed, of mixed types they become floats; rows of 60 stay."""
    kinds = {f"v.blk.{n}.attn_{part}.weight": Q.Q8_0 for n in range(2) for part in "qkv"}
    kinds |= {"v.blk.1.attn_v.weight": Q.Q4_0, "mm.0.weight": Q.Q5_1}
    with VisionFile(tower(tmp_path / "mmproj.gguf", kinds)) as file:
        ours = random_tensors(expected_tensors.vision_layout(VISION))
        found = find_gguf(file, {name: name for name in file.entries})
        assert {n: f.format for n, f in found.items()} == {
            "visual.blocks.0.attn.qkv.weight": "Q8_0",
            "visual.merger.mlp.0.weight": "Q5_1",
        }
        for name, one in found.items():
            assert torch.equal(one.load().dequantize(), file.read(name)), name
            assert one.load().nbytes == one.nbytes
        mixed = file.read("visual.blocks.1.attn.qkv.weight")
        error = (mixed - ours["visual.blocks.1.attn.qkv.weight"]).abs()
        assert error[:128].max() < 0.025 < error[128:].max() < 0.5
        assert file.entries["visual.blocks.1.attn.qkv.weight"].dtype == torch.float32
        with pytest.raises(InkstoneError, match="not of one type"):
            file.raw("visual.blocks.1.attn.qkv.weight")
        facts = identify(tmp_path / "mmproj.gguf")
    assert not facts.problem and facts.role == "vision"
    assert "vision tower (mmproj), for text encoders of width 256, 2 layers" in facts.sentence
    with pytest.raises(InkstoneError, match="loaded with the text encoder loader, which finds it"):
        require(facts, "diffusion_model")


def test_an_incomplete_vision_tower_is_told(tmp_path):
    shapes = expected_tensors.vision_layout(VISION)
    ours = random_tensors(shapes)
    tensors = {theirs: ours[name] for theirs, name in to_gguf(shapes).items()}
    tensors["v.patch_embd.weight"] = torch.ones(64, 3, 4, 4)
    path = write(tmp_path / "mmproj.gguf", "clip", tensors)
    with pytest.raises(InkstoneError, match="1 tensors are not part.*v.patch_embd.weight"):
        VisionFile(path)
    assert "vision part of another model" in identify(path).sentence


@pytest.mark.slow
@pytest.mark.parametrize(
    ("files", "chosen", "words"),
    [
        ({}, None, "an edit needs mmproj-Qwen2.5-VL-7B-Q4_K_M.gguf"),
        ({"anything.gguf": {}}, "anything.gguf", "vision tower anything.gguf"),
        (
            {
                "mmproj-wide.gguf": {
                    "vision": VisionConfig(depth=2, width=64, ff=60, patch=4, out=128)
                }
            },
            None,
            "an edit needs",
        ),
        ({"mmproj.gguf": {"arch": "qwen2vl"}}, None, "an edit needs"),
        (
            {"mmproj-a.gguf": {}, "mmproj-b.gguf": {}},
            None,
            "2 vision towers fit (mmproj-a.gguf, mmproj-b.gguf)",
        ),
        (
            {"mmproj-a.gguf": {}, "qwen2.5_vl-7b-mmproj-f16.gguf": {}},
            "qwen2.5_vl-7b-mmproj-f16.gguf",
            "vision tower",
        ),
    ],
)
def test_the_vision_tower_is_found_by_content(tmp_path, files, chosen, words):
    near = tmp_path / "Qwen2.5-VL-7B-Q4_K_M.gguf"
    near.write_bytes(b"not looked into")
    (tmp_path / "mmproj-broken.gguf").write_bytes(b"GGUF\3\0\0\0" + b"\xff" * 90)
    (tmp_path / "mmproj-empty.gguf").write_bytes(b"")
    for name, how in files.items():
        tower(tmp_path / name, **how)
    found = find_mmproj(near, 256)
    assert found.path == (chosen and tmp_path / chosen) and words in found.words


# --- the tokenizer


def with_tokenizer(path: Path, reference, changes: dict | None = None) -> Path:  # noqa: F811
    """A GGUF with the vocabulary of a transformers tokenizer, as converters write it."""
    vocab, added = reference.get_vocab(), reference.added_tokens_decoder
    tokens = sorted(vocab, key=vocab.get)
    kinds = [1] * len(tokens)
    for number, token in added.items():
        kinds[number] = 3 if token.special else 4
    tokens += [f"[PAD{number}]" for number in range(len(tokens), len(tokens) + 9)]
    kinds += [5] * 9
    model = json.loads(reference.backend_tokenizer.to_str())["model"]
    merges = [" ".join(pair) for pair in model["merges"]]
    parts = {
        "tokens": tokens,
        "token_type": kinds,
        "merges": merges,
        "model": "gpt2",
        "pre": "qwen2",
        **(changes or {}),
    }
    writer = gguf.GGUFWriter(path, "qwen2vl")
    for name, value in parts.items():
        add = writer.add_string if isinstance(value, str) else writer.add_array
        add(f"tokenizer.ggml.{name}", value)
    writer.add_tensor("x", np.zeros(4, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_ids_equal_the_reference(tmp_path, reference):  # noqa: F811
    with GGUFFile(with_tokenizer(tmp_path / "e.gguf", reference)) as file:
        ours = gguf_tokenizer(file)
    rng = random.Random(11)
    for text in [*TEXTS, "[PAD610]", *(_random_text(rng) for _ in range(400))]:
        assert ours.encode(text) == reference(text)["input_ids"], ascii(text)
    assert ours.decode(ours.encode("招牌 <|im_end|>\n")) == "招牌 <|im_end|>\n"
    assert ours.token_id("<|image_pad|>") == reference.convert_tokens_to_ids("<|image_pad|>")


def test_the_header_is_decoded_only_without_a_folder(tmp_path, reference, toy, monkeypatch, caplog):  # noqa: F811
    monkeypatch.setattr(tokenizer_module, "_comfyui_folders", lambda near: [])
    caplog.set_level(logging.INFO)
    with GGUFFile(with_tokenizer(tmp_path / "e.gguf", reference)) as file:
        assert tokenizer_for(file.path, file).source == file.path
        assert "tokenizer of" in caplog.text
        monkeypatch.setattr(GGUFFile, "kv_array", lambda self, name: 1 / 0)
        assert tokenizer_for(toy, file).source == toy
    plain = SimpleNamespace(path=tmp_path / "m.safetensors")
    with pytest.raises(InkstoneError, match="no tokenizer found"):
        tokenizer_for(tmp_path, plain)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model": "llama"}, "of the kind 'llama'"),
        ({"pre": "llama-bpe"}, "words of 'llama-bpe'"),
        ({"token_type": [1, 1, 3]}, "tokens with 3 types"),
        ({"merges": ["a b c"]}, "number 0 should hold two tokens, got 'a b c'"),
        ({"merges": ["qqq zzz"]}, "not a usable tokenizer"),
        (
            {
                "tokens": ["a", "a", "<|im_start|>", "<|im_end|>"],
                "token_type": [1, 1, 3, 3],
                "merges": ["a a"],
            },
            "1 of its tokens occur twice",
        ),
        (
            {"tokens": ["a", "aa", "<|im_end|>"], "token_type": [1, 1, 3], "merges": ["a a"]},
            "lacks <|im_start|>",
        ),
    ],
)
def test_bad_tokenizers_are_told(tmp_path, reference, changes, words):  # noqa: F811
    with GGUFFile(with_tokenizer(tmp_path / "e.gguf", reference, changes)) as file:
        with pytest.raises(InkstoneError) as caught:
            gguf_tokenizer(file)
    assert words in str(caught.value) and str(file.path) in str(caught.value)
