"""Stand-ins for the basic nodes of ComfyUI, so that graphs with them run without it.

Sockets, defaults, file names and pixel values are the core's (host 0.3.64); the code is ours.
"""

from __future__ import annotations

import hashlib
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from ..kernels.errors import InkstoneError
from ..nodes import host
from ..nodes.host import io
from .core_images import IMAGE_NODES, centre_crop, resize
from .core_masks import MASK_NODES
from .core_values import VALUE_NODES
from .pictures import frames
from .png import save_pictures

if TYPE_CHECKING:
    import torch

MAX_SIDE = 16384
PICTURE_SUFFIXES = (
    ".png",
    ".jpg",
    ".jpeg",
    ".webp",
    ".bmp",
    ".gif",
    ".tif",
    ".tiff",
    ".avif",
    ".jfif",
)
SCALE_METHODS = ["nearest-exact", "bilinear", "area", "bicubic", "lanczos"]
# Boxes for reading: they carry no data and no run needs them.
NOTE_CLASSES = ("Note", "MarkdownNote")


def picture_path(name: str) -> Path:
    """The file behind a LoadImage name: "x.png", "sub/x.png", "x.png [output]", or a full path."""
    match = re.fullmatch(r"(.*?)(?: \[(input|output|temp)\])?", name, re.DOTALL)
    folders = {"output": host.output_directory, "temp": host.temp_directory}
    base = folders.get(match[2] or "input", host.input_directory)()
    if ".." in Path(match[1]).parts:
        raise InkstoneError(
            f"The picture name {name!r} leads out of {base}; put the file into that folder."
        )
    path = base / match[1]
    if not match[1] or not path.is_file():
        raise InkstoneError(
            f"No picture {name!r}: {path} does not exist. Put it there or give --input."
        )
    return path


def picture_names() -> list[str]:
    """What the combo of LoadImage offers: the pictures of the input folder."""
    folder = host.input_directory()
    files = folder.iterdir() if folder.is_dir() else []
    return sorted(file.name for file in files if file.suffix.lower() in PICTURE_SUFFIXES)


class LoadImage(io.ComfyNode):
    """A picture from the input folder: IMAGE [B,H,W,3], MASK [B,H,W] with 1 = transparent."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LoadImage",
            display_name="Load Image",
            category="image",
            inputs=[io.Combo.Input("image", options=picture_names(), upload=io.UploadType.image)],
            outputs=[io.Image.Output(), io.Mask.Output()],
        )

    @classmethod
    def validate_inputs(cls, image: str) -> bool | str:
        try:
            picture_path(image)
        except InkstoneError as error:
            return str(error)
        return True

    @classmethod
    def fingerprint_inputs(cls, image: str) -> str:
        return hashlib.sha256(picture_path(image).read_bytes()).hexdigest()

    @classmethod
    def execute(cls, image: str) -> io.NodeOutput:
        import torch

        found = frames(picture_path(image))
        kept = [pair for pair in found if pair[0].shape == found[0][0].shape]
        pictures = torch.stack([torch.from_numpy(colours) for colours, _ in kept])
        clear = [  # 64x64 zeros where the file has no alpha, as in the core
            torch.zeros(64, 64) if alpha is None else 1.0 - torch.from_numpy(alpha)
            for _, alpha in kept
        ]
        return io.NodeOutput(pictures, torch.stack(clear))


class SaveImage(io.ComfyNode):
    """Saves pictures as PREFIX_00001_.png with the graph inside."""

    WRITES_TO = "output"

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SaveImage",
            display_name="Save Image",
            category="image",
            is_output_node=True,
            inputs=[
                io.Image.Input("images", tooltip="The pictures to save."),
                io.String.Input(
                    "filename_prefix", default="ComfyUI", tooltip="Name, may hold folders."
                ),
            ],
            hidden=[io.Hidden.prompt, io.Hidden.extra_pnginfo],
        )

    @classmethod
    def execute(cls, images: torch.Tensor, filename_prefix: str = "ComfyUI") -> io.NodeOutput:
        return io.NodeOutput(
            ui={"images": save_pictures(images, filename_prefix, "output", cls.hidden)}
        )


class PreviewImage(io.ComfyNode):
    """Saves pictures into the temp folder."""

    WRITES_TO = "temp"

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="PreviewImage",
            display_name="Preview Image",
            category="image",
            is_output_node=True,
            inputs=[io.Image.Input("images")],
            hidden=[io.Hidden.prompt, io.Hidden.extra_pnginfo],
        )

    @classmethod
    def execute(cls, images: torch.Tensor) -> io.NodeOutput:
        return io.NodeOutput(
            ui={"images": save_pictures(images, "ComfyUI_temp_headless", "temp", cls.hidden)}
        )


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
