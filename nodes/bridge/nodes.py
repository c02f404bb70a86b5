"""Bridge nodes: our models on core sockets, so that core nodes and other packs use our kernels."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from ...host import api
from ...host.api import io, schema
from .. import sockets

if TYPE_CHECKING:
    from ...loaders.models.diffusion_model import DiffusionModel
    from ...loaders.models.text_encoder import TextEncoderModel
    from ...loaders.models.vae import VAEModel

log = logging.getLogger(__name__)

_CORE = "core nodes and other packs"


class ToModel(io.ComfyNode):
    """Our diffusion model as MODEL."""

    ID = "InkstoneToModel"

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id=cls.ID,
            display_name="Inkstone to MODEL",
            category="inkstone/bridge",
            description=f"The diffusion model for {_CORE}: KSampler and all other samplers, "
            "schedulers and guiders, ModelSamplingAuraFlow, CFGNorm, LoraLoaderModelOnly.",
            search_aliases=["ksampler bridge", "unet to model", "convert to core"],
            inputs=[
                sockets.Model.Input(
                    "model", tooltip="From Load Diffusion Model, Load All or Load LoRA."
                )
            ],
            outputs=[io.Model.Output("core_model", display_name="MODEL")],
        )

    @classmethod
    def execute(cls, model: DiffusionModel) -> io.NodeOutput:
        sockets.require_models(model=model)
        api.require_comfyui("Inkstone to MODEL")
        from .model_patcher import core_model

        if model.step_cache is not None:
            log.warning(
                "the step cache %s works with Inkstone Sampler only: core's samplers compute every "
                "step",
                model.step_cache.words(),
            )
        if model.variety:
            log.warning(
                "variety (%s) works with Inkstone Sampler only: core's samplers draw without it",
                model.variety.words(),
            )
        return io.NodeOutput(core_model(model))


class ToCLIP(io.ComfyNode):
    """Our text encoder as CLIP."""

    ID = "InkstoneToCLIP"

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id=cls.ID,
            display_name="Inkstone to CLIP",
            category="inkstone/bridge",
            description=f"The text encoder for {_CORE}: CLIPTextEncode, TextEncodeQwenImageEdit, "
            "TextEncodeQwenImageEditPlus and TextEncodeQwenImage21.",
            search_aliases=["clip text encode bridge", "convert to core"],
            inputs=[
                sockets.TextEncoder.Input(
                    "text_encoder", tooltip="From Load Text Encoder or Load All."
                )
            ],
            outputs=[io.Clip.Output("core_clip", display_name="CLIP")],
        )

    @classmethod
    def execute(cls, text_encoder: TextEncoderModel) -> io.NodeOutput:
        from .clip_vae import CoreCLIP

        sockets.require_models(text_encoder=text_encoder)
        return io.NodeOutput(CoreCLIP(text_encoder))


class ToVAE(io.ComfyNode):
    """Our VAE as VAE."""

    ID = "InkstoneToVAE"

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id=cls.ID,
            display_name="Inkstone to VAE",
            category="inkstone/bridge",
            description=f"The VAE for {_CORE}: VAEDecode, VAEEncode, and their tiled and inpaint "
            "variants.",
            search_aliases=["vae decode bridge", "vae encode bridge", "convert to core"],
            inputs=[sockets.VAE.Input("vae", tooltip="From Load VAE or Load All.")],
            outputs=[io.Vae.Output("core_vae", display_name="VAE")],
        )

    @classmethod
    def execute(cls, vae: VAEModel) -> io.NodeOutput:
        from .clip_vae import CoreVAE

        sockets.require_models(vae=vae)
        return io.NodeOutput(CoreVAE(vae))
