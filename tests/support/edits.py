"""Tiny models of every variant, as folders, and diffusers' edit pipelines on the same weights.

The references are corrected where they are wrong with the current transformers (token types, see
tests/support/vision.py), kept small (their areas are constants of 1 megapixel), and take the
mean of what their VAE encodes where they would draw a sample.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from inkstone.loaders.arch.family import EditTemplate
from inkstone.loaders.models.bundle import Bundle
from inkstone.sampling.vision_sizes import area_size

from . import tiny
from .oracle import fill
from .vision import Processor, with_types

AREA = 96 * 96  # of the copies that the VAE sees
SEEN = 64 * 64  # of those that the vision tower sees in edit-plus
LINEAR = dict(tiny.SCHEDULER, time_shift_type="linear", shift_terminal=None)
# kind -> (pipeline class, its module, options of the transformer, channels of the VAE, scheduler)
KINDS = {
    "qwen-image": ("QwenImagePipeline", "", {}, 3, tiny.SCHEDULER),
    "img2img": ("QwenImageImg2ImgPipeline", "img2img", {}, 3, tiny.SCHEDULER),
    "inpaint": ("QwenImageInpaintPipeline", "inpaint", {}, 3, tiny.SCHEDULER),
    "edit": ("QwenImageEditPipeline", "edit", {}, 3, tiny.SCHEDULER),
    "edit-inpaint": ("QwenImageEditInpaintPipeline", "edit_inpaint", {}, 3, tiny.SCHEDULER),
    "edit-2509": ("QwenImageEditPlusPipeline", "edit_plus", {}, 3, tiny.SCHEDULER),
    "edit-2511": (
        "QwenImageEditPlusPipeline",
        "edit_plus",
        dict(zero_cond_t=True),
        3,
        tiny.SCHEDULER,
    ),
    "layered": (
        "QwenImageLayeredPipeline",
        "layered",
        dict(use_additional_t_cond=True, use_layer3d_rope=True),
        4,
        LINEAR,
    ),
}


@dataclasses.dataclass(frozen=True)
class Pair:
    """A reference pipeline and the same weights as a folder."""

    pipe: object
    folder: Path


def build(kind: str, folder: Path, shape: str = "odd layers, three heads") -> Pair:
    """Random weights everywhere; the folder says its class as a published one does."""
    import diffusers

    name, module, options, channels, scheduler = KINDS[kind]
    plain = tiny.pipeline(shape, scheduler)
    if options:
        plain.transformer = _again(plain.transformer, options)
    if channels != 3:
        plain.vae = _again(plain.vae, dict(input_channels=channels))
    tiny.save(plain, folder)
    index = folder / "model_index.json"
    tiny.write_json(index, json.loads(index.read_text()) | {"_class_name": name})
    parts = dict(plain.components)
    if module in ("edit", "edit_inpaint", "edit_plus", "layered"):
        parts["processor"] = Processor()
    return Pair(getattr(diffusers, name)(**parts), folder)


def _again(part, options: dict):
    """A network of the same sizes with other options."""
    config = {**part.config, **options}
    config.pop("_use_default_values", None)  # would undo options that were defaults before
    return fill(type(part).from_config(config))


@contextlib.contextmanager
def corrected(kind: str, pipe, types: bool = True) -> Iterator[None]:
    """Within it the reference is small, exact and, with `types`, has the positions it means."""
    module = importlib.import_module(
        f"diffusers.pipelines.qwenimage.pipeline_qwenimage_{KINDS[kind][1]}"
    )
    with pytest.MonkeyPatch.context() as patch:
        if kind in ("edit", "edit-inpaint", "layered"):
            right = module.calculate_dimensions
            patch.setattr(module, "calculate_dimensions", lambda area, ratio: right(AREA, ratio))
        elif KINDS[kind][1] == "edit_plus":
            right = module.calculate_dimensions
            patch.setattr(
                module,
                "calculate_dimensions",
                lambda area, ratio: right(SEEN if area < 1 << 20 else AREA, ratio),
            )
        patch.setattr(
            module,
            "retrieve_latents",
            lambda out, generator=None, sample_mode="sample": out.latent_dist.mode(),
        )
        if types:
            patch.setattr(pipe.text_encoder, "forward", with_types(pipe.text_encoder))
        yield


def raw(pipe, packed: torch.Tensor, size: tuple[int, int], frames: int = 1) -> torch.Tensor:
    """Packed normalised latents of a reference -> raw latents [B,16,frames,h,w]."""
    from diffusers import QwenImagePipeline

    width, height = size
    tokens = packed.reshape(packed.shape[0] * frames, -1, packed.shape[-1])
    z = QwenImagePipeline._unpack_latents(tokens, height, width, 8)
    z = z.unflatten(0, (-1, frames))[:, :, :, 0].transpose(1, 2)
    mean, std = (
        torch.tensor(v).view(1, -1, 1, 1, 1)
        for v in (pipe.vae.config.latents_mean, pipe.vae.config.latents_std)
    )
    return z * std + mean


def copy_of(picture) -> torch.Tensor:
    """PIL picture -> what the reference's VAE sees of it, [1,h,w,C] in 0..1."""
    import numpy as np
    from diffusers.image_processor import VaeImageProcessor

    width, height = area_size(*picture.size, AREA)
    small = VaeImageProcessor(vae_scale_factor=16).resize(picture, height, width)
    return torch.from_numpy(np.array(small)).float()[None] / 255


def small(edit: EditTemplate) -> EditTemplate:
    """The record with the areas of the patched references."""
    return dataclasses.replace(edit, area=AREA if edit.name == "edit" else SEEN)


def encoded(bundle: Bundle, prompts: tuple[str, str | None], pictures: list) -> tuple:
    """(positive, negative) of prompts with these pictures (float tensors)."""
    text, edit = bundle.text_encoder, bundle.model.edit
    if edit is None or not pictures:
        return tuple(None if p is None else text.encode(p).states for p in prompts)
    return tuple(
        None if p is None else text.encode_edit(p, pictures, small(edit)).states for p in prompts
    )
