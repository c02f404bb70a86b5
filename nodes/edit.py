"""Nodes that start from a picture: edits, image-to-image, layers.

What comes out has exactly the size of the picture: the latent carries its lock to Decode.
"""

from __future__ import annotations

from typing import Any

from ..host.api import io, schema
from ..pipeline.edit import AUTO, LAYER_AREAS, WORK_SIZES
from . import sockets

MOST = 16  # pictures of a growing input
FIXED = 4  # sockets on a host without growing inputs
_PICTURES = "Picture 1, 2, 3 in this order; the prompt may name them so. The result has the size "
_PICTURES += "of Picture 1."


def work_input() -> Any:
    """At which size a picture is worked on."""
    return io.Combo.Input(
        "work_size",
        options=list(WORK_SIZES),
        default=AUTO,
        tooltip="Size to work at; the result has the picture's size in any case. auto: the "
        "picture's own, so that nothing is resampled, unless it is larger than what the model "
        "draws. the model's: small pictures are enlarged too.",
    )


def _picture(name: str, shown: str | None = None) -> Any:
    return io.Image.Input(
        name, display_name=shown, optional=not name.endswith("_1"), tooltip=_PICTURES
    )


def words(what: str) -> list[Any]:
    """The inputs of a prompt and its negative."""
    return [
        io.String.Input("prompt", multiline=True, default="", tooltip=what),
        io.String.Input(
            "negative",
            multiline=True,
            default=" ",
            tooltip="What to guide away from; a single space is usual. Used only when CFG is "
            "above 1.",
        ),
    ]


def conditionings() -> list[Any]:
    """The outputs positive and negative."""
    return [io.Conditioning.Output(f"{n}_out", display_name=n) for n in ("positive", "negative")]


class EncodeEdit(io.ComfyNode):
    """A prompt with Picture 1, 2, 3."""

    KEEP_RESULTS = SKIPS_UNREAD = True

    ID = "InkstoneEncodeEdit"
    CANVAS = f"{sockets.GROWN}.picture_1"  # the picture whose size is that of the canvas

    @classmethod
    def define_schema(cls) -> io.Schema:
        names = [f"picture_{n}" for n in range(1, MOST + 1)]
        return schema(
            node_id=cls.ID,
            display_name="Inkstone Encode Edit",
            category="inkstone/conditioning",
            description="Encodes what to change and the pictures to change, in the template of the "
            "connected model's variant (Edit, 2509, 2511).",
            search_aliases=["edit", "qwen image edit plus", "reference", "kontext"],
            inputs=[
                sockets.TextEncoder.Input(
                    "text_encoder", tooltip="From Load Text Encoder or Load All, with vision tower."
                ),
                sockets.Model.Input("model", tooltip="The edit model: its variant decides."),
                sockets.VAE.Input("vae", tooltip="From Load VAE or Load All."),
                *words("What to change, and what stays. Words to be written go in double quotes."),
                work_input(),
                *sockets.growing(_picture, names, FIXED, _PICTURES),
            ],
            outputs=[*conditionings(), io.Latent.Output("latent_out", display_name="latent")],
        )

    @classmethod
    def execute(
        cls,
        text_encoder: Any,
        model: Any,
        vae: Any,
        prompt: str,
        negative: str,
        work_size: str,
        images: dict | None = None,
        **fixed: Any,
    ) -> io.NodeOutput:
        # **fixed: the host's own names of the fixed sockets, "images.picture_1"
        from ..pipeline.edit import edit_states, locks_for, references, template_of

        sockets.require_models(model=model, text_encoder=text_encoder, vae=vae)
        edit, pictures = template_of(model), sockets.grown(images, fixed)
        edit.check(len(pictures))
        locks = locks_for(vae.family, pictures, work_size)
        latents = references(vae, pictures, locks)
        said = {"pooled_output": None, sockets.REFERENCES: list(latents)}
        said[sockets.VARIANT] = model.variant.name
        said[sockets.STATISTICS] = sockets.statistics_of(vae)
        made = sockets.conditionings(
            lambda text: edit_states(text_encoder, edit, text, pictures), (prompt, negative), said
        )
        return io.NodeOutput(*made, sockets.latent_of(latents[0], locks[0], vae))


