"""Latents, texts and sizes of the tests of edit variants, and a transformer as a single file."""

from __future__ import annotations

import torch

from inkstone.loaders.formats.open import open_weights
from inkstone.loaders.formats.safetensors import save_safetensors
from inkstone.loaders.models.weight_file import LoadOptions
from inkstone.sampling.schedule import LINEAR, sigmas

SIZE = (80, 48)
LEVELS = sigmas(LINEAR, 2, 15)
WAITING = LoadOptions(torch.float32, wait=True)


def latent(width: int = 80, height: int = 48, batch: int = 1, seed: int = 0) -> torch.Tensor:
    g = torch.Generator().manual_seed(seed)
    return torch.randn(batch, 16, 1, height // 8, width // 8, generator=g)


def text(tokens: int = 7, seed: int = 0) -> torch.Tensor:
    return torch.randn(1, tokens, 256, generator=torch.Generator().manual_seed(seed))


def single(folder, place, metadata=None, extra=None):
    """The transformer of a folder as a file of its own."""
    path = folder / "transformer" / "diffusion_pytorch_model.safetensors"
    with open_weights(path) as file:
        tensors = {n: file.read(n).clone() for n in file.entries} | (extra or {})
    save_safetensors(place / "one.safetensors", tensors, metadata)
    return place / "one.safetensors"
