"""Bad files are refused with a message before their data is used; good ones are read bit by bit."""

import json
import os
import struct
from pathlib import Path

import pytest
import torch

from inkstone.errors import InkstoneError
from inkstone.files.stamps import stamp_of
from inkstone.loaders.formats import file_reader
from inkstone.loaders.formats import safetensors_header as header_module
from inkstone.loaders.formats.safetensors import SafetensorsFile, save_safetensors
from inkstone.loaders.formats.safetensors_header import DTYPES

from ..support.oracle import load_file, save_file


def raw(header: object, data: bytes = b"", length: int | None = None) -> bytes:
    """Bytes of a file with this header (an object, or text, or bytes)."""
    if not isinstance(header, str | bytes):
        header = json.dumps(header)
    text = header.encode() if isinstance(header, str) else header
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def one(dtype: str = "F32", shape: object = (2,), offsets: object = (0, 8), **more: object) -> dict:
    return {"w": {"dtype": dtype, "shape": shape, "data_offsets": offsets, **more}}


def two(first: tuple[int, int], second: tuple[int, int]) -> dict:
    return {"a": one(offsets=first)["w"], "b": one(offsets=second)["w"]}


GOOD = raw(one(), b"\0" * 8)
TWICE = (
    '{"w":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},'
    '"w":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}'
)
BAD = {
    "empty file": (b"", "it has 0 bytes", "Download it again"),
    "seven bytes": (b"\1" * 7, "it has 7 bytes", "Download it again"),
    "length only": (GOOD[:8], "inside the file of 8 bytes", "Download it again"),
    "header cut": (GOOD[:30], "inside the file of 30 bytes", "Download it again"),
    "data cut": (GOOD[:-1], "1 of 8 bytes of data are missing", "Download it again"),
    "no data": (GOOD[:-8], "8 of 8 bytes of data are missing", "Download it again"),
    "trailing": (GOOD + b"xyz", "3 bytes follow the last tensor", "Download it again"),
    "zero header": (raw(b""), "got 0", "Download it again"),
    "header bomb": (raw(b"{}", length=2**62), f"got {2**62}", "Download it again"),
    "header of 64 MiB + 1": (raw(b"{}", length=2**26 + 1), "2 bytes to 64 MiB", "again"),
    "not JSON": (raw("{nope}"), "not JSON", "Download it again"),
    "a list": (raw("[]"), "JSON object, got list", "Download it again"),
    "not UTF-8": (raw(b'{"\xff":1}'), "not UTF-8 (byte 2)", "Download it again"),
    "UTF-16": (raw('{"a":1}'.encode("utf-16")), "not UTF-8", "Download it again"),
    "deep": (raw("[" * 200_000), "nested too deeply", "Download it again"),
    "lone surrogate": (
        raw('{"\\ud800":' + json.dumps(one()["w"]) + "}", b"\0" * 8),
        "not valid Unicode",
        "Download it again",
    ),
    "duplicate names": (raw(TWICE, b"\0"), "'w' occurs twice", "Download it again"),
    "duplicate fields": (raw('{"w":{"dtype":"U8","dtype":"U8"}}'), "'dtype' occurs twice", "again"),
    "unknown dtype": (raw(one("F6_E2M3"), b"\0" * 8), "unknown type 'F6_E2M3'", "again"),
    "dtype number": (raw(one(3), b"\0" * 8), "unknown type '3'", "Download it again"),
    "missing field": (raw({"w": {"dtype": "F32", "shape": [2]}}), "exactly dtype, shape", "again"),
    "extra field": (raw(one(extra=1), b"\0" * 8), "exactly dtype, shape", "Download it again"),
    "entry is a list": (raw({"w": [1]}), "tensor 'w' should have exactly", "Download it again"),
    "negative offset": (raw(one(offsets=(-8, 0))), "holds -8", "Download it again"),
    "negative shape": (raw(one(shape=(-2,)), b"\0" * 8), "holds -2", "Download it again"),
    "reversed offsets": (raw(one(offsets=(8, 0)), b"\0" * 8), "should be [begin, end]", "again"),
    "three offsets": (raw(one(offsets=(0, 4, 8)), b"\0" * 8), "at most 2 integers", "again"),
    "float offsets": (raw(one(offsets=(0, 8.0)), b"\0" * 8), "number 8.0", "Download it again"),
    "NaN": (raw(one(offsets=(0, float("nan")))), "number NaN", "Download it again"),
    "true as size": (raw(one("U8", (True,), (0, 1)), b"\0"), "holds True", "Download it again"),
    "huge integer": (raw(one(offsets=(0, 10**30))), "too large numbers", "Download it again"),
    "above 2^53": (raw(one("U8", (2**53 + 1,), (0, 2**53 + 1))), "0 to 2^53", "Download it again"),
    "shape overflow": (raw(one("U8", (2**40, 2**40), (0, 1)), b"\0"), "overflows 2^53", "again"),
    "rank 9": (raw(one("U8", (1,) * 9, (0, 1)), b"\0"), "at most 8 integers", "Download it again"),
    "size and shape": (raw(one("F32", (3,)), b"\0" * 8), "needs 12 bytes", "Download it again"),
    "odd F4": (raw(one("F4", (3,), (0, 2)), b"\0" * 2), "even last dimension", "Download it again"),
    "hole": (raw(two((0, 8), (9, 17)), b"\0" * 17), "a hole between tensor 'a' and tensor 'b'", ""),
    "hole at the start": (raw(one(offsets=(4, 12)), b"\0" * 12), "a hole between the header", ""),
    "overlap": (raw(two((0, 8), (4, 12)), b"\0" * 12), "an overlap of tensor 'a' and", "again"),
    "same bytes twice": (raw(two((0, 8), (0, 8)), b"\0" * 8), "an overlap of", "Download it again"),
    "long name": (raw({"n" * 1025: one()["w"]}, b"\0" * 8), "more than 1024 bytes", "again"),
    "metadata number": (raw({"__metadata__": {"a": 1}, **one()}, b"\0" * 8), "strings to", "again"),
    "metadata list": (raw({"__metadata__": []}), "strings to strings", "Download it again"),
    "zip": (b"PK\x03\x04" + b"\0" * 60 + b"\xff" * 40, "a zip archive", ".safetensors file"),
    "pickle": (b"\x80\x02}q\x00(X\x05\x00\x00\x00epoch", "a pickle", "publisher's .safetensors"),
    "gguf": (b"GGUF\3\0\0\0" + b"\1" * 40, "a GGUF file", "Rename it to .gguf"),
    "lfs": (b"version https://git-lfs.github.com/spec/v1\noid", "Git LFS pointer", "git lfs pull"),
    "html": (b"<!DOCTYPE html><html><body>login</body>", "a web page", "accept the licence"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_file_is_refused_with_a_message(tmp_path: Path, case: str):
    data, thing, remedy = BAD[case]
    path = tmp_path / "model.safetensors"
    path.write_bytes(data)
    with pytest.raises(InkstoneError) as caught:
        SafetensorsFile(path)
    message = str(caught.value)
    assert thing in message and remedy in message and str(path) in message, message
    path.unlink()  # nothing keeps it open


def test_every_truncation_is_an_error(tmp_path: Path):
    path = tmp_path / "m.safetensors"
    save_safetensors(path, {"a": torch.arange(5), "b": torch.ones(2, 2)}, {"k": "v"})
    whole = path.read_bytes()
    for size in range(len(whole)):
        path.write_bytes(whole[:size])
        with pytest.raises(InkstoneError):
            SafetensorsFile(path)


@pytest.mark.slow
def test_every_bit_flip_of_the_header_is_read_or_refused_with_a_message(tmp_path: Path):
    path = tmp_path / "m.safetensors"
    save_safetensors(path, {"a": torch.arange(3), "b": torch.ones(2)})
    whole = path.read_bytes()
    header = 8 + int.from_bytes(whole[:8], "little")
    for at in range(header):
        for bit in range(8):
            path.write_bytes(whole[:at] + bytes([whole[at] ^ 1 << bit]) + whole[at + 1 :])
            try:
                with SafetensorsFile(path) as file:
                    for name in file.entries:
                        file.read(name)
            except InkstoneError as error:
                assert str(path) in str(error)


def test_header_limits_count_tensors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(header_module, "MAX_TENSORS", 3)
    path = tmp_path / "m.safetensors"
    entry = {"dtype": "U8", "shape": [0], "data_offsets": [0, 0]}
    for count in (4, 40):
        path.write_bytes(raw({f"t{i}": entry for i in range(count)}))
        with pytest.raises(InkstoneError, match=r"tensors"):
            SafetensorsFile(path)


def test_missing_file_and_folder(tmp_path: Path):
    with pytest.raises(InkstoneError, match=r"does not exist. Check the name"):
        SafetensorsFile(tmp_path / "no.safetensors")
    with pytest.raises(InkstoneError, match=r"is a folder, expected a .safetensors file. Name"):
        SafetensorsFile(tmp_path)


def _all_dtypes() -> dict[str, torch.Tensor]:
    tensors = {"scalar": torch.tensor(2.5), "empty": torch.zeros(0, 4)}
    for name, dtype in DTYPES.items():
        size = dtype.itemsize
        bits = torch.randint(0, 2 if name == "BOOL" else 256, (3, 4 * size), dtype=torch.uint8)
        tensors[name] = bits.view(dtype)
    return tensors


def _bits(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.contiguous().reshape(-1).view(torch.uint8)


def test_round_trip_of_every_dtype_and_agreement_with_the_package(tmp_path: Path):
    tensors, path = _all_dtypes(), tmp_path / "m.safetensors"
    save_safetensors(path, tensors, {"b": "2", "a": "é"})
    theirs = load_file(path)
    with SafetensorsFile(path) as file:
        assert file.metadata == {"a": "é", "b": "2"} and set(file.entries) == set(tensors)
        for name, tensor in tensors.items():
            ours = file.read(name)
            assert ours.dtype == tensor.dtype and ours.shape == tensor.shape
            assert torch.equal(_bits(ours), _bits(tensor)), name
            assert torch.equal(_bits(ours), _bits(theirs[name])), name
    first = path.read_bytes()
    save_safetensors(path, dict(reversed(tensors.items())), {"a": "é", "b": "2"})
    assert path.read_bytes() == first


def test_misaligned_data_and_leading_spaces_are_read(tmp_path: Path):
    data = torch.tensor([1.5, -2.0]).numpy().tobytes()
    path = tmp_path / "m.safetensors"
    path.write_bytes(raw("  " + json.dumps(one()) + " ", data))
    with SafetensorsFile(path) as file:
        assert file.read("w").tolist() == [1.5, -2.0]


def test_conversion_goes_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(file_reader, "CHUNK", 100)
    values = torch.randn(37, 11)
    path = tmp_path / "m.safetensors"
    save_file({"w": values, "f8": values.to(torch.float8_e4m3fn)}, path)
    with SafetensorsFile(path) as file:
        assert torch.equal(file.read("w", dtype=torch.bfloat16), values.bfloat16())
        f8 = values.to(torch.float8_e4m3fn)
        assert torch.equal(file.read("f8", dtype=torch.bfloat16), f8.bfloat16())
        target = torch.nn.Parameter(torch.empty(37, 11, dtype=torch.float16))
        assert file.read("w", out=target) is target
        assert torch.equal(target, values.half())
        turned = torch.empty(11, 37).t()
        file.read("w", out=turned)
        assert torch.equal(turned, values)


def test_the_package_writes_the_same_bytes(tmp_path: Path):
    ours, theirs = tmp_path / "ours.safetensors", tmp_path / "theirs.safetensors"
    tensors = {"b": torch.randn(3, 5), "a": torch.randn(7).bfloat16(), "c": torch.arange(4)}
    save_safetensors(ours, tensors)
    save_file(tensors, theirs)
    assert ours.read_bytes() == theirs.read_bytes()


def test_wrong_target_and_unknown_name(tmp_path: Path):
    path = tmp_path / "m.safetensors"
    save_safetensors(path, {"block.weight": torch.zeros(2, 3)})
    with SafetensorsFile(path) as file:
        with pytest.raises(InkstoneError, match=r"\[2, 3\] cannot be read into \[3, 2\]"):
            file.read("block.weight", out=torch.empty(3, 2))
        with pytest.raises(InkstoneError, match=r"cannot be read into"):
            file.read("block.weight", out=torch.empty(2, 3), dtype=torch.half)
        with pytest.raises(InkstoneError, match=r"no tensor 'block.weigth' .* it has block.weight"):
            file.read("block.weigth")
    with pytest.raises(InkstoneError, match="cannot read block.weight"):
        file.read("block.weight")  # closed


@pytest.mark.skipif(os.name == "nt", reason="an open file cannot be cut there")
def test_file_cut_while_it_is_open(tmp_path: Path):
    path = tmp_path / "m.safetensors"
    save_safetensors(path, {"w": torch.zeros(1000)})
    with SafetensorsFile(path) as file:
        os.truncate(path, 2000)
        with pytest.raises(
            InkstoneError, match=r"was truncated while it was read: w needs 4000 bytes"
        ):
            file.read("w")
        with pytest.raises(InkstoneError, match=r"was truncated while it was read"):
            file.read("w", dtype=torch.half)


def test_seek_and_read_where_there_is_no_preadv(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delattr(os, "preadv", raising=False)
    path, values = tmp_path / "m.safetensors", torch.randn(64)
    save_safetensors(path, {"w": values})
    with SafetensorsFile(path) as file:
        assert torch.equal(file.read("w"), values)


def test_writing_is_atomic(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = tmp_path / "m.safetensors"
    save_safetensors(path, {"w": torch.ones(2)})
    before = path.read_bytes()

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(
        InkstoneError, match="No space left on device. Check the folder and the free"
    ):
        save_safetensors(path, {"w": torch.zeros(500)})
    assert path.read_bytes() == before and os.listdir(tmp_path) == [path.name]
    with pytest.raises(InkstoneError, match="cannot be written"):
        save_safetensors(tmp_path / "none" / "m.safetensors", {"w": torch.zeros(1)})


def test_writing_refuses_what_reading_refuses(tmp_path: Path):
    path = tmp_path / "m.safetensors"
    for tensors, metadata in (
        ({"n" * 2000: torch.zeros(1)}, None),
        ({"w": torch.zeros(1)}, {"a": 1}),
        ({"w": torch.zeros((1,) * 9)}, None),
        ({"w": torch.zeros(1, dtype=torch.complex128)}, None),
    ):
        with pytest.raises(InkstoneError):
            save_safetensors(path, tensors, metadata)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("how", ["before", "during", "a part", "time put back"])
def test_a_file_that_changes_is_refused(how, tmp_path, monkeypatch):
    path = tmp_path / "x.safetensors"
    save_safetensors(path, {"a": torch.ones(64), "b": torch.ones(64)})
    with SafetensorsFile(path) as file:
        assert file.read("a").sum() == 64
        stamp = stamp_of(path.stat())

        def overwrite():
            with open(path, "r+b") as other:
                other.seek(-16, os.SEEK_END)
                other.write(bytes(16))
            later = stamp.modified + (0 if how == "time put back" else 10**9)
            os.utime(path, ns=(later, later))

        if how == "during":
            fill = file._disk.fill
            monkeypatch.setattr(file._disk, "fill", lambda *a: (fill(*a), overwrite()))
        else:
            overwrite()
        with pytest.raises(InkstoneError, match="x.safetensors: it was changed on disk"):
            file.read_bytes("b", 0, 8) if how == "a part" else file.read("b")
