"""Decode node: latents to pictures."""

from __future__ import annotations

from typing import Any

from ..host.api import io, schema
from . import sockets


class Decode(io.ComfyNode):
    """Latents to pictures with the exact tiled form where memory is short."""

    ID = "InkstoneDecode"

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id=cls.ID,
            display_name="Inkstone Decode",
            category="inkstone/latent",
            description="Latents to pictures. In strips where that saves memory or time; "
            "strips are exact, no seams. What started from a picture gets its size back exactly.",
            search_aliases=["vae decode"],
            inputs=[
                sockets.VAE.Input("vae", tooltip="From Load VAE or Load All."),
                io.Latent.Input(
                    "latent", tooltip="From Inkstone Denoise or a core sampler of Qwen-Image."
                ),
            ],
            outputs=[io.Image.Output(display_name="image")],
        )

    @classmethod
    def execute(cls, vae: Any, latent: dict) -> io.NodeOutput:
        from ..loaders.models.vae import VAEModel

        sockets.require_type(vae, VAEModel, "vae", "Inkstone Load VAE")
        pictures = vae.decode(sockets.restated(latent, vae))
        lock = latent.get(sockets.LOCK)
        return io.NodeOutput(pictures if lock is None else lock.from_canvas(pictures))
