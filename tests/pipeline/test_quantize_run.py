"""`inkstone quantize` as a whole: sources of every layout, refusals, memory, the node."""

from __future__ import annotations

import json
import logging
import os
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from inkstone.errors import CallError, InkstoneError
from inkstone.files import resumable
from inkstone.host.headless import HeadlessHost, using
from inkstone.kernels.configs import MMDiTConfig
from inkstone.loaders.arch.expected_tensors import mmdit_layout
from inkstone.loaders.formats.gguf import GGUFFile
from inkstone.loaders.formats.open import open_weights
from inkstone.loaders.formats.safetensors import SafetensorsFile, save_safetensors
from inkstone.loaders.models.load import EMBEDDED_FOLDER
from inkstone.nodes.quantize import Quantize
from inkstone.pipeline import piece_encoder
from inkstone.pipeline.quantize import quantize
from inkstone.pipeline.quantize_layout import suffix_of
from inkstone.pipeline.quantize_request import QuantizeCall
from inkstone.quant.gguf_quantizer import quantize_rows
from inkstone.quant.gguf_types import BY_NAME

from ..support.quantizing import Q, forked, left, quiet, tensors

gguf = pytest.importorskip("gguf")
resource = pytest.importorskip("resource")  # and with it fork and kill


@pytest.mark.slow
def test_values_and_names_by_the_package(source, q4):
    reader = gguf.GGUFReader(q4)
    assert reader.fields["general.architecture"].contents() == "qwen_image"
    assert reader.fields["general.file_type"].contents() == 15
    weights = tensors()
    assert {t.name for t in reader.tensors} == set(weights)
    kinds = set()
    with GGUFFile(q4) as ours:
        for t in reader.tensors:
            plain, kind = weights[t.name].float(), BY_NAME[t.tensor_type.name]
            kinds.add(kind.name)
            found = gguf.dequantize(t.data, t.tensor_type).reshape(plain.shape)
            assert np.array_equal(found, ours.read(t.name, dtype=torch.float32).numpy()), t.name
            if plain.dim() == 2:
                wanted = quantize_rows(plain, kind).numpy().reshape(-1)
                assert np.array_equal(t.data.reshape(-1).view(np.uint8), wanted), t.name
            else:
                assert kind.name == "F32" and np.array_equal(found, plain.numpy()), t.name
    assert kinds == {"F32", "BF16", "Q4_K", "Q5_K", "Q6_K"}


@pytest.mark.slow
def test_threads_change_no_byte(source, q4, tmp_path):
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        quantize(QuantizeCall(source, tmp_path / "x.gguf", "q4_k_m"), quiet)
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)
    assert (tmp_path / "x.gguf").read_bytes() == q4.read_bytes()
    assert left(tmp_path) == ["x.gguf"]


@pytest.mark.slow
def test_prefix_and_mark_and_shards(q4, tmp_path):
    weights, start = tensors(), "model.diffusion_model."
    marked = {start + n: t for n, t in weights.items()}
    marked[start + "__index_timestep_zero__"] = torch.zeros(0)
    save_safetensors(tmp_path / "one.safetensors", marked)
    quantize(QuantizeCall(tmp_path / "one.safetensors", tmp_path / "one.gguf", "Q4_K_M"), quiet)
    with GGUFFile(tmp_path / "one.gguf") as one, GGUFFile(q4) as plain:
        assert one.entries["__index_timestep_zero__"].shape == (0,)
        assert all(torch.equal(one.raw(n), plain.raw(n)) for n in weights)
    folder = tmp_path / "shards"
    folder.mkdir()
    names, where = list(weights), {}
    for number, part in enumerate((names[::2], names[1::2]), 1):
        file = f"diffusion_pytorch_model-0000{number}-of-00002.safetensors"
        save_safetensors(folder / file, {n: weights[n] for n in part})
        where |= dict.fromkeys(part, file)
    index = {"metadata": {}, "weight_map": where}
    (folder / "diffusion_pytorch_model.safetensors.index.json").write_text(json.dumps(index))
    quantize(QuantizeCall(folder, tmp_path / "two.gguf", "Q4_K_M"), quiet)
    with GGUFFile(tmp_path / "two.gguf") as two, GGUFFile(q4) as plain:
        assert all(torch.equal(two.raw(n), plain.raw(n)) for n in weights)


