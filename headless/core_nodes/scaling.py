"""Stand-ins for ComfyUI's nodes that resize images."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

from ...host.api import io
from ..node_types import SchemaInput
from .factory import METHODS, by_name, node, side

if TYPE_CHECKING:
    from torch import Tensor

# core's list has bilinear twice
_SIDE_METHODS = ["area", "lanczos", "bilinear", "nearest-exact", "bilinear", "bicubic"]


def resize(image: Tensor, width: int, height: int, method: str) -> Tensor:
    """[B,H,W,C] -> [B,height,width,C]; lanczos goes through 8-bit pictures, as in core. The same
    tensor where nothing changes.
    """
    import numpy as np
    import torch
    from PIL import Image

    if method != "lanczos":
        if image.shape[1:3] == (height, width):
            return image
        planes = image.movedim(-1, 1)
        scaled = torch.nn.functional.interpolate(planes, size=(height, width), mode=method)
        return scaled.movedim(1, -1)
    pixels = np.clip(image.cpu().float().numpy() * 255.0, 0, 255).astype(np.uint8)
    pictures = [
        np.asarray(Image.fromarray(item).resize((width, height), Image.Resampling.LANCZOS))
        for item in pixels
    ]
    scaled = torch.from_numpy(np.stack(pictures).astype(np.float32) / 255.0)
    return scaled.to(image.device, image.dtype)


def centre_crop(image: Tensor, aspect: float) -> Tensor:
    """[B,H,W,C] cropped in the middle to about width/height = aspect, equally on both sides."""
    height, width = image.shape[1:3]
    x = max(0, round((width - height * aspect) / 2))
    y = max(0, round((height - width / aspect) / 2))
    return image[:, y : height - y, x : width - x]


def scale(image: Tensor, upscale_method: str, width: int, height: int, crop: str) -> Tensor:
    """Resize; a side of 0 follows from the other, both 0 leave the image unchanged."""
    if width == 0 and height == 0:
        return image
    old_height, old_width = image.shape[1:3]
    width = width or max(1, round(old_width * height / old_height))
    height = height or max(1, round(old_height * width / old_width))
    if crop == "center":
        image = centre_crop(image, width / height)
    return resize(image, width, height, upscale_method)


def scale_by(image: Tensor, upscale_method: str, scale_by: float) -> Tensor:
    """Multiply both sides by a factor."""
    height, width = image.shape[1:3]
    return resize(image, round(width * scale_by), round(height * scale_by), upscale_method)


def scale_to_pixels(
    image: Tensor, upscale_method: str, megapixels: float, resolution_steps: int = 1
) -> Tensor:
    """Resize to a number of pixels (a megapixel is 1024 x 1024), keeping the aspect.

    Sides are multiples of resolution_steps, an input that older versions of the node lack.
    """
    height, width = image.shape[1:3]
    factor = math.sqrt(megapixels * 1024 * 1024 / (width * height)) / resolution_steps
    new_width, new_height = (round(side * factor) * resolution_steps for side in (width, height))
    return resize(image, new_width, new_height, upscale_method)


def scale_to_side(image: Tensor, upscale_method: str, largest_size: int) -> Tensor:
    """Resize the longer side to largest_size, keeping the aspect."""
    height, width = image.shape[1:3]
    longest = max(height, width)
    new_width, new_height = (
        largest_size if side == longest else round(side / longest * largest_size)
        for side in (width, height)
    )
    return resize(image, new_width, new_height, upscale_method)


def image_size(image: Tensor) -> io.NodeOutput:
    """Width, height, batch size."""
    return io.NodeOutput(image.shape[2], image.shape[1], image.shape[0])


def _inputs(
    *more: Callable[[], SchemaInput], methods: list[str] = METHODS
) -> Callable[[], list[SchemaInput]]:
    return lambda: [
        io.Image.Input("image"),
        io.Combo.Input("upscale_method", options=methods),
        *(make() for make in more),
    ]


SCALING_NODES = by_name(
    node(
        "ImageScale",
        scale,
        _inputs(
            lambda: side("width", 512),
            lambda: side("height", 512),
            lambda: io.Combo.Input("crop", options=["disabled", "center"]),
        ),
        display_name="Upscale Image",
        category="image/upscaling",
    ),
    node(
        "ImageScaleBy",
        scale_by,
        _inputs(lambda: io.Float.Input("scale_by", default=1.0, min=0.01, max=8.0, step=0.01)),
        display_name="Upscale Image By",
        category="image/upscaling",
    ),
    node(
        "ImageScaleToTotalPixels",
        scale_to_pixels,
        _inputs(
            lambda: io.Float.Input("megapixels", default=1.0, min=0.01, max=16.0, step=0.01),
            lambda: io.Int.Input("resolution_steps", default=1, min=1, max=256, optional=True),
        ),
        category="image/upscaling",
    ),
    node(
        "ImageScaleToMaxDimension",
        scale_to_side,
        _inputs(lambda: side("largest_size", 512), methods=_SIDE_METHODS),
        category="image/upscaling",
    ),
    node(
        "GetImageSize",
        image_size,
        lambda: [io.Image.Input("image")],
        lambda: [io.Int.Output(display_name=n) for n in ("width", "height", "batch_size")],
        display_name="Get Image Size",
        category="image",
    ),
)
