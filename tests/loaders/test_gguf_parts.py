"""GGUF models in several files: read as one, or refused."""

from pathlib import Path

import pytest

from inkstone.errors import InkstoneError
from inkstone.loaders.formats.gguf import GGUFFile
from inkstone.loaders.formats.open import open_weights
from inkstone.quant.gguf_types import BY_NAME

from ..quant.test_gguf_blocks import ISSUE
from ..support.gguf_files import every_type


def parts_of(folder: Path) -> list[Path]:
    every_type(folder / "m.gguf", split_max_tensors=7)
    return sorted(folder.glob("m-*.gguf"))


def test_parts_are_one_file(tmp_path):
    names = [path.name for path in parts_of(tmp_path)]
    assert names == [f"m-0000{n}-of-00003.gguf" for n in (1, 2, 3)]
    matrices = every_type(tmp_path / "whole.gguf")
    for name in names:
        with open_weights(tmp_path / name) as file:
            assert list(file.entries) == ISSUE
            assert file.metadata["general.architecture"] == "qwen_image"
            for tensor, raw in matrices.items():
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
