"""Stand-ins for ComfyUI's nodes that load and save pictures."""

from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import TYPE_CHECKING

from ...errors import InkstoneError
from ...files.hashes import picture_hash
from ...files.images import channel as read_channel
from ...files.images import frames
from ...files.paths import below, kind_of
from ...host import directories
from ...host.api import io
from ...host.headless import is_own_path, is_read
from ...host.save_images import save_pictures
from .factory import by_name

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

log = logging.getLogger(__name__)

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


WHAT_TO_DO = "Put it there or give --input"  # where a picture is absent
_NAME = re.compile(r"(.*?)(?: \[(input|output|temp)\])?", re.DOTALL)


def picture_path(name: str) -> Path:
    """The file behind a LoadImage name: "x.png", "sub/x.png", "x.png [output]", or a full path
    that the user gave.
    """
    match = _NAME.fullmatch(name) if isinstance(name, str) else None
    if match is None:
        raise InkstoneError(
            f"The picture's name is {type(name).__name__}: expected a text such as photo.png."
        )
    folders = {"output": directories.output_directory, "temp": directories.temp_directory}
    base = folders.get(match[2] or "input", directories.input_directory)()
    path = base / match[1] if is_own_path(match[1]) else below(base, match[1])
    if kind_of(path) != "a file":
        raise InkstoneError(f"No picture {name!r}: {path} does not exist. {WHAT_TO_DO}.")
    return path


def picture_names() -> list[str]:
    """The choices of LoadImage: the pictures of the input folder."""
    folder = directories.input_directory()
    files = folder.iterdir() if folder.is_dir() else []
    return sorted(file.name for file in files if file.suffix.lower() in PICTURE_SUFFIXES)


def _transparency(alpha: np.ndarray | None) -> Tensor:
    """[H,W]: 1 = transparent; 64x64 zeros if the file has no alpha, as in core."""
    import torch

    # in place: it may be large
    return torch.zeros(64, 64) if alpha is None else torch.from_numpy(alpha).neg_().add_(1.0)


def _note_hidden(name: str, colours: np.ndarray, alpha: np.ndarray | None) -> None:
    """One line where colours that nobody sees go to the next node."""
    from ...sampling.pixel_lock import TRANSPARENT

    hidden = None if alpha is None else alpha < TRANSPARENT
    if hidden is not None and (colours[hidden] < 1).any():
        log.info(
            "%s is transparent in %.1f %% of its area; Load Image passes on the colours that are "
            "hidden there, as ComfyUI's does. To have them white, connect its image and mask to "
            "Join Image with Alpha and use the result",
            name,
            100 * hidden.mean(),
        )


class _PictureNode(io.ComfyNode):
    """A node whose `image` names a file: checked before a run, and read again once it changes."""

    @classmethod
    def validate_inputs(cls, image: str) -> bool | str:
        try:
            picture_path(image)
        except InkstoneError as error:
            return str(error)
        return True

    @classmethod
    def fingerprint_inputs(cls, image: str) -> str:
        return picture_hash(picture_path(image))


class LoadImage(_PictureNode):
    """A picture from the input folder: IMAGE [B,H,W,3], MASK [B,H,W] with 1 = transparent."""

    ID = "LoadImage"
    SKIPS_UNREAD = (1,)  # says so where nobody reads what is transparent
    FRAMES: int | None = None  # how many are read; None: all

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id=cls.ID,
            display_name="Load Image",
            category="image",
            inputs=[io.Combo.Input("image", options=picture_names(), upload=io.UploadType.image)],
            outputs=[io.Image.Output(), io.Mask.Output()],
        )

    @classmethod
    def execute(cls, image: str) -> io.NodeOutput:
        import torch

        every = frames(picture_path(image), cls.FRAMES)
        if not is_read(1):
            _note_hidden(image, *every[0])
        same_size = [pair for pair in every if pair[0].shape == every[0][0].shape]
        pictures = [torch.from_numpy(colours) for colours, _ in same_size]
        masks = [_transparency(alpha) for _, alpha in same_size]
        # one is not copied: it may be large
        return io.NodeOutput(
            *(x[0][None] if len(x) == 1 else torch.stack(x) for x in (pictures, masks))
        )


