"""Tiny InstantX controls as files, and diffusers' control pipelines on the same weights.

The references take the mean of what their VAE encodes where they would draw a sample, before the
noise and from its generator.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from . import tiny
from .oracle import fill

KINDS = {
    "union": ("QwenImageControlNetPipeline", 0),
    "inpainting": ("QwenImageControlNetInpaintPipeline", 4),
}


def branch(shape: str, layers: int, kind: str = "union"):
    """A reference branch with random weights everywhere."""
    from diffusers import QwenImageControlNetModel

    c = tiny.SHAPES[shape]
    return fill(
        QwenImageControlNetModel(
            num_layers=layers,
            attention_head_dim=c["head_dim"],
            num_attention_heads=c["heads"],
            joint_attention_dim=c["text"][0],
            axes_dims_rope=c["axes"],
            extra_condition_channels=KINDS[kind][1],
        )
    )


def pipeline(plain, net, kind: str):
    """The reference's pipeline on the parts of a plain one; several nets are one with several."""
    import diffusers

    return getattr(diffusers, KINDS[kind][0])(**plain.components, controlnet=net)


def saved(net, folder: Path) -> Path:
    """The branch as a folder with its config."""
    net.save_pretrained(folder)
    return folder


@contextlib.contextmanager
def means() -> Iterator[None]:
    """Within it the references' VAE gives means."""
    from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            DiagonalGaussianDistribution, "sample", lambda self, generator=None: self.mode()
        )
        yield


def mask_of(width: int, height: int) -> Tensor:
    """[1,H,W]: a part whose sides lie between latent cells."""
    mask = torch.zeros(1, height, width)
    mask[:, height // 4 + 1 : height // 2 + 5, width // 3 :] = 1
    return mask


def embedded_control(path: Path, layers: int, condition: int = 64, seed: int = 1, **other) -> Path:
    """A control file for the embedded model, random weights everywhere. other: sizes that are not
    the embedded model's.
    """
    from inkstone.kernels.configs import MMDiTConfig
    from inkstone.loaders.arch.expected_tensors import controlnet_layout
    from inkstone.loaders.formats.safetensors import save_safetensors

    sizes = dict(heads=4, head_dim=32, channels=64, joint=128, ff=512, axes=(8, 12, 12)) | other
    g = torch.Generator().manual_seed(seed)
    tensors = {}
    for name, shape in controlnet_layout(MMDiTConfig(layers, **sizes), condition).items():
        x = torch.randn(shape, generator=g) * (shape[-1] ** -0.5 if len(shape) == 2 else 0.1)
        tensors[name] = x + 1 if "norm" in name else x
    save_safetensors(path, tensors, {"inkstone_family": "inkstone-embedded"})
    return path
