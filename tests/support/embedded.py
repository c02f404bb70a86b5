"""The embedded model's text encoder, changed, and prompts that it encoded."""

from __future__ import annotations

import shutil
from functools import cache
from pathlib import Path

import torch

from inkstone.loaders.formats.safetensors import SafetensorsFile, save_safetensors
from inkstone.loaders.models.load import EMBEDDED_FOLDER, load_text_encoder
from inkstone.loaders.models.weight_file import LoadOptions


@cache
def prompts() -> dict[str, torch.Tensor]:
    """Encoded prompts of the halves of CFG."""
    text = load_text_encoder(EMBEDDED_FOLDER, LoadOptions(torch.float32, wait=True))
    words = {"positive": "a red circle on a white background", "negative": ""}
    return {half: text.encode(prompt).states for half, prompt in words.items()}


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
