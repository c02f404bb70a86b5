"""Nodes that draw a part of a picture: inpaint, outpaint, and the part put back.

Outside the mask the pixels of the picture are kept bit by bit.
"""

from __future__ import annotations

from typing import Any

from ..host.api import io, schema
from ..pipeline.edit import CROPS
from . import sockets
from .edit import work_input

FILLS = ("edge", "mirror", "grey")  # of sampling/masks.py; as text, so that no torch is imported


def _feather(start: int) -> Any:
    return io.Int.Input(
        "feather",
        default=start,
        min=0,
        max=512,
        tooltip="Pixels over which the seam fades, inside the mask only.",
    )


class Inpaint(io.ComfyNode):
    """A picture of which a part is drawn anew."""

    ID = "InkstoneInpaint"

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id=cls.ID,
            display_name="Inkstone Inpaint",
            category="inkstone/latent",
            description="Draws the masked part of a picture anew, with a text-to-image or an edit "
            "model. Outside the mask nothing changes, once Inkstone Stitch has put the part back.",
            search_aliases=["inpaint", "mask", "crop and stitch", "noise mask"],
            inputs=[
                sockets.VAE.Input("vae", tooltip="From Load VAE or Load All."),
                io.Image.Input("image", tooltip="The picture, or a batch of the same size."),
                io.Mask.Input(
                    "mask",
                    tooltip="1 = draw anew. Of any size: it is stretched over the picture. Core "
                    "mask nodes fit.",
                ),
                io.Int.Input(
                    "grow",
                    default=0,
                    min=-512,
                    max=512,
                    tooltip="Pixels by which the mask grows; below 0 it shrinks.",
                ),
                _feather(8),
                io.Combo.Input(
                    "crop",
                    options=list(CROPS),
                    default=CROPS[0],
                    tooltip="Draw only the part around the mask, at the model's full resolution, "
                    "and put it back. auto: for pictures larger than what the model draws.",
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
        cls, vae: Any, image: Any, mask: Any, grow: int, feather: int, crop: str, work_size: str
    ) -> io.NodeOutput:
        from ..pipeline.edit import repaint_for

        sockets.require_models(vae=vae)
        made = repaint_for(vae.family, image, mask, (grow, feather), (work_size, crop))
        part = made.canvas()
        latent = sockets.latent_of(vae.encode(part), made.crop.lock, vae)
        latent |= {"noise_mask": made.latent_mask(), sockets.CROP: made.crop}
        return io.NodeOutput(latent, made, part)


class StitchPart(io.ComfyNode):
    """The drawn part put back."""

    ID = "InkstoneStitch"

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id=cls.ID,
            display_name="Inkstone Stitch",
            category="inkstone/image",
            description="Puts the drawn part back into its picture. Outside the mask every value "
            "is the picture's own.",
            search_aliases=["paste", "composite", "uncrop"],
            inputs=[
                io.Image.Input("image", tooltip="From a decode node: the drawn part."),
                sockets.Stitch.Input("stitch", tooltip="From Inkstone Inpaint."),
            ],
            outputs=[io.Image.Output("image_out", display_name="image")],
        )

    @classmethod
    def execute(cls, image: Any, stitch: Any) -> io.NodeOutput:
        from ..pipeline.edit import put_back
        from ..sampling.inpaint import Repaint

        sockets.require_type(stitch, Repaint, "stitch", "Inkstone Inpaint")
        return io.NodeOutput(put_back(stitch, image))


class PadForOutpaint(io.ComfyNode):
    """A picture with new room around it."""

    ID = "InkstonePadForOutpaint"

    @classmethod
    def define_schema(cls) -> io.Schema:
        sides = (
            io.Int.Input(
                side,
                default=start,
                min=0,
                max=16384,
                tooltip=f"Pixels to add at the {side}; any number.",
            )
            for side, start in (("left", 0), ("top", 0), ("right", 256), ("bottom", 0))
        )
        return schema(
            node_id=cls.ID,
            display_name="Inkstone Pad for Outpaint",
            category="inkstone/image",
            description="Adds room around a picture and the mask of it, for Inkstone Inpaint.",
            search_aliases=["outpaint", "extend", "pad image"],
            inputs=[
                io.Image.Input("image", tooltip="The picture to extend."),
                *sides,
                io.Combo.Input(
                    "fill",
                    options=list(FILLS),
                    default=FILLS[0],
                    tooltip="What lies in the new part before it is drawn: the repeated edge, the "
                    "mirrored picture, or grey.",
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
        cls, image: Any, left: int, top: int, right: int, bottom: int, fill: str, feather: int
    ) -> io.NodeOutput:
        from ..sampling.geometry import Sides
        from ..sampling.inpaint import pad_out

        return io.NodeOutput(*pad_out(image, Sides(left, top, right, bottom), fill, feather))
