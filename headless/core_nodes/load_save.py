"""Stand-ins for the nodes of ComfyUI that load and save images."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import TYPE_CHECKING

from ...errors import InkstoneError
from ...files.images import frames
from ...host import directories
from ...host.api import io
from ...host.save_images import save_pictures

if TYPE_CHECKING:
    import torch


class LoadImageMask(io.ComfyNode):
    """One channel of a picture as a mask; of alpha, what is transparent."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        pass

        return io.Schema(
            node_id="LoadImageMask",
            display_name="Load Image (as Mask)",
            category="mask",
            inputs=[
                io.Combo.Input("image", options=picture_names(), upload=io.UploadType.image),
                io.Combo.Input("channel", options=["alpha", "red", "green", "blue"]),
            ],
            outputs=[io.Mask.Output()],
        )

    @classmethod
    def validate_inputs(cls, image: str) -> bool | str:
        pass

        return LoadImage.validate_inputs(image)

    @classmethod
    def fingerprint_inputs(cls, image: str, channel: str) -> str:
        pass

        return hashlib.sha256(picture_path(image).read_bytes()).hexdigest()

    @classmethod
    def execute(cls, image: str, channel: str) -> io.NodeOutput:
        import torch

        pass
        from ...files.images import frames

        ((colours, alpha),) = frames(picture_path(image), most=1)
        if channel != "alpha":
            index = ("red", "green", "blue").index(channel)
            return io.NodeOutput(torch.from_numpy(colours[..., index].copy())[None])
        made = torch.zeros(1, 64, 64) if alpha is None else 1.0 - torch.from_numpy(alpha)[None]
        return io.NodeOutput(made)


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


def picture_path(name: str) -> Path:
    """The file behind a LoadImage name: "x.png", "sub/x.png", "x.png [output]", or a full path."""
    match = re.fullmatch(r"(.*?)(?: \[(input|output|temp)\])?", name, re.DOTALL)
    folders = {"output": directories.output_directory, "temp": directories.temp_directory}
    base = folders.get(match[2] or "input", directories.input_directory)()
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
    folder = directories.input_directory()
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
