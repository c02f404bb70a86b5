"""Safetensors in several files behind an index, and folders: read as one file, or refused."""

import json
from pathlib import Path

import pytest
import torch

from inkstone.errors import InkstoneError
from inkstone.loaders.formats.open import open_weights
from inkstone.loaders.formats.safetensors import ShardedFiles, save_safetensors

SHARDS = ("m-00001-of-00002.safetensors", "m-00002-of-00002.safetensors")


def _shards(folder: Path, **weight_map: str) -> Path:
    for i, name in enumerate(SHARDS):
        save_safetensors(folder / name, {f"w{i}": torch.full((2,), float(i))}, {f"k{i}": "v"})
    shard_of = {"w0": SHARDS[0], "w1": SHARDS[1], **weight_map}
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {"total_size": 16.0}, "weight_map": shard_of}))
    return index


def test_shards_read_as_one_file(tmp_path: Path):
    index = _shards(tmp_path)
    for path in (index, tmp_path):
        with open_weights(path) as weights:
            assert isinstance(weights, ShardedFiles) and list(weights.entries) == ["w0", "w1"]
            assert weights.read("w1").tolist() == [1.0, 1.0]
            assert weights.metadata == {"k0": "v", "k1": "v"}
            with pytest.raises(InkstoneError, match="no tensor"):
                weights.read("w2")


@pytest.mark.parametrize(
    ("weight_map", "match"),
    [
        ({"w2": SHARDS[0]}, "disagree on 1 tensors \\('w2'\\).*Download index and shards together"),
        ({"w1": SHARDS[0]}, "disagree"),
        ({"w2": "gone.safetensors"}, "shard gone.safetensors is missing.*same folder"),
        ({"w2": "../secret.safetensors"}, "leaves the folder"),
        ({"w2": "/etc/passwd"}, "leaves the folder"),
        ({"w2": 3}, "should contain file names"),
    ],
)
def test_index_and_shards_must_agree(tmp_path: Path, weight_map: dict, match: str):
    with pytest.raises(InkstoneError, match=match):
        ShardedFiles(_shards(tmp_path, **weight_map))


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("", "not JSON"),
        ("{}", "expected a weight_map with a shard name"),
        ('{"weight_map": []}', "expected a weight_map with a shard name"),
        ("[1]", "JSON object, got list"),
        ("\udcff", "not UTF-8"),
    ],
)
def test_bad_index(tmp_path: Path, text: str, match: str):
    index = tmp_path / "model.safetensors.index.json"
    index.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(InkstoneError, match=match) as caught:
        open_weights(index)
    assert str(index) in str(caught.value)


def test_folders(tmp_path: Path):
    with pytest.raises(InkstoneError, match="has no weight file"):
        open_weights(tmp_path)
    (tmp_path / "vae").mkdir()
    with pytest.raises(InkstoneError, match=r"one of its folders \(vae\)"):
        open_weights(tmp_path)
    save_safetensors(tmp_path / "x.safetensors", {"x": torch.zeros(1)})
    assert set(open_weights(tmp_path).entries) == {"x"}
    save_safetensors(tmp_path / "y.safetensors", {"y": torch.zeros(1)})
    with pytest.raises(
        InkstoneError, match=r"2 candidates: x.safetensors, y.safetensors. Name one"
    ):
        open_weights(tmp_path)
    save_safetensors(tmp_path / "model.safetensors", {"m": torch.zeros(1)})
    assert set(open_weights(tmp_path).entries) == {"m"}
