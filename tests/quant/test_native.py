"""The compiled unpacking gives torch's bits, and is refused where others could have written it."""

from __future__ import annotations

import os
import shutil
import stat
import sys

import pytest
import torch

from inkstone.quant import gguf_dequantizer
from inkstone.quant.fp8 import E4M3, E5M2, Fp8Storage
from inkstone.quant.gguf_storage import GGUFStorage
from inkstone.quant.gguf_types import BY_NAME
from inkstone.quant.int_quant import RowScaledStorage
from inkstone.quant.native import build, unpack

from .test_gguf_blocks import EDGES, blocks, with_scales

HAS_COMPILER = any(map(shutil.which, build.COMPILERS)) and sys.platform != "win32"
compiles = pytest.mark.skipif(not HAS_COMPILER, reason="no C compiler on this machine")
FLOATS = (torch.float32, torch.bfloat16)


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def native(shared, monkeypatch):
    """The library, for small weights too."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(shared))
    monkeypatch.delenv(build.SWITCH, raising=False)
    monkeypatch.setattr(unpack, "_wanted", True)
    yield from _fresh()


@pytest.fixture
def asked(tmp_path, monkeypatch):
    """A call that asks for the library in a cache of its own, and the folder of that cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv(build.SWITCH, raising=False)
    yield from ((build.library, tmp_path / "inkstone" / "native") for _ in _fresh())


def _fresh():
    build.library.cache_clear()
    gguf_dequantizer._same_bits.cache_clear()
    yield
    build.library.cache_clear()
    gguf_dequantizer._same_bits.cache_clear()


