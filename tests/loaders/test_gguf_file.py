"""GGUF files written by the gguf package read back equal; what a loader sees of them."""

import logging
import sys
import time

import numpy as np
import pytest
import torch

from inkstone.errors import InkstoneError
from inkstone.loaders.formats import gguf as module
from inkstone.loaders.formats import gguf_metadata
from inkstone.loaders.formats.gguf import GGUFFile
from inkstone.loaders.formats.gguf_metadata import Array
from inkstone.loaders.formats.open import open_weights
from inkstone.quant.gguf_storage import GGUFStorage, find_gguf
from inkstone.quant.gguf_types import BY_NAME
from inkstone.quant.storage import PlainStorage

from ..quant.test_gguf_blocks import ISSUE, blocks, reference
from ..support import gguf_bytes
from ..support.gguf_files import every_type, finish

gguf = pytest.importorskip("gguf")
Q = gguf.GGMLQuantizationType


def test_every_type_reads_as_the_package_wrote_it(tmp_path):
    path = tmp_path / "all.gguf"
    matrices = every_type(path)
    theirs = {tensor.name: tensor for tensor in gguf.GGUFReader(path).tensors}
    with open_weights(path) as file:
        assert isinstance(file, GGUFFile) and list(file.entries) == ISSUE == list(theirs)
        for name, raw in matrices.items():
            entry, kind = file.entries[name], BY_NAME[name]
            assert entry.kind is kind and entry.shape == (6, 512) and entry.numel == 3072
            assert entry.dtype == (torch.uint8 if kind.packed else kind.dtype)
            assert entry.nbytes == raw.size == theirs[name].n_bytes and entry.type_name == name
            assert file.raw(name).numpy().tobytes() == raw.tobytes()
            want = torch.from_numpy(reference(raw, kind))
            assert torch.equal(file.read(name, dtype=torch.float32), want), name
            assert file.read(name).dtype == (kind.dtype or torch.float32)


def test_reading_goes_in_pieces(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "CHUNK", 1100)  # from 5 blocks of Q6_K on
    path = tmp_path / "all.gguf"
    matrices = every_type(path)
    with GGUFFile(path) as file:
        for name, raw in matrices.items():
            want = torch.from_numpy(reference(raw, BY_NAME[name]))
            target = torch.nn.Parameter(torch.empty(6, 512, dtype=torch.bfloat16))
            assert file.read(name, out=target) is target
            assert torch.equal(target, want.bfloat16()), name
            turned = torch.empty(512, 6).t()
            assert torch.equal(file.read(name, out=turned), want), name
            assert file.raw(name).numpy().tobytes() == raw.tobytes()


def test_wrong_target_and_unknown_name(tmp_path):
    every_type(tmp_path / "all.gguf")
    with GGUFFile(tmp_path / "all.gguf") as file:
        with pytest.raises(InkstoneError, match=r"\[6, 512\] cannot be read into \[512, 6\]"):
            file.read("Q4_K", out=torch.empty(512, 6))
        with pytest.raises(InkstoneError, match="no tensor 'Q4_L' among 19; it has IQ4_NL, Q4"):
            file.read("Q4_L")
    with pytest.raises(InkstoneError, match="does not exist"):
        GGUFFile(tmp_path / "none.gguf")
    with pytest.raises(InkstoneError, match="is a folder, expected a .gguf file"):
        GGUFFile(tmp_path)


