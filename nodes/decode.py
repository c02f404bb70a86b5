"""The Decode node: latents to pictures."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..host.api import io, schema
from . import sockets
from .latents import LOCK, restated

if TYPE_CHECKING:
    from ..loaders.models.vae import VAEModel
    from .latents import Latent


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
            "exactly its size.",
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
        pictures = vae.decode(restated(latent, vae))
        lock = latent.get(LOCK)
        return io.NodeOutput(pictures if lock is None else lock.from_canvas(pictures))
