"""The Decode node: latents to pictures."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from ..host.api import io, schema
from . import sockets
from .latents import LOCK, restated

if TYPE_CHECKING:
    from torch import Tensor

    from ..loaders.models.vae import VAEModel
    from .latents import Latent

log = logging.getLogger(__name__)


class Decode(io.ComfyNode):
    """Latents to pictures, in exact strips where memory is short."""

    ID = "InkstoneDecode"

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id=cls.ID,
            display_name="Inkstone Decode",
            category="inkstone/latent",
            description="Decodes latents to pictures. Works in strips where that saves memory or "
            "time; strips are exact and leave no seams. A result that started from a picture gets "
            "exactly its size. From Qwen-Image-2.1 it has alpha where something is transparent.",
            search_aliases=["vae decode tiled", "latent to image"],
            inputs=[
                sockets.VAE.Input("vae", tooltip="From Load VAE or Load All."),
                io.Latent.Input(
                    "latent",
                    tooltip="From Inkstone Sampler, or from a core sampler with Qwen-Image.",
                ),
            ],
            outputs=[io.Image.Output(display_name="image")],
        )

    @classmethod
    def execute(cls, vae: VAEModel, latent: Latent) -> io.NodeOutput:
        sockets.require_models(vae=vae)
        samples = restated(latent, vae)
        pictures = vae.decode(samples)
        if samples.shape[2] == 1:  # layers keep their alpha, the lowest is opaque
            pictures = _seen(pictures)
        lock = latent.get(LOCK)
        return io.NodeOutput(pictures if lock is None else lock.from_canvas(pictures))


def _seen(pictures: Tensor) -> Tensor:
    """Pictures without an alpha that says nothing, and a line about it."""
    from ..sampling.masks import without_opaque

    if pictures.shape[-1] != 4:
        return pictures
    seen = without_opaque(pictures)
    if seen.shape[-1] != 4:
        log.info("opaque everywhere, so the result is RGB: no alpha channel is saved")
    else:
        share = 100 * float((seen[..., 3] < 0.5).float().mean())
        log.info("the result is RGBA: %.1f %% of it is transparent; PNG keeps that", share)
    return seen