class LoadFirstFrame(LoadImage):
    """The first frame alone, without decoding the others: what a draw takes of an animation. Only
    graphs that run here have it; a saved one has Load Image and ImageFromBatch.
    """

    ID = "InkstoneLoadFirstFrame"
    FRAMES = 1


class LoadImageMask(_PictureNode):
    """One channel of a picture as a mask; for alpha, 1 = transparent."""

    @classmethod
    def define_schema(cls) -> io.Schema:
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
    def execute(cls, image: str, channel: str) -> io.NodeOutput:
        import torch

        pixels = read_channel(picture_path(image), channel)
        if channel == "alpha" or pixels is None:
            return io.NodeOutput(_transparency(pixels)[None])
        return io.NodeOutput(torch.from_numpy(pixels)[None])


def _saved_inputs() -> list[io.Input]:
    """The pictures to save, and their name."""
    name = "Name, may hold folders."
    return [
        io.Image.Input("images", tooltip="The pictures to save."),
        io.String.Input("filename_prefix", default="ComfyUI", tooltip=name),
    ]


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
            inputs=_saved_inputs(),
            hidden=[io.Hidden.prompt, io.Hidden.extra_pnginfo],
        )

    @classmethod
    def execute(cls, images: Tensor, filename_prefix: str = "ComfyUI") -> io.NodeOutput:
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
    def execute(cls, images: Tensor) -> io.NodeOutput:
        return io.NodeOutput(
            ui={"images": save_pictures(images, "ComfyUI_temp_headless", "temp", cls.hidden)}
        )


class SaveImageAdvanced(io.ComfyNode):
    """Saves pictures as PREFIX_00001_.png with the graph inside, with alpha where they have it."""

    WRITES_TO = "output"

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SaveImageAdvanced",
            display_name="Save Image (Advanced)",
            category="image",
            is_output_node=True,
            inputs=[
                *_saved_inputs(),
                io.Combo.Input("format", options=None, default="png"),
                io.Combo.Input("format.bit_depth", options=None, default="8-bit", optional=True),
                io.Combo.Input(
                    "format.input_color_space", options=None, default="sRGB", optional=True
                ),
            ],
            outputs=[io.Image.Output(display_name="images")],
            hidden=[io.Hidden.prompt, io.Hidden.extra_pnginfo],
        )

    @classmethod
    def execute(
        cls, images: Tensor, filename_prefix: str, format: str, **options: str
    ) -> io.NodeOutput:
        asked = [format, *options.values()]
        if not set(asked) <= {"png", "8-bit", "sRGB"}:
            raise InkstoneError(
                f"Save Image (Advanced) asks for {', '.join(asked)}: expected png, 8-bit, sRGB, "
                "which is what is saved here. Choose those, or run the graph in ComfyUI."
            )
        saved = save_pictures(images, filename_prefix, "output", cls.hidden)
        return io.NodeOutput(images, ui={"images": saved})


class ImageCompare(io.ComfyNode):
    """Saves two pictures into the temp folder; the page shows one over the other."""

    WRITES_TO = "temp"

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ImageCompare",
            display_name="Compare Images",
            category="image",
            is_output_node=True,
            inputs=[io.Image.Input(f"image_{x}", optional=True) for x in "ab"],
            hidden=[io.Hidden.prompt, io.Hidden.extra_pnginfo],
        )

    @classmethod
    def execute(cls, image_a: Tensor | None = None, image_b: Tensor | None = None) -> io.NodeOutput:
        pictures = {"a": image_a, "b": image_b}
        shown = {
            f"{name}_images": []
            if picture is None
            else save_pictures(picture, f"comfy.compare.{name}", "temp", cls.hidden)
            for name, picture in pictures.items()
        }
        return io.NodeOutput(ui=shown)


FILE_NODES = by_name(
    LoadImage, LoadImageMask, SaveImage, SaveImageAdvanced, PreviewImage, ImageCompare
)
