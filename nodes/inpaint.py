"""Nodes that inpaint and outpaint, and stitch the result back into the picture.

Outside the mask the pixels of the picture stay bit-identical.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..host.api import io, schema
from ..pipeline.edit_choices import CROPS
from . import sockets
from .edit import work_input
from .latents import CROP, MASK, latent_of

if TYPE_CHECKING:
    from torch import Tensor

    from ..loaders.models.vae import VAEModel
    from ..sampling.inpaint import Repaint
    from .latents import Latent

FILLS = ("edge", "mirror", "grey")  # of sampling/masks.py, which imports torch


def _feather(default: int) -> io.Input:
    return io.Int.Input(
        "feather",
        default=default,
        min=0,
        max=512,
        tooltip="Width of the soft edge in pixels, inside the mask only.",
    )


class Inpaint(io.ComfyNode):
    """A picture with a masked part to inpaint."""

    CANVAS = "image"  # the picture whose size is that of the canvas, or larger

    ID = "InkstoneInpaint"

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id=cls.ID,
            display_name="Inkstone Inpaint",
            category="inkstone/latent",
            description="Inpaints the masked part of a picture, with a text-to-image or an edit "
            "model. Decode the result and connect Inkstone Stitch: outside the mask nothing "
            "changes.",
            search_aliases=[
                "inpaint crop and stitch",
                "vae encode for inpainting",
                "set latent noise mask",
                "inpaint model conditioning",
                "grow mask",
                "mask detailer",
            ],
            inputs=[
                sockets.VAE.Input("vae", tooltip="From Load VAE or Load All."),
                io.Image.Input("image", tooltip="The picture, or a batch of the same size."),
                io.Mask.Input(
                    "mask",
                    tooltip="1 (white) marks the area to inpaint. Any size: it is stretched over "
                    "the picture. Masks of core nodes work. Load Image marks what is transparent; "
                    "put Invert Mask behind it for white paint on a transparent layer.",
                ),
                io.Int.Input(
                    "grow",
                    default=0,
                    min=-512,
                    max=512,
                    tooltip="Grows the mask by this number of pixels; below 0 shrinks it.",
                ),
                _feather(8),
                io.Combo.Input(
                    "crop",
                    options=list(CROPS),
                    default=CROPS[0],
                    tooltip="Inpaints only the part around the mask, at the model's full "
                    "resolution. auto: for pictures larger than the model's resolution.",
                ),
                work_input(),
            ],
            outputs=[
                io.Latent.Output(display_name="latent"),
                sockets.Stitch.Output("stitch", display_name="stitch"),
                io.Image.Output("part", display_name="part"),
            ],
        )

    @classmethod
    def execute(
        cls,
        vae: VAEModel,
        image: Tensor,
        mask: Tensor,
        grow: int,
        feather: int,
        crop: str,
        work_size: str,
    ) -> io.NodeOutput:
        from ..pipeline.edit import repaint_for

        sockets.require_models(vae=vae)
        stitch = repaint_for(vae.family, image, mask, (grow, feather), (work_size, crop))
        part = stitch.canvas()
        latent = latent_of(vae.encode(part), stitch.crop.lock, vae)
        area: Latent = {MASK: stitch.latent_mask(), CROP: stitch.crop}
        return io.NodeOutput({**latent, **area}, stitch, part)


class StitchPart(io.ComfyNode):
    """The inpainted part, back in its picture."""

    ID = "InkstoneStitch"

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id=cls.ID,
            display_name="Inkstone Stitch",
            category="inkstone/image",
            description="Puts the inpainted part back into its picture. Outside the mask every "
            "value is that of the picture.",
            search_aliases=["inpaint stitch", "uncrop paste", "image composite masked"],
            inputs=[
                io.Image.Input("image", tooltip="The inpainted part, from a decode node."),
                sockets.Stitch.Input("stitch", tooltip="From Inkstone Inpaint."),
            ],
            outputs=[io.Image.Output("image_out", display_name="image")],
        )

    @classmethod
    def execute(cls, image: Tensor, stitch: Repaint) -> io.NodeOutput:
        from ..pipeline.edit import put_back
        from ..sampling.inpaint import Repaint

        sockets.require_type(stitch, Repaint, "stitch", "Inkstone Inpaint")
        return io.NodeOutput(put_back(stitch, image))


class PadForOutpaint(io.ComfyNode):
    """A picture with empty space around it."""

    ID = "InkstonePadForOutpaint"

    @classmethod
    def define_schema(cls) -> io.Schema:
        sides = (
            io.Int.Input(
                side,
                default=default,
                min=0,
                max=16384,
                tooltip=f"Pixels to add at the {side}; any number.",
            )
            for side, default in (("left", 0), ("top", 0), ("right", 256), ("bottom", 0))
        )
        return schema(
            node_id=cls.ID,
            display_name="Inkstone Pad for Outpaint",
            category="inkstone/image",
            description="Adds space around a picture and outputs its mask, for Inkstone Inpaint.",
            search_aliases=[
                "pad image for outpainting",
                "outpaint",
                "extend canvas",
                "fill masked area",
            ],
            inputs=[
                io.Image.Input("image", tooltip="The picture to extend."),
                *sides,
                io.Combo.Input(
                    "fill",
                    options=list(FILLS),
                    default=FILLS[0],
                    tooltip="Content of the new space before it is outpainted: the repeated edge, "
                    "the mirrored picture, or grey.",
                ),
                _feather(16),
            ],
            outputs=[
                io.Image.Output("image_out", display_name="image"),
                io.Mask.Output("mask_out", display_name="mask"),
            ],
        )

    @classmethod
    def execute(
        cls, image: Tensor, left: int, top: int, right: int, bottom: int, fill: str, feather: int
    ) -> io.NodeOutput:
        from ..sampling.geometry import Sides
        from ..sampling.inpaint import pad_out

        return io.NodeOutput(*pad_out(image, Sides(left, top, right, bottom), fill, feather))