def test_from_gguf(q4, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    quantize(QuantizeCall(q4, tmp_path / "same.gguf", "Q4_K_M"), quiet)
    assert (tmp_path / "same.gguf").read_bytes() == q4.read_bytes(), "blocks are copied"
    assert "does not come back" not in caplog.text
    quantize(QuantizeCall(q4, tmp_path / "up.gguf", "Q8_0"), quiet)
    assert re.search(r"\d+ weights are Q4_K in the source and become Q8_0", caplog.text)
    with GGUFFile(tmp_path / "up.gguf") as up, GGUFFile(q4) as low:
        wanted = quantize_rows(low.read(Q), BY_NAME["Q8_0"])
        assert torch.equal(up.raw(Q).view(-1), wanted.view(-1))


def test_fp8_with_scales(source, tmp_path):
    out = tmp_path / "x.safetensors"
    facts = quantize(QuantizeCall(source, out, "fp8_scaled"), quiet)
    assert facts["tensors"] == {"bfloat16": len(tensors()) - 42, "float8_e4m3fn": 42}
    with SafetensorsFile(out) as file:
        assert file.entries["scaled_fp8"].dtype == torch.float8_e4m3fn
        for name, plain in tensors().items():
            if not name.startswith("transformer_blocks.") or plain.dim() < 2:
                assert torch.equal(file.read(name), plain), name
                continue
            scale = file.read(name.removesuffix("weight") + "scale_weight")
            assert scale.shape == () and scale == plain.float().abs().max() / 448
            found = file.read(name).float() * scale
            error = float((found - plain.float()).norm() / plain.float().norm())
            assert error < 0.028, f"{name}: {error}"


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["Q8_0", "BF16", "Q4_K_M", "fp8_scaled"])
def test_our_own_fp8_file_is_a_source(kind, source, tmp_path):
    """Its mark `scaled_fp8` says how it is stored and is not copied: GGUF has no empty tensors."""
    fp8, out = tmp_path / "x.safetensors", tmp_path / ("y" + suffix_of(kind))
    quantize(QuantizeCall(source, fp8, "fp8_scaled"), quiet)
    quantize(QuantizeCall(fp8, out, kind), quiet)
    with open_weights(out) as file, open_weights(fp8) as before:
        assert ("scaled_fp8" in file.entries) == (kind == "fp8_scaled")
        if kind == "fp8_scaled":
            assert file.entries["scaled_fp8"].dtype == torch.float8_e4m3fn
            assert torch.equal(file.read(Q), before.read(Q))
        if kind == "BF16":
            scale = before.read(Q.removesuffix("weight") + "scale_weight")
            want = (before.read(Q).float() * scale).bfloat16()
            assert torch.equal(file.read(Q).bfloat16(), want)


def test_a_source_that_changes_while_it_is_read_is_refused(source, tmp_path, monkeypatch):
    copy = tmp_path / "source.safetensors"
    copy.write_bytes(source.read_bytes())
    read, count = SafetensorsFile.read, []

    def read_and_overwrite(self, *args, **more):
        count.append(1)
        if len(count) == 5:
            later = copy.stat().st_mtime_ns + 10**9
            os.utime(copy, ns=(later, later))
        return read(self, *args, **more)

    monkeypatch.setattr(SafetensorsFile, "read", read_and_overwrite)
    with pytest.raises(InkstoneError, match="source.safetensors: it was changed on disk"):
        quantize(QuantizeCall(copy, tmp_path / "x.gguf", "Q8_0"), quiet)
    assert not (tmp_path / "x.gguf").exists()


# --- refusals


def test_too_little_room_is_said_before_the_work(source, tmp_path, monkeypatch):
    monkeypatch.setattr(resumable.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 1000}))
    with pytest.raises(InkstoneError, match="GB are free.*smaller type"):
        quantize(QuantizeCall(source, tmp_path / "x.gguf", "Q8_0"), quiet)
    assert left(tmp_path) == []


