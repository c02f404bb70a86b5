"""Opens any weight file: safetensors, GGUF, an index, or a folder with one."""

from __future__ import annotations

from pathlib import Path

from ...errors import InkstoneError
from ...files.paths import kind_of
from .file_reader import first_bytes
from .gguf import GGUFFile
from .hf_folder import weights_in
from .safetensors import SafetensorsFile, ShardedFiles
from .weight_reader import WeightReader


def open_weights(path: str | Path) -> WeightReader:
    """Opens a .safetensors or GGUF file, an index JSON, or a folder that has one of them.

    The reader is chosen by the suffix, and by the first bytes where the file is not of that format.
    """
    path = Path(path)
    if kind_of(path) == "a folder":
        path = weights_in(path)
    if path.suffix == ".json":
        return ShardedFiles(path)
    by_name: type[GGUFFile | SafetensorsFile]
    by_name = GGUFFile if path.suffix.lower() == ".gguf" else SafetensorsFile
    try:
        return by_name(path)  # a file is opened once where its name is right
    except InkstoneError:
        by_bytes = GGUFFile if _is_gguf(path) else SafetensorsFile
        if by_bytes is by_name:
            raise
        return by_bytes(path)


def _is_gguf(path: Path) -> bool:
    head = first_bytes(path, 16)
    safetensors = head[8:9] == b"{" and not head.startswith(b"GGUF")
    return head.startswith(b"GGUF") or path.suffix.lower() == ".gguf" and not safetensors