def test_values_of_the_header(tmp_path):
    path = tmp_path / "kv.gguf"
    writer = gguf.GGUFWriter(path, "clip")
    values = {
        "u8": 255,
        "i8": -128,
        "u16": 65535,
        "i16": -3,
        "u32": 2**32 - 1,
        "i32": -7,
        "u64": 2**64 - 1,
        "i64": -(2**63),
        "f32": 0.5,
        "f64": 1e-300,
        "yes": True,
        "no": False,
        "text": "für 猫\n",
        "none": "",
    }
    names = {
        "u8": "uint8",
        "i8": "int8",
        "u16": "uint16",
        "i16": "int16",
        "u32": "uint32",
        "i32": "int32",
        "u64": "uint64",
        "i64": "int64",
        "f32": "float32",
        "f64": "float64",
        "yes": "bool",
        "no": "bool",
        "text": "string",
    }
    for key, value in values.items():
        if key in names:
            getattr(writer, f"add_{names[key]}")(key, value)
    lists = {
        "numbers": [16, 24, 24, 0],
        "mean": [0.5, 0.25],
        "words": ["a", "", "猫"],
        "flags": [True, False],
    }
    for key, value in lists.items():
        writer.add_array(key, value)
    writer.add_tensor("x", np.ones(3, np.float32))
    finish(writer)
    with GGUFFile(path) as file:
        texts = {"yes": "true", "no": "false", "text": "für 猫\n", "general.architecture": "clip"}
        texts |= {k: repr(v) for k, v in values.items() if k in names and k not in texts}
        assert file.metadata == texts
        assert file.arrays == {key: len(value) for key, value in lists.items()}
        assert {key: file.kv_array(key) for key in lists} == lists
        with pytest.raises(InkstoneError, match="no array 'text'"):
            file.kv_array("text")


def test_a_tokenizer_is_skipped(tmp_path, monkeypatch):
    """150,000 tokens and merges: they are decoded on demand, and kept by nobody."""
    path = tmp_path / "vocabulary.gguf"
    tokens = [f"token{i}" for i in range(152_064)]
    merges = [f"tok en{i}" for i in range(151_387)]
    parts = [
        gguf_bytes.array(
            f"tokenizer.ggml.{name}",
            gguf_bytes.STRING,
            len(items),
            b"".join(map(gguf_bytes.text, items)),
        )
        for name, items in (("tokens", tokens), ("merges", merges))
    ]
    path.write_bytes(gguf_bytes.file([gguf_bytes.ARCH, *parts]))
    calls = []
    right = module.decode_array
    monkeypatch.setattr(module, "decode_array", lambda *a: calls.append(a[0]) or right(*a))
    start = time.perf_counter()
    with GGUFFile(path) as file:
        print(f"opened {path.stat().st_size / 1e6:.1f} MB in {time.perf_counter() - start:.3f} s")
        assert file.arrays["tokenizer.ggml.tokens"] == 152_064 and not calls
        assert all(isinstance(part, Array) for part in file._parts[0].header.arrays.values())
        assert file.kv_array("tokenizer.ggml.tokens") == tokens and len(calls) == 1


def test_alignment_and_the_last_padding(tmp_path):
    one = gguf_bytes.info("x", (4,), 0, 0)
    keys_ = [gguf_bytes.number("general.alignment", 512)]
    data = gguf_bytes.file(keys_, [one], np.arange(4, dtype="<f4").tobytes(), alignment=512)
    for tail in (b"", b"\0" * 496, b"anything"):
        (tmp_path / "a.gguf").write_bytes(data + tail)
        with GGUFFile(tmp_path / "a.gguf") as file:
            assert file.read("x").tolist() == [0, 1, 2, 3]


def test_the_true_shape_is_honoured(tmp_path):
    """Tensors that a converter cut into rows of 256, and kernels of rank 5."""
    path = tmp_path / "cut.gguf"
    writer = gguf.GGUFWriter(path, "sdxl")
    raw = blocks(BY_NAME["Q4_K"], 6, 1)
    shapes = {"kernel": (8, 4, 3, 4, 4), "halved": (12, 128), "doubled": (3, 512), "odd": (2, 768)}
    for name, shape in shapes.items():
        writer.add_tensor(name, raw, raw_dtype=Q.Q4_K)
        writer.add_array(f"comfy.gguf.orig_shape.{name}", list(shape))
    finish(writer)
    whole = torch.from_numpy(reference(raw, BY_NAME["Q4_K"]))
    with GGUFFile(path) as file:
        for name, shape in shapes.items():
            assert file.entries[name].shape == shape
            assert torch.equal(file.read(name), whole.view(shape)), name
        matches = find_gguf(file, {name: name for name in shapes})
        assert set(matches) == {"halved", "doubled", "odd"}
        for name, one in matches.items():
            storage = one.load()
            assert isinstance(storage, PlainStorage if name == "halved" else GGUFStorage)
            assert storage.nbytes == one.nbytes and storage.shape == shapes[name]
            want = whole.view(shapes[name])
            want = want.bfloat16().float() if name == "halved" else want
            assert torch.equal(storage.dequantize(), want), name
        with pytest.raises(InkstoneError, match="rows of 128, not whole blocks of Q4_K"):
            file.raw("halved")