@pytest.mark.parametrize(
    "value, words",
    [
        (float("nan"), "not a finite number"),
        (-float("inf"), "not a finite number"),
        (1e6, "more than 65504"),
    ],
)
def test_numbers_that_cannot_be_stored(value, words, tmp_path):
    weights = tensors()
    weights[Q][200, 17] = value
    path = tmp_path / "bad.safetensors"
    save_safetensors(path, weights)
    with pytest.raises(InkstoneError, match=f"{re.escape(Q)}.* row 200, column 17.*{words}"):
        quantize(QuantizeCall(path, tmp_path / "x.gguf", "Q4_K_M"), quiet)
    assert left(tmp_path) == ["bad.safetensors"]


def test_wrong_calls(source, q4, tmp_path):
    call = QuantizeCall(source, tmp_path / "x.gguf", "Q4_K_M")
    cases = [
        (replace(call, out=source), "is written as .gguf"),
        (replace(call, source=q4, out=q4), "model that is read"),
        (replace(call, type="Q9"), "Q9.*expected one of Q2_K.*fp8_scaled"),
        (replace(call, out=tmp_path / "none" / "x.gguf"), "folder that exists"),
        (replace(call, source=tmp_path / "none"), "no such file"),
        (replace(call, imatrix=source, prompts=source), "give one of them"),
    ]
    for case, words in cases:
        with pytest.raises(CallError, match=words):
            quantize(case, quiet)
    with pytest.raises(InkstoneError, match="expected a diffusion model"):
        quantize(replace(call, source=EMBEDDED_FOLDER / "vae"), quiet)
    assert left(tmp_path) == []


# --- memory


def peak_of(run) -> int:
    """Bytes by which a child's memory grew at most."""
    read, write = os.pipe()

    def measured() -> None:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        run()
        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        os.write(write, str(most - pages * resource.getpagesize()).encode())

    status = os.waitpid(forked(measured), 0)[1]
    os.close(write)
    assert status == 0
    with os.fdopen(read) as answer:
        return int(answer.read())


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads /proc")
def test_peak_memory_is_one_tensor_and_chunks(tmp_path):
    config = MMDiTConfig(layers=2, heads=8, head_dim=128, joint=512, ff=4096)
    path = tmp_path / "big.safetensors"
    weights = {n: torch.zeros(s, dtype=torch.bfloat16) for n, s in mmdit_layout(config).items()}
    save_safetensors(path, weights)
    largest = max(t.numel() * 2 for t in weights.values())
    del weights
    size = path.stat().st_size
    peak = peak_of(lambda: quantize(QuantizeCall(path, tmp_path / "x.gguf", "Q8_0"), quiet))
    limit = largest + 40 * piece_encoder.CHUNK
    assert limit < size / 2
    assert peak < limit, f"peak {peak / 1e6:.0f} MB, largest tensor {largest / 1e6:.0f} MB"


# --- the node


@pytest.mark.slow
def test_the_node(source, q4, tmp_path):
    folder = tmp_path / "models" / "diffusion_models"
    folder.mkdir(parents=True)
    (folder / "small.safetensors").write_bytes(source.read_bytes())
    told = []
    host = HeadlessHost(models=(tmp_path / "models",), on_progress=lambda *a: told.append(a))
    with using(host):
        result = Quantize.execute("small.safetensors", "Q4_K_M", "mine.gguf").result
        assert result == ("mine.gguf",)  # what loaders list, not where it lies
        for name in ("", "../x", "a/b", ".x", "C:x"):
            with pytest.raises(InkstoneError, match="is not a file name"):
                Quantize.execute("small.safetensors", "Q4_K_M", name)
        with pytest.raises(InkstoneError, match="mine.gguf exists already"):
            Quantize.execute("mine.gguf", "Q4_K_M", "mine")
    assert (folder / "mine.gguf").read_bytes() == q4.read_bytes()
    assert told[-1][0] == told[-1][1] == len(tensors())