def by_torch(storage, start, out, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setenv(build.SWITCH, "0")
        build.library.cache_clear()
        storage.rows_into(start, out)
    build.library.cache_clear()
    return out


def same(storage, monkeypatch, dtype, rows):
    """Rows 1 to rows by both ways."""
    assert storage.compiled(dtype), build.library()[1]
    ours = torch.full((rows - 1, storage.shape[1]), 7.0, dtype=dtype)
    storage.rows_into(1, ours)
    plain = by_torch(storage, 1, torch.empty_like(ours), monkeypatch)
    error = (ours.float() - plain.float()).abs().max()
    assert torch.equal(ours, plain), f"maximum error {error}"


@compiles
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("name", unpack.KINDS)
def test_every_gguf_type_has_torchs_bits(name, dtype, native, monkeypatch):
    kind = BY_NAME[name]
    for per_row, factor in ((1, 1.0), (3, 1.0), (11, 0.375), (11, 1.7)):
        raw = torch.from_numpy(blocks(kind, 5, per_row))
        same(GGUFStorage(raw, kind, (5, per_row * kind.block), factor), monkeypatch, dtype, 5)
    for bits in EDGES if kind.scales else ():
        raw = torch.from_numpy(with_scales(blocks(kind, 4, 2), kind, bits))
        same(GGUFStorage(raw, kind, (4, 2 * kind.block)), monkeypatch, dtype, 4)


@compiles
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("scales", [0, 1, 6])
@pytest.mark.parametrize("kind", [E4M3, E5M2], ids=str)
def test_fp8_has_torchs_bits(kind, scales, dtype, native, monkeypatch):
    codes = torch.arange(256, dtype=torch.uint8)
    codes = codes[codes.view(kind).float().isfinite()]
    every = torch.stack([codes.roll(row) for row in range(6)])
    scale = torch.rand(scales, 1) * 0.03 if scales > 1 else torch.tensor(0.0123)
    same(Fp8Storage(every, kind, scale if scales else None), monkeypatch, dtype, 6)


@compiles
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("group", [0, 4, 16, 64, 256])
@pytest.mark.parametrize("scales", [1, 5])
def test_int8_has_torchs_bits(scales, group, dtype, native, monkeypatch):
    codes = torch.randint(-128, 128, (5, 768), dtype=torch.int8)
    scale = torch.rand(scales, 1) * 0.01 if scales > 1 else torch.tensor(0.0077)
    same(RowScaledStorage("int8_tensorwise", codes, scale, 8, group), monkeypatch, dtype, 5)


@compiles
def test_wider_rotations_and_other_outputs_stay_with_torch(native):
    codes = torch.randint(-128, 128, (5, 1024), dtype=torch.int8)
    storage = RowScaledStorage("int8_tensorwise", codes, torch.tensor(0.01), 8, 1024)
    assert not storage.compiled(torch.float32)
    storage = RowScaledStorage("int8_tensorwise", codes, torch.tensor(0.01), 8, 64)
    assert not storage.compiled(torch.float16)
    strided = torch.empty(5, 2048)[:, ::2]
    assert torch.equal(storage.rows_into(0, strided), storage.dequantize())


@compiles
def test_a_wrong_library_is_not_used(native, monkeypatch, caplog):
    right = unpack.unpack_blocks
    monkeypatch.setattr(
        gguf_dequantizer, "unpack_blocks", lambda raw, kind, out: right(raw, kind, out).add_(1)
    )
    assert not gguf_dequantizer.compiled(BY_NAME["Q4_K"], torch.float32, 256)
    assert "wrong for Q4_K" in caplog.text


def test_small_weights_start_no_compiler(asked, monkeypatch):
    monkeypatch.setattr(unpack, "_wanted", False)
    monkeypatch.setattr(build, "_compile", lambda *_: pytest.fail("a compiler was started"))
    assert not unpack.available(torch.float32, unpack.WORTH - 1)


@compiles
def test_it_is_compiled_once_into_a_folder_of_the_users_own(asked, monkeypatch):
    library, folder = asked
    loaded, reason = library()
    assert loaded is not None and str(folder) in reason
    (made,) = folder.iterdir()
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert not made.stat().st_mode & (stat.S_IWGRP | stat.S_IWOTH)
    library.cache_clear()
    monkeypatch.setattr(build, "_compile", lambda *_: pytest.fail("compiled twice"))
    assert library()[0] is not None


def test_the_switch_turns_it_off(asked, monkeypatch):
    monkeypatch.setenv(build.SWITCH, "0")
    assert asked[0]() == (None, "INKSTONE_NATIVE=0")
    assert not asked[1].exists()


def test_without_a_compiler_torch_does_the_work(asked, monkeypatch):
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr(build.importlib.util, "find_spec", lambda name: None)
    loaded, reason = asked[0]()
    assert loaded is None and "no C compiler" in reason and "inkstone[native]" in reason


@compiles
@pytest.mark.parametrize("text", ["exit 1", "echo broken >&2; exit 3", "exit 0"])
def test_a_compiler_that_fails_leaves_nothing(text, asked, tmp_path, monkeypatch):
    bin = tmp_path / "bin"
    bin.mkdir()
    (bin / "cc").write_text(f"#!/bin/sh\n{text}\n")
    (bin / "cc").chmod(0o755)
    monkeypatch.setenv("PATH", f"{bin}:/usr/bin:/bin")
    loaded, reason = asked[0]()
    assert loaded is None and "failed" in reason
    assert list(asked[1].iterdir()) == []


@compiles
def test_what_is_no_library_is_not_loaded(asked, monkeypatch):
    monkeypatch.setattr(build, "_compile", lambda compiler, path: path.write_bytes(b"no library"))
    loaded, reason = asked[0]()
    assert loaded is None and reason


@pytest.mark.skipif(sys.platform == "win32", reason="rights of POSIX")
@compiles
@pytest.mark.parametrize("which", ["folder", "its parent", "link", "file", "file link"])
def test_what_others_could_write_is_not_run(which, asked, tmp_path):
    library, folder = asked
    library()
    (made,) = folder.iterdir()
    library.cache_clear()
    if which == "folder":
        folder.chmod(0o777)
    elif which == "its parent":
        folder.parent.chmod(0o770)
    elif which == "file":
        made.chmod(0o766)
    elif which == "file link":
        made.rename(tmp_path / "elsewhere.so")
        made.symlink_to(tmp_path / "elsewhere.so")
    else:
        folder.rename(tmp_path / "elsewhere")
        folder.symlink_to(tmp_path / "elsewhere")
    loaded, reason = library()
    assert loaded is None and str(tmp_path) in reason


@pytest.mark.skipif(sys.platform == "win32", reason="users of POSIX")
def test_what_another_user_owns_is_not_run(asked, monkeypatch):
    asked[1].mkdir(parents=True)
    monkeypatch.setattr(os, "getuid", lambda: 12345)
    loaded, reason = asked[0]()
    assert loaded is None and ("others can write" in reason or "no C compiler" in reason)
