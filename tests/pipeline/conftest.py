"""Models of every edit variant and a small source of quantizations, built once a module."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from inkstone.loaders.formats.safetensors import save_safetensors
from inkstone.loaders.models.load import load_diffusion_model
from inkstone.loaders.models.weight_file import LoadOptions
from inkstone.pipeline.quantize import quantize
from inkstone.pipeline.quantize_request import QuantizeCall

from ..support.edits import build
from ..support.quantizing import quiet, tensors


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = {}

    def get(kind: str):
        if kind not in made:
            torch.manual_seed(12)
            place = tmp_path_factory.mktemp(kind) / "model"
            made[kind] = build(kind, place, "heads as published").folder
        return made[kind]

    return get


@pytest.fixture(scope="module")
def model(folder):
    made = {}

    def get(kind: str):
        if kind not in made:
            made[kind] = load_diffusion_model(folder(kind), LoadOptions(torch.float32))
        return made[kind]

    return get


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("source") / "small.safetensors"
    save_safetensors(path, tensors())
    return path


@pytest.fixture(scope="module")
def q4(source, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("q4") / "small.gguf"
    facts = quantize(QuantizeCall(source, out, "Q4_K_M"), quiet)
    assert facts["bytes"] == out.stat().st_size
    return out
