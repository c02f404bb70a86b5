"""Nodes that start from a picture: edits, image-to-image, layers.

The result has exactly the size of the picture: the latent carries its lock to Decode.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..host.api import io, schema
from ..pipeline.edit_choices import AUTO, LAYER_AREAS, WORK_SIZES
from . import sockets
from .conditioning import REFERENCES, VARIANT, Options, encoded
from .encode import QUOTES, conditioning_outputs, prompt_inputs
from .latents import LAYERS, STATISTICS, latent_of

if TYPE_CHECKING:
    from torch import Tensor

    from ..loaders.models.diffusion_model import DiffusionModel
    from ..loaders.models.text_encoder import TextEncoderModel
    from ..loaders.models.vae import VAEModel

_PICTURES = (
    "Reference images: Picture 1, 2, 3 in this order. The prompt can refer to them by these names, "
    "with Qwen-Image-2.1 as <image1>, <image2>, <image3>. "
    "The result has the size of Picture 1."
)


def work_input() -> io.Input:
    """The size at which a picture is processed."""
    return io.Combo.Input(
        "work_size",
        options=list(WORK_SIZES),
        default=AUTO,
        tooltip="Size to work at; the result always has the picture's size. auto: the picture's "
        "own size, so that nothing is resampled, unless it exceeds the model's resolution. the "
        "model's: also upscales small pictures while working.",
    )


class EncodeEdit(io.ComfyNode):
    """A prompt with Picture 1, 2, 3."""

    KEEP_RESULTS = True
    SKIPS_UNREAD = (0, 1)  # prompts that are not connected are not encoded

    ID = "InkstoneEncodeEdit"
    GROWS = sockets.PICTURES
    CANVAS = f"{sockets.GROWN}.picture_1"  # the picture whose size is that of the canvas

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id=cls.ID,
            display_name="Inkstone Encode Edit",
            category="inkstone/conditioning",
            description="Encodes an edit instruction and its reference images with the prompt "
            "template of the connected model's variant (Edit, 2509, 2511, 2.1).",
            search_aliases=[
                "text encode qwen image edit plus",
                "qwen image edit plus",
                "reference latent",
                "flux kontext",
                "instruct edit",
            ],
            inputs=[
                sockets.TextEncoder.Input(
                    "text_encoder",
                    tooltip="From Load Text Encoder or Load All. It needs the vision tower.",
                ),
                sockets.Model.Input(
                    "model", tooltip="The edit model; its variant selects the prompt template."
                ),
                sockets.VAE.Input("vae", tooltip="From Load VAE or Load All."),
                *prompt_inputs(f"What to change and what to keep. {QUOTES}"),
                work_input(),
                *sockets.growing_pictures(_PICTURES),
            ],
            outputs=[
                *conditioning_outputs(),
                io.Latent.Output("latent_out", display_name="latent"),
            ],
        )

    @classmethod
    def execute(
        cls,
        text_encoder: TextEncoderModel,
        model: DiffusionModel,
        vae: VAEModel,
        prompt: str,
        negative: str,
        work_size: str,
        images: dict[str, Tensor] | None = None,
        **fixed: Tensor | None,
    ) -> io.NodeOutput:
        # **fixed: the host's names of the fixed sockets, "images.picture_1"
        from ..loaders.models.bundle import check_latents, check_prompts
        from ..pipeline.edit import edit_states, locks_for, references, seen_pictures, template_of

        sockets.require_models(model=model, text_encoder=text_encoder, vae=vae)
        check_prompts(model, text_encoder)
        check_latents(model, vae)
        edit, pictures = template_of(model), sockets.connected(images, fixed)
        edit.check(len(pictures))
        locks = locks_for(vae.family, pictures, work_size)
        latents = references(vae, pictures, locks)
        seen = seen_pictures(edit, pictures, locks)
        options: Options = {
            "pooled_output": None,
            REFERENCES: list(latents),
            VARIANT: model.variant.name if model.variant else "",
            STATISTICS: (vae.mean, vae.std),
        }
        prompts = encoded(
            lambda text: edit_states(text_encoder, edit, text, seen), (prompt, negative), options
        )
        return io.NodeOutput(*prompts, latent_of(latents[0], locks[0], vae))


class ImageToLatent(io.ComfyNode):
    """A picture as the starting point."""

    ID = "InkstoneImageToLatent"
    CANVAS = "image"  # the picture whose size is that of the canvas

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id=cls.ID,
            display_name="Inkstone Image to Latent",
            category="inkstone/latent",
            description="Encodes a picture of any size as the starting point (image-to-image). Set "
            "the denoising strength in Inkstone Sampler. The result has exactly the picture's "
            "size.",
            search_aliases=["vae encode", "img2img", "image to image"],
            inputs=[
                sockets.VAE.Input("vae", tooltip="From Load VAE or Load All."),
                io.Image.Input("image", tooltip="One picture, or a batch of the same size."),
                work_input(),
                io.Boolean.Input(
                    "size_only",
                    default=False,
                    optional=True,
                    tooltip="Outputs an empty latent of the picture's size, for strength 1: "
                    "nothing is encoded. Use it to generate a picture of exactly a control map's "
                    "size.",
                ),
            ],
            outputs=[io.Latent.Output(display_name="latent")],
        )

    @classmethod
    def execute(
        cls, vae: VAEModel, image: Tensor, work_size: str, size_only: bool = False
    ) -> io.NodeOutput:
        from ..pipeline.edit import encode_on_canvas, lock_for

        sockets.require_models(vae=vae)
        lock = lock_for(vae.family, image, work_size)
        if size_only:
            samples = image.new_zeros(len(image), *lock.latents.shape(*lock.canvas))
        else:
            samples = encode_on_canvas(vae, image, lock)
        return io.NodeOutput(latent_of(samples, lock, vae))


class EncodeLayers(io.ComfyNode):
    """A picture to split into layers."""

    KEEP_RESULTS = True
    SKIPS_UNREAD = (0, 1)  # prompts that are not connected are not encoded

    ID = "InkstoneEncodeLayers"
    CANVAS = "image"  # the picture whose size is that of the canvas

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id=cls.ID,
            display_name="Inkstone Encode Layers",
            category="inkstone/conditioning",
            description="For Qwen-Image-Layered: encodes a picture and its description, to split "
            "the picture into layers with alpha.",
            search_aliases=["qwen image layered", "empty layered latent", "decompose layers rgba"],
            inputs=[
                sockets.TextEncoder.Input(
                    "text_encoder", tooltip="From Load Text Encoder or Load All."
                ),
                sockets.VAE.Input(
                    "vae", tooltip="The VAE of Qwen-Image-Layered, which has an alpha channel."
                ),
                io.Image.Input("image", tooltip="One picture, with or without alpha."),
                *prompt_inputs("Describe the whole picture, including hidden parts."),
                io.Int.Input(
                    "layers", default=4, min=1, max=64, tooltip="Number of layers; 3 to 8 is usual."
                ),
                io.Combo.Input(
                    "area",
                    options=list(LAYER_AREAS),
                    default=next(iter(LAYER_AREAS)),
                    tooltip="Size to work at, with the picture's aspect ratio. 640x640 gives the "
                    "best results.",
                ),
            ],
            outputs=[
                *conditioning_outputs(),
                io.Latent.Output("latent_out", display_name="latent"),
            ],
        )

    @classmethod
    def execute(
        cls,
        text_encoder: TextEncoderModel,
        vae: VAEModel,
        image: Tensor,
        prompt: str,
        negative: str,
        layers: int,
        area: str,
    ) -> io.NodeOutput:
        from ..pipeline.edit import whole_picture

        sockets.require_models(text_encoder=text_encoder, vae=vae)
        z, lock = whole_picture(vae, image, area)
        options: Options = {"pooled_output": None, REFERENCES: [z], VARIANT: "layered"}
        prompts = encoded(text_encoder.encode, (prompt, negative), options)
        return io.NodeOutput(*prompts, latent_of(z, lock, vae) | {LAYERS: layers})


class SplitLayers(io.ComfyNode):
    """Layers as pictures and masks."""

    ID = "InkstoneSplitLayers"

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id=cls.ID,
            display_name="Inkstone Split Layers",
            category="inkstone/image",
            description="Splits decoded layers into their colours and their transparency masks. To "
            "keep the alpha channel, save the layers themselves as PNG.",
            search_aliases=["split image with alpha", "layered rgba", "layers to images"],
            inputs=[io.Image.Input("layers", tooltip="Layers with alpha, from Inkstone Decode.")],
            outputs=[
                io.Image.Output("image", display_name="image"),
                io.Mask.Output("mask", display_name="mask"),
            ],
        )

    @classmethod
    def execute(cls, layers: Tensor) -> io.NodeOutput:
        from ..sampling.pixel_lock import check_picture, colour

        check_picture(layers, "A layer")
        clear = 1.0 - layers[..., 3] if layers.shape[-1] == 4 else layers.new_zeros(())
        return io.NodeOutput(colour(layers).contiguous(), clear.expand(layers.shape[:3]).clone())
