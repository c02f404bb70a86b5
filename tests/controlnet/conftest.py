"""The embedded model, and controls with random weights for it."""

from __future__ import annotations

import pytest
import torch

from inkstone.loaders.models.control import load_control
from inkstone.loaders.models.load import load_all
from inkstone.loaders.models.weight_file import LoadOptions

from ..support.controls import embedded_control


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "controlnet"
    folder.mkdir()
    return {
        "union": embedded_control(folder / "union.safetensors", 2),
        "inpainting": embedded_control(folder / "inpainting.safetensors", 3, 68, seed=2),
        "wide": embedded_control(folder / "wide.safetensors", 1, heads=6),
        "72": embedded_control(folder / "more.safetensors", 1, 72),
    }


@pytest.fixture(scope="module")
def bundle():
    return load_all(None, LoadOptions(torch.float32))


@pytest.fixture(scope="module")
def union(files):
    return load_control(files["union"])


@pytest.fixture(scope="module")
def inpainting(files):
    return load_control(files["inpainting"])
