"""The embedded model's text encoder, changed."""

from __future__ import annotations

import shutil
from pathlib import Path

from inkstone.loaders.formats.safetensors import SafetensorsFile, save_safetensors
from inkstone.loaders.models.load import EMBEDDED_FOLDER


def without_head(folder: Path) -> Path:
    """A copy that cannot answer: its output head was left out, as in files for drawing only."""
    out = folder / "mute"
    shutil.copytree(EMBEDDED_FOLDER / "text_encoder", out / "text_encoder")
    shutil.copytree(EMBEDDED_FOLDER / "tokenizer", out / "tokenizer")
    path = out / "text_encoder" / "model.safetensors"
    with SafetensorsFile(path) as file:
        tensors = {name: file.read(name) for name in file.entries if "lm_head" not in name}
        metadata = dict(file.metadata)
    save_safetensors(path, tensors, metadata)
    return out
