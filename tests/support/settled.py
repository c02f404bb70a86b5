"""Shipped graphs made small: few steps, tiny random files in place of the downloads they name."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch

from inkstone.loaders.formats.safetensors import save_safetensors
from inkstone.nodes.canvas import CUSTOM
from inkstone.sampling.step_cache_choices import FEWEST_STEPS

from .answers import scripted

Api = dict[str, dict[str, Any]]
STEPS = 3
FINDING, BOX = "finding", '[{"bbox_2d": [8, 9, 40, 30], "label": "thing"}]'
FILES = {"model", "text_encoder", "vae"}


class Tiny(NamedTuple):
    """The fixtures tiny_folder and tiny_control."""

    folder: Callable[[str], str]
    control: Callable[[str], str]


def settled(graph: Api, name: str, models: Path, tiny: Tiny) -> Api:
    """The shipped API graph with few steps, and tiny files below `models` where it names downloads;
    `name` is that of the graph's file. Nothing else changes.
    """
    graph = json.loads(json.dumps(graph))
    nodes = list(graph.values())
    variant = next((n["inputs"]["variant"] for n in nodes if "variant" in n["inputs"]), "auto")
    embedded = "embedded" in name
    caches = any(node["class_type"] == "InkstoneStepCache" for node in nodes)
    kind = "layered" if name == "layered" else "qwen-image" if variant == "auto" else variant
    for node in nodes:
        values, wanted = node["inputs"], node["class_type"].removeprefix("Inkstone")
        if wanted == "Denoise":
            values["steps"] = FEWEST_STEPS if caches else STEPS
        if embedded:
            continue
        if wanted.startswith("Load") and FILES & values.keys():
            if not (models / "diffusers" / kind).exists():
                shutil.copytree(tiny.folder(kind), models / "diffusers" / kind)
            values |= dict.fromkeys(FILES & values.keys(), kind)
        if wanted == "LoadControlNet":
            values["control"] = placed(Path(tiny.control(name)), models / "controlnet")
        if wanted == "LoraLoader":
            values["lora_1"] = lora(models / "loras")
        if wanted == "EmptyLatent":
            values |= {"size": CUSTOM, "width": 96, "height": 64}
    if not embedded and any(node["class_type"] == "InkstoneFindInPicture" for node in nodes):
        finding = models / "diffusers" / FINDING
        if not finding.exists():
            shutil.copytree(tiny.folder(kind), finding)
            scripted(finding, BOX)
        for node in nodes:
            if node["class_type"] == "InkstoneLoadTextEncoder":
                node["inputs"]["text_encoder"] = FINDING
    return graph


def placed(made: Path, folder: Path) -> str:
    """The name of the file, or of the one in the folder, where the host lists it."""
    place = folder / made.name
    if not place.exists():
        folder.mkdir(parents=True, exist_ok=True)
        (shutil.copy if made.is_file() else shutil.copytree)(made, place)
    return made.name if made.is_file() else f"{made.name}/{next(made.glob('*.safetensors')).name}"


def lora(folder: Path) -> str:
    """A small LoRA of the tiny model."""
    g, name = torch.Generator().manual_seed(1), "transformer_blocks.0.attn.to_q"
    state = {
        f"{name}.lora_A.weight": torch.randn(2, 32, generator=g),
        f"{name}.lora_B.weight": torch.randn(32, 2, generator=g),
    }
    folder.mkdir(exist_ok=True)
    save_safetensors(folder / "tiny.safetensors", state, {})
    return "tiny.safetensors"
