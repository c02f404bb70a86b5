"""A tiny model of Qwen-Image-2.1: diffusers' pipeline, and the same weights as a folder."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import torch

from inkstone.kernels.configs import SingleStreamConfig
from inkstone.loaders.models.bundle import Bundle
from inkstone.loaders.models.load import load_all
from inkstone.loaders.models.weight_file import LoadOptions

from . import tiny
from .oracle import fill, library
from .single_stream import reference_network
from .vision_deep import TEXT, Processor3, random_qwen3

CONFIG = SingleStreamConfig(
    layers=3, heads=2, head_dim=16, channels=64, joint=TEXT.width, ff=96, axes=(4, 6, 6)
)


def pipeline(seed: int = 0):
    """diffusers' pipeline with random weights."""
    diffusers = library("diffusers")
    torch.manual_seed(seed)
    g = torch.Generator().manual_seed(seed + 1)
    numbers = (torch.randn(64, generator=g) * 0.3, torch.rand(64, generator=g) + 0.5)
    vae = diffusers.AutoencoderKLQwenImage21(
        base_dim=8,
        decoder_base_dim=12,
        z_dim=64,
        latents_mean=numbers[0].tolist(),
        latents_std=numbers[1].tolist(),
    )
    return diffusers.QwenImage21Pipeline(
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(**tiny.SCHEDULER),
        vae=fill(vae),
        text_encoder=random_qwen3(),
        processor=Processor3(),
        transformer=reference_network(CONFIG, seed),
    )


def save(pipe, folder: Path) -> Path:
    """The pipeline as the publisher's folder."""
    for name in ("transformer", "vae", "text_encoder", "scheduler"):
        getattr(pipe, name).save_pretrained(folder / name)
    pipe.processor.tokenizer.save_pretrained(folder / "tokenizer")
    index = {"_class_name": "QwenImage21Pipeline"}
    (folder / "model_index.json").write_text(json.dumps(index))
    return folder


def load(folder: Path, drop: int) -> Bundle:
    """The models of a folder in float32, with the head cut where the toy vocabulary ends it."""
    bundle = load_all(folder, LoadOptions(torch.float32))
    text, model = bundle.text_encoder, bundle.model
    edits = tuple(replace(edit, drop=drop) for edit in model.family.edits)
    family = replace(text.family, drop=drop, edits=edits)
    return Bundle(replace(model, family=family), replace(text, family=family), bundle.vae)
