"""The cache folder on a full disk, with files of others, damaged and partial ones."""

from __future__ import annotations

import os
import shutil
import time
from collections import namedtuple
from pathlib import Path

import pytest
import torch
from PIL import Image

from inkstone.errors import InkstoneError
from inkstone.loaders.models.load import (
    EMBEDDED_FOLDER,
    load_diffusion_model,
    load_text_encoder,
    load_vae,
)
from inkstone.loaders.models.weight_file import LoadOptions
from inkstone.training.dataset import cache as cached
from inkstone.training.dataset.arrange import CacheSettings, arrange
from inkstone.training.dataset.cache import Encoders, prepare
from inkstone.training.dataset.read import read

OPTIONS = LoadOptions(torch.float32, wait=True)
Usage = namedtuple("Usage", "total used free")


@pytest.fixture
def make(tmp_path):
    """Prepares the cache of two pictures in the folder "room"."""
    data = tmp_path / "data"
    data.mkdir()
    for name in ("red", "blue"):
        Image.new("RGB", (64, 64), name).save(data / f"{name}.png")
        (data / f"{name}.txt").write_text(f"a {name} circle")
    model = load_diffusion_model(EMBEDDED_FOLDER, OPTIONS)
    encoders = Encoders(
        lambda: load_text_encoder(EMBEDDED_FOLDER, OPTIONS),
        lambda: load_vae(EMBEDDED_FOLDER, OPTIONS),
    )
    return lambda: prepare(arrange(read(data), model, CacheSettings(64)), encoders, room(tmp_path))


def room(tmp_path: Path) -> Path:
    return tmp_path / "room"


def test_files_of_others_and_old_ones_do_not_count_as_encoded(make, tmp_path, monkeypatch):
    room(tmp_path).mkdir()
    for name in ("old", f"picture-{'a' * 32}"):
        (room(tmp_path) / f"{name}.safetensors").write_bytes(bytes(10_000_000))
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(10**6, 10**6, 1000))
    with pytest.raises(InkstoneError, match=r"take about 0\.00 GB, and .* has 0\.00 GB free"):
        make()


def test_only_what_is_missing_needs_room(make, tmp_path, monkeypatch):
    """A damaged file is written again: it is none of those that are there."""
    entry = make().entries[0]
    need = entry.pictures.nbytes
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(10**6, 10**6, need // 2))
    make()
    entry.pictures.path.write_bytes(bytes(need))
    monkeypatch.setattr(cached, "expected", lambda *_: need + sum_of_others(entry, tmp_path))
    with pytest.raises(InkstoneError, match=r"of which 0\.00 GB are there, and .* Free 0\.00 GB"):
        make()
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(10**6, 10**6, need))
    make()


def sum_of_others(entry, tmp_path: Path) -> int:
    files = room(tmp_path).glob("*.safetensors")
    return sum(path.stat().st_size for path in files if path != entry.pictures.path)


@pytest.mark.parametrize("damage", [lambda data: data[:-3], lambda data: b"", lambda data: b"xy"])
def test_a_damaged_file_is_not_to_be_downloaded(make, tmp_path, caplog, damage):
    cache = make()
    path = cache.entries[0].pictures.path
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(InkstoneError, match=r"same command again: it encodes") as fault:
        cache.example(0)
    make()
    assert f"{path.name} is damaged and is made again: " in caplog.text
    assert "ownload" not in caplog.text + str(fault.value)


def test_what_a_kill_left_is_removed_and_nothing_else(make, tmp_path):
    room(tmp_path).mkdir()
    old = [f".{kind}-{'0f' * 16}.0123abcd.tmp" for kind in ("picture", "text", "sample")]
    others = [".mine.0123abcd.tmp", "picture.tmp", ".lock"]
    new = f".picture-{'0f' * 16}.00000000.tmp"
    for name in (*old, *others, new):
        (room(tmp_path) / name).write_bytes(b"half")
    ago = time.time() - 2
    for name in (*old, *others):
        os.utime(room(tmp_path) / name, (ago, ago))
    later = time.time() + 3600  # another process writes it now
    os.utime(room(tmp_path) / new, (later, later))
    make()
    left = {path.name for path in room(tmp_path).iterdir() if path.suffix != ".safetensors"}
    assert left == {*others, new}


def test_the_name_of_a_partial_file_is_known(make, tmp_path, monkeypatch):
    """What a kill leaves has the name that is looked for."""

    def die(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", die)
    monkeypatch.setattr(Path, "unlink", lambda *_, **__: None)  # as where nobody cleans up
    with pytest.raises(KeyboardInterrupt):
        make()
    monkeypatch.undo()
    (partial,) = room(tmp_path).glob(".*")
    os.utime(partial, (1, 1))
    make()
    assert not partial.exists()
