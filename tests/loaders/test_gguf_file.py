"""GGUF files written by the gguf package read back equal; what a loader sees of them."""

import logging
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from inkstone.errors import InkstoneError
from inkstone.host.headless import HeadlessHost, using
from inkstone.host.model_folders import model_files
from inkstone.loaders.arch import expected_tensors, key_maps
from inkstone.loaders.arch.identify import identify, require
from inkstone.loaders.formats import gguf as module
from inkstone.loaders.formats import gguf_metadata
from inkstone.loaders.formats.gguf import GGUFFile
from inkstone.loaders.formats.gguf_metadata import Array
from inkstone.loaders.formats.open import open_weights
from inkstone.loaders.formats.safetensors import SafetensorsFile, save_safetensors
from inkstone.quant.gguf_storage import GGUFStorage, find_gguf
from inkstone.quant.gguf_types import BY_NAME
from inkstone.quant.storage import PlainStorage

from ..quant.test_gguf_blocks import ISSUE, blocks, reference
from ..support import gguf_bytes

gguf = pytest.importorskip("gguf")
Q = gguf.GGMLQuantizationType

TINY = SimpleNamespace(layers=2, heads=2, head_dim=128, channels=64, joint=256, ff=512)


def finish(writer: "gguf.GGUFWriter") -> None:
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def every_type(path: Path, **more) -> dict[str, np.ndarray]:
    """A file by the package with a matrix of every type; the bytes of each."""
    writer = gguf.GGUFWriter(path, "qwen_image", **more)
    held = {}
    for name in ISSUE:
        kind = BY_NAME[name]
        held[name] = blocks(kind, 6, 512 // kind.block)
        if not kind.packed:
            held[name] = torch.randn(6, 512).to(kind.dtype).view(torch.uint8).numpy()
        writer.add_tensor(name, held[name], raw_dtype=Q(kind.id))
    finish(writer)
    return held


def test_every_type_reads_as_the_package_wrote_it(tmp_path):
    path = tmp_path / "all.gguf"
    held = every_type(path)
    theirs = {tensor.name: tensor for tensor in gguf.GGUFReader(path).tensors}
    with open_weights(path) as file:
        assert isinstance(file, GGUFFile) and list(file.entries) == ISSUE == list(theirs)
        for name, raw in held.items():
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
    held = every_type(path)
    with GGUFFile(path) as file:
        for name, raw in held.items():
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
        told = {"yes": "true", "no": "false", "text": "für 猫\n", "general.architecture": "clip"}
        told |= {k: repr(v) for k, v in values.items() if k in names and k not in told}
        assert file.metadata == told
        assert file.arrays == {key: len(value) for key, value in lists.items()}
        assert {key: file.kv_array(key) for key in lists} == lists
        with pytest.raises(InkstoneError, match="no array 'text'"):
            file.kv_array("text")


def test_a_tokenizer_is_passed_over(tmp_path, monkeypatch):
    """150,000 tokens and merges: nothing of them is decoded or held until it is asked for."""
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
        found = find_gguf(file, {name: name for name in shapes})
        assert set(found) == {"halved", "doubled", "odd"}
        for name, one in found.items():
            storage = one.load()
            assert isinstance(storage, PlainStorage if name == "halved" else GGUFStorage)
            assert storage.nbytes == one.nbytes and storage.shape == shapes[name]
            want = whole.view(shapes[name])
            want = want.bfloat16().float() if name == "halved" else want
            assert torch.equal(storage.dequantize(), want), name
        with pytest.raises(InkstoneError, match="rows of 128, no whole blocks of Q4_K"):
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
        said = [r.message for r in caplog.records if "codebook" in r.message]
    assert said == [
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


# --- several parts


def parts_of(folder: Path) -> list[Path]:
    every_type(folder / "m.gguf", split_max_tensors=7)
    return sorted(folder.glob("m-*.gguf"))


def test_parts_are_one_file(tmp_path):
    names = [path.name for path in parts_of(tmp_path)]
    assert names == [f"m-0000{n}-of-00003.gguf" for n in (1, 2, 3)]
    held = every_type(tmp_path / "whole.gguf")
    for name in names:
        with open_weights(tmp_path / name) as file:
            assert list(file.entries) == ISSUE
            assert file.metadata["general.architecture"] == "qwen_image"
            for tensor, raw in held.items():
                if BY_NAME[tensor].packed:
                    assert file.raw(tensor).numpy().tobytes() == raw.tobytes()
    (tmp_path / "whole.gguf").unlink()
    assert open_weights(tmp_path).path.name == names[0]  # a folder with one model


def test_parts_must_fit_together(tmp_path):
    paths = parts_of(tmp_path)
    third = paths[2].read_bytes()
    paths[2].unlink()
    with pytest.raises(InkstoneError, match="1 of its 3 parts are missing: m-00003-of-00003.gguf"):
        GGUFFile(paths[0])
    paths[2].write_bytes(paths[1].read_bytes())
    with pytest.raises(InkstoneError, match="its header calls it part 2 of 3, expected part 3"):
        GGUFFile(paths[0])
    paths[2].write_bytes(third.replace(b"NVFP4", b"NVFP5").replace(b"MXFP4", b"NVFP4"))
    with GGUFFile(paths[0]) as file:
        assert "NVFP5" in file.entries
    paths[2].write_bytes(third.replace(b"NVFP4", b"Q2_K\x20"))
    with GGUFFile(paths[0]) as file:
        assert "Q2_K " in file.entries
    twice = paths[1].read_bytes()
    at = twice.index(b"Q3_K") if b"Q3_K" in twice else twice.index(b"Q2_K")
    paths[1].write_bytes(twice[:at] + b"BF16" + twice[at + 4 :])
    with pytest.raises(InkstoneError, match="tensor 'BF16' is in another part too"):
        GGUFFile(paths[0])


def test_parts_must_be_complete(tmp_path):
    paths = parts_of(tmp_path)
    key = b"split.tensors.count" + b"\5\0\0\0"
    for path in paths:
        path.write_bytes(path.read_bytes().replace(key + b"\x13", key + b"\x14"))
    with pytest.raises(InkstoneError, match="3 parts contain 19 tensors, expected 20"):
        GGUFFile(paths[0])


# --- what a file is


def model(path: Path, arch: str, prefix: str = "", config=TINY) -> dict[str, torch.Tensor]:
    """A diffusion model as the usual converters write it; its float weights by our names."""
    torch.manual_seed(2)
    writer, held = gguf.GGUFWriter(path, arch), {}
    for number, (name, shape) in enumerate(expected_tensors.mmdit_layout(config).items()):
        weight = torch.randn(shape) * 0.05
        keep = len(shape) == 1 or not name.startswith("transformer_blocks.")
        kind = Q.F32 if keep else Q.Q8_0 if number % 3 else Q.Q5_1
        raw = gguf.quants.quantize(weight.numpy(), kind)
        writer.add_tensor(prefix + name, raw, raw_dtype=kind)
        held[name] = torch.from_numpy(gguf.quants.dequantize(raw, kind))
    finish(writer)
    return held


@pytest.mark.parametrize(
    ("arch", "prefix"),
    [
        ("qwen_image", ""),
        ("pig", ""),
        ("cow", "model.diffusion_model."),
        ("", ""),
        ("", "model.diffusion_model."),
    ],
)
def test_a_diffusion_model_is_told_by_its_names(tmp_path, arch, prefix):
    model(tmp_path / "m.gguf", arch, prefix)
    facts = identify(tmp_path / "m.gguf")
    assert not facts.problem and facts.role == "diffusion_model" and facts.prefix == prefix
    assert facts.sentence.startswith("Qwen-Image diffusion model")
    assert facts.sentence.endswith("2 layers, 4.05 M parameters, 19 x Q8_0 + 9 x Q5_1 + fp32")
    assert sum(facts.dtypes.values()) == len(expected_tensors.mmdit_layout(TINY))
    require(facts, "diffusion_model")


def test_the_type_of_file_is_told_by_its_first_bytes(tmp_path):
    model(tmp_path / "m.safetensors", "qwen_image")
    save_safetensors(tmp_path / "s.gguf", {"x": torch.ones(2)})
    assert isinstance(open_weights(tmp_path / "m.safetensors"), GGUFFile)
    assert isinstance(open_weights(tmp_path / "s.gguf"), SafetensorsFile)
    assert identify(tmp_path / "m.safetensors").role == "diffusion_model"
    with pytest.raises(InkstoneError, match="seems to be a .safetensors file"):
        GGUFFile(tmp_path / "s.gguf")


def test_every_matrix_is_found_and_equal(tmp_path):
    held = model(tmp_path / "m.gguf", "qwen_image", "model.diffusion_model.")
    with open_weights(tmp_path / "m.gguf") as file:
        table = key_maps.mmdit_names(file.entries).table
        found = find_gguf(file, table)
        packed = {n for n in held if n.startswith("transformer_blocks.") and held[n].dim() == 2}
        assert set(found) == packed and {f.format for f in found.values()} == {"Q8_0", "Q5_1"}
        for name, weight in held.items():
            got = found[name].load().dequantize() if name in found else file.read(table[name])
            assert torch.equal(got, weight), name
        for one in found.values():
            assert one.load().nbytes == one.nbytes and one.parts == (one.name,)
    save_safetensors(tmp_path / "s.safetensors", {"x": torch.ones(2, 2)})
    with open_weights(tmp_path / "s.safetensors") as file:
        assert find_gguf(file, {"x": "x"}) == {}


def test_files_are_listed_without_later_parts(tmp_path):
    for name in ("a.gguf", "b-00001-of-00002.gguf", "b-00002-of-00002.gguf", "c.GGUF"):
        (tmp_path / "unet" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "unet" / name).write_bytes(b"")
    with using(HeadlessHost(models=(tmp_path,))):
        listed = model_files("diffusion_models")
    assert listed == ["a.gguf", "b-00001-of-00002.gguf", "c.GGUF"]