def test_an_empty_mark_and_a_scalar_are_read(tmp_path):
    """Files of Edit-2511 carry a mark that holds nothing."""
    for rank, dims in ((0, ()), (1, (0,))):
        mark = gguf_bytes.info(gguf_metadata.ZERO_COND_MARK, dims, gguf_bytes.TYPE_F32, 0, rank)
        tensors = [mark, gguf_bytes.info("x", (4,), 0, 32)]
        path = tmp_path / "m.gguf"
        path.write_bytes(gguf_bytes.file((), tensors, b"\0" * 48))
        with GGUFFile(path) as file:
            assert file.entries[gguf_metadata.ZERO_COND_MARK].shape == dims
            assert file.read(gguf_metadata.ZERO_COND_MARK).shape == dims


def test_a_second_scale_is_part_of_its_weight(tmp_path):
    path = tmp_path / "nv.gguf"
    kind, raw = BY_NAME["NVFP4"], blocks(BY_NAME["NVFP4"], 4, 2)
    writer = gguf.GGUFWriter(path, "qwen_image")
    writer.add_tensor("a.weight", raw, raw_dtype=Q.NVFP4)
    writer.add_tensor("a.scale", np.array([0.3], np.float32))
    writer.add_tensor("b.scale", np.array([7], np.float32))
    finish(writer)
    want = torch.from_numpy(reference(raw, kind)) * np.float32(0.3)
    with GGUFFile(path) as file:
        assert set(file.entries) == {"a.weight", "b.scale"}
        assert torch.equal(file.read("a.weight"), want)
        storage = find_gguf(file, {"a.weight": "a.weight"})["a.weight"].load()
        assert torch.equal(storage.dequantize(), want)


CODEBOOK = [kind for kind in BY_NAME.values() if kind.codebook]


@pytest.mark.parametrize("kind", CODEBOOK, ids=lambda kind: kind.name)
def test_codebook_types_go_through_the_package(tmp_path, caplog, kind):
    raw = blocks(kind, 3, 2)
    if kind.name == "IQ1_M":  # its scale is in four pieces: keep the top one small
        raw.reshape(-1, 56)[:, 55] &= 0x3F
    writer = gguf.GGUFWriter(tmp_path / "i.gguf", "qwen_image")
    for name in ("a", "b"):
        writer.add_tensor(name, raw, raw_dtype=Q(kind.id))
    finish(writer)
    want = torch.from_numpy(gguf.quants.dequantize(raw, Q(kind.id)))
    caplog.set_level(logging.INFO)
    with GGUFFile(tmp_path / "i.gguf") as file:
        assert torch.equal(file.read("a"), want)
        storage = find_gguf(file, {"b": "b"})["b"].load()
        assert torch.equal(storage.dequantize(), want.bfloat16().float())
        lines = [r.message for r in caplog.records if "codebook" in r.message]
    assert lines == [
        f"i.gguf: 2 tensors of the codebook type {kind.name} are unpacked by the gguf "
        "package, which is slow"
    ]


def test_codebook_types_without_the_package(tmp_path, monkeypatch):
    kind = BY_NAME["IQ2_XS"]
    writer = gguf.GGUFWriter(tmp_path / "i.gguf", "qwen_image")
    writer.add_tensor("a", blocks(kind, 1, 1), raw_dtype=Q.IQ2_XS)
    finish(writer)
    monkeypatch.setitem(sys.modules, "gguf", None)
    with GGUFFile(tmp_path / "i.gguf") as file, pytest.raises(InkstoneError) as caught:
        file.read("a")
    assert "pip install gguf" in str(caught.value) and "Q2_K or higher" in str(caught.value)