class ImageToLatent(io.ComfyNode):
    """A picture to start from."""

    ID = "InkstoneImageToLatent"
    CANVAS = "image"  # the picture whose size is that of the canvas

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id=cls.ID,
            display_name="Inkstone Image to Latent",
            category="inkstone/latent",
            description="Encodes a picture of any size to start from (image-to-image): set the "
            "strength in Inkstone Schedule. The result has exactly the picture's size.",
            search_aliases=["img2img", "vae encode", "image to image"],
            inputs=[
                sockets.VAE.Input("vae", tooltip="From Load VAE or Load All."),
                io.Image.Input("image", tooltip="One picture, or a batch of the same size."),
                work_input(),
                io.Boolean.Input(
                    "size_only",
                    default=False,
                    optional=True,
                    tooltip="An empty canvas with the picture's size, for a strength of 1: nothing "
                    "is encoded. Use it to draw a control map's picture in exactly its size.",
                ),
            ],
            outputs=[io.Latent.Output(display_name="latent")],
        )

    @classmethod
    def execute(
        cls, vae: Any, image: Any, work_size: str, size_only: bool = False
    ) -> io.NodeOutput:
        from ..pipeline.edit import encoded, lock_for
        from ..sampling.geometry import LATENT

        sockets.require_models(vae=vae)
        lock = lock_for(vae.family, image, work_size)
        if size_only:
            sides = (side // LATENT for side in reversed(lock.canvas))
            samples = image.new_zeros(len(image), 16, 1, *sides)
        else:
            samples = encoded(vae, image, lock)
        return io.NodeOutput(sockets.latent_of(samples, lock, vae))


class EncodeLayers(io.ComfyNode):
    """A picture to be taken apart."""

    KEEP_RESULTS = SKIPS_UNREAD = True

    ID = "InkstoneEncodeLayers"
    CANVAS = "image"  # the picture whose size is that of the canvas

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id=cls.ID,
            display_name="Inkstone Encode Layers",
            category="inkstone/conditioning",
            description="For Qwen-Image-Layered: a picture and what it shows, to be drawn as "
            "layers with alpha.",
            search_aliases=["layered", "decompose", "rgba"],
            inputs=[
                sockets.TextEncoder.Input(
                    "text_encoder", tooltip="From Load Text Encoder or Load All."
                ),
                sockets.VAE.Input("vae", tooltip="The VAE with alpha of Qwen-Image-Layered."),
                io.Image.Input("image", tooltip="One picture, with alpha if it has some."),
                *words("What the whole picture shows, hidden parts included."),
                io.Int.Input(
                    "layers", default=4, min=1, max=64, tooltip="Layers to draw; 3 to 8 is usual."
                ),
                io.Combo.Input(
                    "area",
                    options=list(LAYER_AREAS),
                    default=next(iter(LAYER_AREAS)),
                    tooltip="Size to work at, in the picture's ratio. 640x640 is what the model "
                    "does best.",
                ),
            ],
            outputs=[*conditionings(), io.Latent.Output("latent_out", display_name="latent")],
        )

    @classmethod
    def execute(
        cls,
        text_encoder: Any,
        vae: Any,
        image: Any,
        prompt: str,
        negative: str,
        layers: int,
        area: str,
    ) -> io.NodeOutput:
        from ..pipeline.edit import whole_picture

        sockets.require_models(text_encoder=text_encoder, vae=vae)
        z, lock = whole_picture(vae, image, area)
        said = {"pooled_output": None, sockets.REFERENCES: [z], sockets.VARIANT: "layered"}
        made = sockets.conditionings(text_encoder.encode, (prompt, negative), said)
        latent = sockets.latent_of(z, lock, vae) | {sockets.LAYERS: layers}
        return io.NodeOutput(*made, latent)


class SplitLayers(io.ComfyNode):
    """Layers as pictures and masks."""

    ID = "InkstoneSplitLayers"

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id=cls.ID,
            display_name="Inkstone Split Layers",
            category="inkstone/image",
            description="Takes decoded layers apart: their colours, and what of each is "
            "transparent. The layers themselves can be saved as PNG with alpha.",
            search_aliases=["layered", "alpha", "split image with alpha"],
            inputs=[io.Image.Input("layers", tooltip="From Inkstone Decode: layers with alpha.")],
            outputs=[
                io.Image.Output("image", display_name="image"),
                io.Mask.Output("mask", display_name="mask"),
            ],
        )

    @classmethod
    def execute(cls, layers: Any) -> io.NodeOutput:
        from ..sampling.pixel_lock import check_picture, colour

        check_picture(layers, "A layer")
        clear = 1.0 - layers[..., 3] if layers.shape[-1] == 4 else layers.new_zeros(())
        return io.NodeOutput(colour(layers).contiguous(), clear.expand(layers.shape[:3]).clone())
