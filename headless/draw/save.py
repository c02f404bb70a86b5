"""Saves a drawing: PNGs that contain the graph and settings behind them, and raw latents.

Values are rounded to 8 bits; ComfyUI's Save Image cuts them, which is at most 1/255 less.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...errors import CallError
from ...files.hashes import model_hash, picture_hash
from ...files.png import ensure_writable, save_png
from ...host.headless import Interrupted
from ...loaders.formats.safetensors import save_safetensors
from ...nodes.load import INT8
from .decide import Drawing
from .drawer import Result
from .png_metadata import graph_chunks
from .request import DrawCall, control_file_of_each

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

DEFAULT = Path("inkstone.png")
_ROWS = 64  # of a picture that are rounded at a time
_IN_PNG = ("models", "loras", "pictures", "mask", "controls")


def check_output(call: DrawCall) -> None:
    """Raises before anything is computed: the name is that of a PNG, the folders are writable."""
    out = call.out or DEFAULT
    if out.suffix.lower() != ".png":
        raise CallError(f"-o {out}: pictures are saved as PNG. Name it {out.with_suffix('.png')}.")
    for folder in {out.parent, (call.save_latent or out).parent}:
        try:
            os.makedirs(folder, exist_ok=True)
        except OSError as error:
            raise CallError(
                f"Cannot make the folder {folder}: {error.strerror}. Choose another."
            ) from None
        ensure_writable(folder)


def save_result(result: Result, stop: threading.Event) -> dict[str, Any]:
    """Writes the pictures (and the latents) of a drawing; returns its facts. Raises Interrupted
    between two pictures once `stop` is set.
    """
    facts = facts_of(result)
    if result.call.save_latent is not None and result.latent is not None:
        latent = {"samples": result.latent.float().contiguous()}
        save_safetensors(result.call.save_latent, latent, {"format": "pt"})
        facts["latent"] = str(result.call.save_latent)
    facts["files"] = [str(path) for path in _save_images(result, facts, stop)]
    return facts


def _save_images(result: Result, facts: dict[str, Any], stop: threading.Event) -> list[Path]:
    """Writes each image with what made it: its call, and a graph that draws it again."""
    call, each = result.call, result.drawing.layers or 1
    about = {name: facts[name] for name in _IN_PNG if name in facts}
    paths = _output_names(call, len(result.images))
    graph: dict[str, str] = {}
    for k, (path, image) in enumerate(zip(paths, result.images)):
        if stop.is_set():
            raise Interrupted("The run was stopped.")
        seed = call.seed + k // each
        drawing = result.drawing_of(k // each)
        if k % each == 0:
            graph = graph_chunks(call, drawing, seed, log_notes=k == 0)
        own = {**facts["call"], "seed": seed, "batch": 1} | about
        if drawing.enhance:
            own["enhanced"] = drawing.enhance.text
        chunks = {"inkstone": json.dumps(own, ensure_ascii=False)} | graph
        save_png(path, _rounded(image), chunks)
    return paths


def _rounded(image: Tensor) -> np.ndarray:
    """[H,W,C] in 0..1 -> 8 bits, some rows at a time: a large picture is not copied whole."""
    import torch

    out = torch.empty(image.shape, dtype=torch.uint8)
    for part, rows in zip(out.split(_ROWS), image.split(_ROWS), strict=True):
        part.copy_((rows * 255).round())
    return out.numpy()


def _output_names(call: DrawCall, count: int) -> list[Path]:
    """The files to write."""
    out = call.out or _free_name(DEFAULT)
    if count == 1:
        return [out]
    return [out.with_name(f"{out.stem}_{k + 1}{out.suffix}") for k in range(count)]


def _free_name(path: Path) -> Path:
    """path, or with the first number that is free: nothing is overwritten unasked."""
    k, free = 1, path
    while free.exists():
        k, free = k + 1, path.with_name(f"{path.stem}_{k}{path.suffix}")
    return free


def facts_of(result: Result) -> dict[str, Any]:
    """The settings of a drawing, its models and files by name and hash, seconds per stage."""
    call, drawing, bundle = result.call, result.drawing, result.models.bundle
    if drawing.upscale is not None or result.latent is None:
        height, width = result.images.shape[1:3]
    else:
        scale = bundle.model.latents.scale
        height, width = (scale * side for side in result.latent.shape[-2:])
    settings: dict[str, Any] = {
        "prompt": call.prompt,
        **_enhanced(result.drawings),
        "negative": drawing.negative if drawing.cfg > 1 else None,
        "size": f"{width}x{height}",
        "steps": drawing.steps,
        "cfg": drawing.cfg,
        "seed": call.seed,
        "batch": call.batch,
        "dtype": INT8
        if bundle.model.network.int8
        else str(bundle.model.dtype).removeprefix("torch."),
    }
    if call.variety:
        settings["variety"] = [option.words() for option in call.variety]
    if drawing.strength < 1:
        settings["strength"] = drawing.strength
    if drawing.upscale is not None:
        settings["upscale"] = drawing.upscale.factor
        settings["upscale_strength"] = drawing.upscale.strength
    for name in ("variant", "layers"):
        if getattr(call, name) is not None:
            settings[name] = getattr(call, name)
    if call.control:
        settings["control_fit"] = call.fit
    parts = (
        ("diffusion_model", bundle.model.path, bundle.model.file.source.path),
        ("text_encoder", result.models.text_encoder.path, result.models.text_encoder.path),
        ("vae", result.models.vae.path, result.models.vae.path),
    )
    models = {name: {"name": path.name, "hash": model_hash(file)} for name, path, file in parts}
    loras = [
        {"name": path.name, "hash": model_hash(path), "strength": strength}
        for path, strength in call.lora
    ]
    facts = {"call": settings, "models": models, "loras": loras, "seconds": result.seconds}
    return facts | _file_facts(call)


def _enhanced(drawings: Sequence[Drawing]) -> dict[str, Any]:
    """The prompt as it was enhanced, or those of all pictures."""
    texts = [drawing.enhance.text for drawing in drawings if drawing.enhance]
    return {"enhanced": texts if len(texts) > 1 else texts[0]} if texts else {}


def _file_facts(call: DrawCall) -> dict[str, Any]:
    """Names and hashes of the images, the mask and the controls of a call."""
    facts: dict[str, Any] = {}
    if call.image:
        facts["pictures"] = [{"name": p.name, "hash": picture_hash(p)} for p in call.image]
    if call.mask is not None:
        facts["mask"] = {"name": call.mask.name, "hash": picture_hash(call.mask)}
    if call.region_masks:
        facts["region_masks"] = [
            {"name": path.name, "hash": picture_hash(path)} for path in call.region_masks
        ]
    if call.control:
        facts["controls"] = [
            {
                "control": option.words(),
                "hash": picture_hash(option.path),
                "model": {"name": path.name, "hash": model_hash(path)},
            }
            for option, path in zip(call.control, control_file_of_each(call))
        ]
    return facts
