"""Stand-ins for the basic nodes of ComfyUI, so that graphs with them run without it.

Sockets, defaults, file names and pixel values are the core's (host 0.3.64); the code is ours.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from ...host.api import io
from .images import IMAGE_NODES, centre_crop, resize
from .load_save import LoadImage, PreviewImage, SaveImage
from .masks import MASK_NODES
from .values import VALUE_NODES

if TYPE_CHECKING:
    import torch

MAX_SIDE = 16384
SCALE_METHODS = ["nearest-exact", "bilinear", "area", "bicubic", "lanczos"]


class ImageScale(io.ComfyNode):
    """Resizes pictures; a side of 0 follows from the other, both 0 leave them as they are."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        side = {"default": 512, "min": 0, "max": MAX_SIDE, "step": 1}
        return io.Schema(
            node_id="ImageScale",
            display_name="Upscale Image",
            category="image/upscaling",
            inputs=[
                io.Image.Input("image"),
                io.Combo.Input("upscale_method", options=SCALE_METHODS),
                io.Int.Input("width", **side),
                io.Int.Input("height", **side),
                io.Combo.Input("crop", options=["disabled", "center"]),
            ],
            outputs=[io.Image.Output()],
        )

    @classmethod
    def execute(
        cls, image: torch.Tensor, upscale_method: str, width: int, height: int, crop: str
    ) -> io.NodeOutput:
        if width == 0 and height == 0:
            return io.NodeOutput(image)
        old_height, old_width = image.shape[1:3]
        width = width or max(1, round(old_width * height / old_height))
        height = height or max(1, round(old_height * width / old_width))
        if crop == "center":
            image = centre_crop(image, width / height)
        return io.NodeOutput(resize(image, width, height, upscale_method))


class EmptyImage(io.ComfyNode):
    """A picture of one colour, 0xRRGGBB."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        side = {"default": 512, "min": 1, "max": MAX_SIDE, "step": 1}
        return io.Schema(
            node_id="EmptyImage",
            display_name="EmptyImage",
            category="image",
            inputs=[
                io.Int.Input("width", **side),
                io.Int.Input("height", **side),
                io.Int.Input("batch_size", default=1, min=1, max=4096),
                io.Int.Input("color", default=0, min=0, max=0xFFFFFF, step=1),
            ],
            outputs=[io.Image.Output()],
        )

    @classmethod
    def execute(cls, width: int, height: int, batch_size: int = 1, color: int = 0) -> io.NodeOutput:
        import torch

        rgb = torch.tensor([(color >> shift & 0xFF) / 0xFF for shift in (16, 8, 0)])
        return io.NodeOutput(rgb.expand(batch_size, height, width, 3).clone())


class EmptySD3LatentImage(io.ComfyNode):
    """Zero latents [B,16,H/8,W/8]."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        side = {"default": 1024, "min": 16, "max": MAX_SIDE, "step": 16}
        return io.Schema(
            node_id="EmptySD3LatentImage",
            display_name="EmptySD3LatentImage",
            category="latent/sd3",
            inputs=[
                io.Int.Input("width", **side),
                io.Int.Input("height", **side),
                io.Int.Input("batch_size", default=1, min=1, max=4096),
            ],
            outputs=[io.Latent.Output()],
        )

    @classmethod
    def execute(cls, width: int, height: int, batch_size: int = 1) -> io.NodeOutput:
        import torch

        return io.NodeOutput({"samples": torch.zeros(batch_size, 16, height // 8, width // 8)})


def _primitive(name: str, title: str, value: object, output: object) -> type[io.ComfyNode]:
    """The class of a node that hands its one widget on."""

    class Primitive(io.ComfyNode):
        __doc__ = f"Gives its value: {title}."

        @classmethod
        def define_schema(cls) -> io.Schema:
            return io.Schema(
                node_id=name,
                display_name=title,
                category="utils/primitive",
                inputs=[value],
                outputs=[output],
            )

        @classmethod
        def execute(cls, value: object) -> io.NodeOutput:
            return io.NodeOutput(value)

    Primitive.__name__ = Primitive.__qualname__ = name
    return Primitive


_INT_RANGE = {"min": -sys.maxsize, "max": sys.maxsize}
_PRIMITIVES = [
    _primitive(
        "PrimitiveInt",
        "Int",
        io.Int.Input("value", control_after_generate=True, **_INT_RANGE),
        io.Int.Output(),
    ),
    _primitive("PrimitiveFloat", "Float", io.Float.Input("value", **_INT_RANGE), io.Float.Output()),
    _primitive("PrimitiveString", "String", io.String.Input("value"), io.String.Output()),
    _primitive(
        "PrimitiveStringMultiline",
        "String (Multiline)",
        io.String.Input("value", multiline=True),
        io.String.Output(),
    ),
    _primitive("PrimitiveBoolean", "Boolean", io.Boolean.Input("value"), io.Boolean.Output()),
]

CORE_NODES: dict[str, type[io.ComfyNode]] = {
    node.__name__: node
    for node in [
        LoadImage,
        SaveImage,
        PreviewImage,
        ImageScale,
        EmptyImage,
        EmptySD3LatentImage,
        *_PRIMITIVES,
        *MASK_NODES,
        *IMAGE_NODES,
        *VALUE_NODES,
    ]
}


def node_classes() -> dict[str, type]:
    """Every node that runs headless: ours and our stand-ins of basic core nodes."""
    from ...nodes import NODES

    return {**CORE_NODES, **{node.define_schema().node_id: node for node in NODES}}
