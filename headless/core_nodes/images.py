"""Stand-ins for ComfyUI's nodes that make, cut, turn, combine and batch images."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...host.api import io
from ...nodes.sockets import connected
from .factory import by_name, node, number, side
from .scaling import centre_crop, resize

if TYPE_CHECKING:
    from torch import Tensor

_BATCHED = 50  # most images of a Batch Images node
GREY = 0.5  # the colour of the canvas that ImagePadForOutpaint adds


def empty_image(width: int, height: int, batch_size: int = 1, color: int = 0) -> Tensor:
    """An image of one colour, 0xRRGGBB."""
    import torch

    rgb = torch.tensor([(color >> shift & 0xFF) / 0xFF for shift in (16, 8, 0)])
    return rgb.expand(batch_size, height, width, 3).clone()


def crop(image: Tensor, width: int, height: int, x: int, y: int) -> Tensor:
    """Cut out a part, limited to the image."""
    x, y = min(x, image.shape[2] - 1), min(y, image.shape[1] - 1)
    return image[:, y : y + height, x : x + width]


def pad_for_outpaint(
    image: Tensor, left: int, top: int, right: int, bottom: int, feathering: int
) -> io.NodeOutput:
    """Add grey canvas; the mask is 1 there and fades into the image over `feathering` pixels."""
    import torch

    count, height, width, channels = image.shape
    size = (height + top + bottom, width + left + right)
    canvas = torch.full((count, *size, channels), GREY, dtype=torch.float32)
    inside = (slice(top, top + height), slice(left, left + width))
    canvas[:, inside[0], inside[1]] = image
    mask = torch.ones(size)
    mask[inside] = _fade(height, width, (top, bottom, left, right), feathering)
    return io.NodeOutput(canvas, mask[None])


def _fade(height: int, width: int, padding: tuple[int, int, int, int], feathering: int) -> Tensor:
    """[H,W]: 1 at a padded side, falling with the square of the distance to 0 at `feathering`."""
    import torch

    fade = torch.zeros(height, width)
    if feathering <= 0 or feathering * 2 >= min(height, width):
        return fade
    rows, columns = torch.arange(height)[:, None], torch.arange(width)[None]
    distances = (rows, height - rows, columns, width - columns)
    nearest = torch.full((height, width), feathering)
    for distance, pixels in zip(distances, padding, strict=True):
        if pixels:
            nearest = torch.minimum(nearest, distance)
    return ((feathering - nearest).float() / feathering) ** 2


def invert(image: Tensor) -> Tensor:
    """1 - image."""
    return 1.0 - image


def composite(
    destination: Tensor,
    source: Tensor,
    x: int,
    y: int,
    resize_source: bool,
    mask: Tensor | None = None,
) -> Tensor:
    """Paste an image onto another at (x, y), where the mask is 1."""
    import torch

    channels = max(destination.shape[-1], source.shape[-1])
    image, over = (
        torch.nn.functional.pad(t, (0, channels - t.shape[-1]), value=1.0).clone()
        for t in (destination, source)
    )
    if resize_source:
        over = resize(over, image.shape[2], image.shape[1], "bilinear")
    over = over[torch.arange(len(image)) % len(over)]
    x, y = min(x, image.shape[2]), min(y, image.shape[1])
    part = image[:, y : y + over.shape[1], x : x + over.shape[2]]
    share = torch.ones(len(image), *over.shape[1:3], 1)
    if mask is not None:
        share = resize(
            mask.reshape(-1, *mask.shape[-2:])[..., None], over.shape[2], over.shape[1], "bilinear"
        )
        share = share[torch.arange(len(image)) % len(share)]
    over, share = (t[:, : part.shape[1], : part.shape[2]] for t in (over, share))
    part[:] = share * over + (1.0 - share) * part
    return image


def join_alpha(image: Tensor, alpha: Tensor) -> Tensor:
    """Make an image transparent where the mask is 1."""
    import torch

    mask = alpha.reshape(-1, *alpha.shape[-2:])[..., None]
    mask = resize(mask, image.shape[2], image.shape[1], "bilinear")
    joined = image.new_empty(max(len(image), len(mask)), *image.shape[1:3], 4)
    for k, out in enumerate(joined):  # nothing else of this size is made: it may be large
        out[..., :3] = image[k % len(image), ..., :3]
        torch.sub(1.0, mask[k % len(mask), ..., 0], out=out[..., 3])
    return joined


def flip(image: Tensor, flip_method: str) -> Tensor:
    """Mirror."""
    return image.flip(1 if flip_method.startswith("x") else 2)


def rotate(image: Tensor, rotation: str) -> Tensor:
    """Rotate clockwise by quarter turns."""
    return image.rot90(_ROTATIONS.index(rotation), (2, 1))


def batch(image1: Tensor, image2: Tensor) -> Tensor:
    """Put both in one batch: the second gets the size of the first, RGB next to RGBA gets alpha."""
    import torch

    channels = max(image1.shape[-1], image2.shape[-1])
    first, second = (
        torch.nn.functional.pad(x, (0, channels - x.shape[-1]), value=1.0) for x in (image1, image2)
    )
    if first.shape[1:] != second.shape[1:]:
        height, width = first.shape[1:3]
        second = resize(centre_crop(second, width / height), width, height, "bilinear")
    return torch.cat([first, second])


def repeat(image: Tensor, amount: int) -> Tensor:
    """Repeat the batch."""
    return image.repeat(amount, 1, 1, 1)


def take(image: Tensor, batch_index: int, length: int) -> Tensor:
    """Take a part of the batch."""
    start = min(batch_index, len(image) - 1)
    return image[start : start + length].clone()


_FLIPS = ["x-axis: vertically", "y-axis: horizontally"]
_ROTATIONS = ["none", "90 degrees", "180 degrees", "270 degrees"]


def batch_all(**images: Tensor) -> Tensor:
    """Put up to 50 images into one batch, in the size of the first."""
    pictures = connected(images, {})
    made = pictures[0]
    for picture in pictures[1:]:
        made = batch(made, picture)
    return made


IMAGE_NODES = by_name(
    node(
        "EmptyImage",
        empty_image,
        lambda: [
            side("width", 512, 1),
            side("height", 512, 1),
            number("batch_size", 1, 1, 4096),
            number("color", 0, 0, 0xFFFFFF, 1),
        ],
        display_name="EmptyImage",
        category="image",
    ),
    node(
        "ImageCrop",
        crop,
        lambda: [
            io.Image.Input("image"),
            side("width", 512, 1),
            side("height", 512, 1),
            side("x"),
            side("y"),
        ],
        display_name="Image Crop",
        category="image/transform",
    ),
    node(
        "ImagePadForOutpaint",
        pad_for_outpaint,
        lambda: [
            io.Image.Input("image"),
            *(side(name, step=8) for name in ("left", "top", "right", "bottom")),
            side("feathering", 40),
        ],
        lambda: [io.Image.Output(), io.Mask.Output()],
        display_name="Pad Image for Outpainting",
        category="image",
    ),
    node(
        "ImageInvert",
        invert,
        lambda: [io.Image.Input("image")],
        display_name="Invert Image",
        category="image",
    ),
    node(
        "ImageCompositeMasked",
        composite,
        lambda: [
            io.Image.Input("destination"),
            io.Image.Input("source"),
            side("x"),
            side("y"),
            io.Boolean.Input("resize_source", default=False),
            io.Mask.Input("mask", optional=True),
        ],
        category="image",
    ),
    node(
        "JoinImageWithAlpha",
        join_alpha,
        lambda: [io.Image.Input("image"), io.Mask.Input("alpha")],
        display_name="Join Image with Alpha",
        category="mask/compositing",
    ),
    node(
        "ImageFlip",
        flip,
        lambda: [io.Image.Input("image"), io.Combo.Input("flip_method", options=_FLIPS)],
        category="image/transform",
    ),
    node(
        "ImageRotate",
        rotate,
        lambda: [io.Image.Input("image"), io.Combo.Input("rotation", options=_ROTATIONS)],
        category="image/transform",
    ),
    node(
        "ImageBatch",
        batch,
        lambda: [io.Image.Input("image1"), io.Image.Input("image2")],
        display_name="Batch Images",
        category="image",
    ),
    node(
        "BatchImagesNode",
        batch_all,
        lambda: [io.Image.Input(f"images.image{n}", optional=n > 0) for n in range(_BATCHED)],
        display_name="Batch Images",
        category="image/batch",
    ),
    node(
        "RepeatImageBatch",
        repeat,
        lambda: [io.Image.Input("image"), number("amount", 1, 1, 4096)],
        category="image/batch",
    ),
    node(
        "ImageFromBatch",
        take,
        lambda: [
            io.Image.Input("image"),
            number("batch_index", 0, 0, 4095),
            number("length", 1, 1, 4096),
        ],
        category="image/batch",
    ),
)
