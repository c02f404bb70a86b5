"""A quantization that is killed resumes and gives the same bytes; other files are left."""

from __future__ import annotations

import logging
import os
import random
import signal
from dataclasses import replace

import pytest
import torch

from inkstone.errors import InkstoneError
from inkstone.files import resumable
from inkstone.files.resumable import PartialFile
from inkstone.loaders.formats.gguf import GGUFFile
from inkstone.loaders.formats.safetensors import save_safetensors
from inkstone.pipeline import piece_encoder
from inkstone.pipeline.quantize import quantize
from inkstone.pipeline.quantize_request import QuantizeCall
from inkstone.quant.gguf_quantizer import quantize_rows
from inkstone.quant.gguf_types import BY_NAME

from ..support.quantizing import Q, forked, left, quiet, tensors

gguf = pytest.importorskip("gguf")
resource = pytest.importorskip("resource")  # and with it fork and kill


def dying(call: QuantizeCall, writes: int) -> None:
    """In a child: killed in the middle of a write, after so many others."""
    write, count = PartialFile.write, 0

    def half(self: PartialFile, at: int, data: memoryview) -> None:
        nonlocal count
        count += 1
        if count == writes:
            write(self, at, data[: len(data) // 2])
            os.kill(os.getpid(), signal.SIGKILL)
        write(self, at, data)

    PartialFile.write = half
    quantize(call, quiet)


@pytest.mark.slow
def test_killed_at_any_moment_it_goes_on_and_gives_the_same_bytes(
    source, q4, tmp_path, monkeypatch, caplog
):
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(resumable, "_SYNC_SECONDS", 0.0)
    monkeypatch.setattr(piece_encoder, "CHUNK", 1 << 14)  # several writes to a tensor
    call, dice, seen = QuantizeCall(source, tmp_path / "x.gguf", "Q4_K_M"), random.Random(7), []
    for _ in range(6):
        writes = dice.randint(1, 60)
        child = forked(lambda: dying(call, writes))  # noqa: B023
        status = os.waitpid(child, 0)[1]
        assert os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
        assert not call.out.exists(), "never half a file under its name"
        seen.append(len((tmp_path / ".x.gguf.part.journal").read_text().split()))
    assert sorted(seen) == seen and len(set(seen)) > 3, f"every run goes on: {seen}"
    quantize(call, quiet)
    assert "resuming after tensor" in caplog.text
    assert call.out.read_bytes() == q4.read_bytes()
    assert left(tmp_path) == ["x.gguf"]


class Stop(Exception):
    """In place of a kill."""


def stopped(call: QuantizeCall, after: int) -> None:
    """Leaves a partial file after so many tensors."""

    def stop(value: int, total: int) -> None:
        if value == after:
            raise Stop

    with pytest.raises(Stop):
        quantize(call, stop)


@pytest.mark.slow
def test_what_is_left_of_something_else_is_not_used(source, q4, tmp_path, monkeypatch, caplog):
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(resumable, "_SYNC_SECONDS", 0.0)
    call = QuantizeCall(source, tmp_path / "x.gguf", "Q4_K_M")
    other = tmp_path / "other.safetensors"
    save_safetensors(other, {n: t * 2 for n, t in tensors().items()})
    for before in (replace(call, type="Q4_K_S"), replace(call, source=other)):
        stopped(before, 50)
        quantize(call, quiet)
        assert call.out.read_bytes() == q4.read_bytes()
    assert "starting over" in caplog.text and "going on" not in caplog.text
    stopped(call, 50)
    quantize(call, quiet)
    assert "resuming after tensor 50" in caplog.text
    assert call.out.read_bytes() == q4.read_bytes()


@pytest.mark.slow
def test_a_source_that_changed_is_begun_again(tmp_path, monkeypatch, caplog):
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(resumable, "_SYNC_SECONDS", 0.0)
    path = tmp_path / "s.safetensors"
    save_safetensors(path, tensors())
    call = QuantizeCall(path, tmp_path / "x.gguf", "Q8_0")
    stopped(call, 40)
    save_safetensors(path, {n: -t for n, t in tensors().items()})
    quantize(call, quiet)
    assert "going on" not in caplog.text
    with GGUFFile(call.out) as file:
        assert torch.equal(
            file.raw(Q).view(-1), quantize_rows(-tensors()[Q], BY_NAME["Q8_0"]).view(-1)
        )


def test_two_runs_of_one_file_are_kept_apart(tmp_path):
    with PartialFile(tmp_path / "x", 100, {}):
        with pytest.raises(InkstoneError, match="another run"):
            PartialFile(tmp_path / "x", 100, {}).__enter__()


def test_a_lock_file_that_is_left_blocks_nobody(tmp_path):
    (tmp_path / ".x.part.lock").touch()
    with PartialFile(tmp_path / "x", 100, {}) as file:
        file.complete()
    assert left(tmp_path) == ["x"]


@pytest.mark.parametrize("name", [".x.part", ".x.part.lock"])
@pytest.mark.parametrize("again", [False, True])
def test_a_partial_file_or_lock_that_is_taken_away_ends_the_run(name, again, tmp_path):
    """Its name leads nowhere, or to another run's file, which is neither renamed nor deleted."""
    with pytest.raises(InkstoneError, match="removed or replaced while"):
        with PartialFile(tmp_path / "x", 100, {}) as file:
            (tmp_path / name).unlink()
            if again:
                (tmp_path / name).write_text("another's")
            file.complete()
    assert not (tmp_path / "x").exists()
    assert not again or (tmp_path / name).read_text() == "another's"
