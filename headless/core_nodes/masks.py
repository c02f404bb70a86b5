"""Stand-ins for ComfyUI's nodes of masks."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...host.api import io
from .factory import MAX_SIDE, by_name, mask_output, node, side
from .images import crop

if TYPE_CHECKING:
    from torch import Tensor

OPERATIONS = ["multiply", "add", "subtract", "and", "or", "xor"]
CHANNELS = ["red", "green", "blue", "alpha"]


def _planes(mask: Tensor) -> Tensor:
    """[H,W] or [B,H,W] -> [B,H,W]."""
    return mask.reshape(-1, *mask.shape[-2:])


def solid(value: float, width: int, height: int) -> Tensor:
    """A mask of one value."""
    import torch

    return torch.full((1, height, width), value)


def invert(mask: Tensor) -> Tensor:
    """1 - mask."""
    return 1.0 - mask


def composite(destination: Tensor, source: Tensor, x: int, y: int, operation: str) -> Tensor:
    """Combine a mask with another at (x, y)."""
    mask, source = _planes(destination).clone(), _planes(source)
    part = mask[:, y : y + source.shape[1], x : x + source.shape[2]]
    source = source[:, : part.shape[1], : part.shape[2]]
    a, b = part.round().bool(), source.round().bool()
    part[:] = {
        "multiply": part * source,
        "add": part + source,
        "subtract": part - source,
        "and": (a & b).float(),
        "or": (a | b).float(),
        "xor": (a ^ b).float(),
    }[operation]
    return mask.clamp(0.0, 1.0)


def feather(mask: Tensor, left: int, top: int, right: int, bottom: int) -> Tensor:
    """Fade a mask out over a number of pixels at each edge of the image."""
    mask = _planes(mask).clone()
    mask *= _ramp(mask.shape[2], left, right)
    mask *= _ramp(mask.shape[1], top, bottom)[:, None]
    return mask


def _ramp(length: int, first: int, last: int) -> Tensor:
    """[length]: rises 1/n, 2/n ... over the first n places, and likewise towards the end."""
    import torch

    ramp, first, last = torch.ones(length), min(first, length), min(last, length)
    if first:
        ramp[:first] *= torch.arange(1, first + 1) / first
    if last:
        ramp[length - last :] *= torch.arange(last, 0, -1) / last
    return ramp


def grow(mask: Tensor, expand: int, tapered_corners: bool) -> Tensor:
    """Grow a mask by a number of pixels, or shrink it if the number is negative."""
    mask = _planes(mask).clone()
    sign = 1 if expand >= 0 else -1  # to shrink is to grow the rest
    for _ in range(abs(expand)):
        mask = sign * _largest_neighbour(sign * mask, tapered_corners)
    return mask


def _largest_neighbour(mask: Tensor, tapered: bool) -> Tensor:
    """[B,H,W]: the largest of a pixel and its 4 (tapered) or 8 neighbours."""
    from torch.nn.functional import max_pool2d

    if not tapered:
        return max_pool2d(mask, 3, 1, 1)
    across = max_pool2d(mask, (1, 3), 1, (0, 1))
    return across.maximum(max_pool2d(mask, (3, 1), 1, (1, 0)))


def crop_mask(mask: Tensor, width: int, height: int, x: int, y: int) -> Tensor:
    """Cut out a part of a mask."""
    return crop(_planes(mask)[..., None], width, height, x, y)[..., 0]


def mask_to_image(mask: Tensor) -> Tensor:
    """Convert a mask to a grey image."""
    return _planes(mask)[..., None].repeat(1, 1, 1, 3)


def image_to_mask(image: Tensor, channel: str) -> Tensor:
    """Take one channel of an image."""
    return image[..., CHANNELS.index(channel)].clone()


def threshold(mask: Tensor, value: float) -> Tensor:
    """1 where the mask is above the value."""
    return (mask > value).to(mask.dtype)


MASK_NODES = by_name(
    node(
        "SolidMask",
        solid,
        lambda: [
            io.Float.Input("value", default=1.0, min=0.0, max=1.0, step=0.01),
            side("width", 512, 1),
            side("height", 512, 1),
        ],
        mask_output,
        category="mask",
    ),
    node("InvertMask", invert, lambda: [io.Mask.Input("mask")], mask_output, category="mask"),
    node(
        "MaskComposite",
        composite,
        lambda: [
            io.Mask.Input("destination"),
            io.Mask.Input("source"),
            side("x"),
            side("y"),
            io.Combo.Input("operation", options=OPERATIONS),
        ],
        mask_output,
        category="mask",
    ),
    node(
        "FeatherMask",
        feather,
        lambda: [
            io.Mask.Input("mask"),
            *(side(name) for name in ("left", "top", "right", "bottom")),
        ],
        mask_output,
        category="mask",
    ),
    node(
        "GrowMask",
        grow,
        lambda: [
            io.Mask.Input("mask"),
            side("expand", low=-MAX_SIDE),
            io.Boolean.Input("tapered_corners", default=True),
        ],
        mask_output,
        display_name="Grow Mask",
        category="mask",
    ),
    node(
        "CropMask",
        crop_mask,
        lambda: [
            io.Mask.Input("mask"),
            side("x"),
            side("y"),
            side("width", 512, 1),
            side("height", 512, 1),
        ],
        mask_output,
        category="mask",
    ),
    node(
        "MaskToImage",
        mask_to_image,
        lambda: [io.Mask.Input("mask")],
        display_name="Convert Mask to Image",
        category="mask",
    ),
    node(
        "ImageToMask",
        image_to_mask,
        lambda: [io.Image.Input("image"), io.Combo.Input("channel", options=CHANNELS)],
        mask_output,
        display_name="Convert Image to Mask",
        category="mask",
    ),
    node(
        "ThresholdMask",
        threshold,
        lambda: [
            io.Mask.Input("mask"),
            io.Float.Input("value", default=0.5, min=0.0, max=1.0, step=0.01),
        ],
        mask_output,
        category="mask",
    ),
)
