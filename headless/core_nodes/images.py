"""Stand-ins for ComfyUI's nodes that change sizes, cut, batch and mix pictures.

Sockets, defaults and values are the core's (host 0.3.64); the code is ours.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ...host.api import io

if TYPE_CHECKING:
    import torch

MAX_SIDE = 16384
METHODS = ["nearest-exact", "bilinear", "area", "bicubic", "lanczos"]
GREY = 0.5  # of what ImagePadForOutpaint adds


def resize(image: torch.Tensor, width: int, height: int, method: str) -> torch.Tensor:
    """[B,H,W,C] -> [B,height,width,C]; lanczos goes through 8-bit pictures, as in the core."""
    import numpy as np
    import torch
    from PIL import Image

    if method != "lanczos":
        planes = image.movedim(-1, 1)
        made = torch.nn.functional.interpolate(planes, size=(height, width), mode=method)
        return made.movedim(1, -1)
    bytes_ = np.clip(image.cpu().float().numpy() * 255.0, 0, 255).astype(np.uint8)
    resized = [
        np.asarray(Image.fromarray(item).resize((width, height), Image.Resampling.LANCZOS))
        for item in bytes_
    ]
    made = torch.from_numpy(np.stack(resized).astype(np.float32) / 255.0)
    return made.to(image.device, image.dtype)


def centre_crop(image: torch.Tensor, aspect: float) -> torch.Tensor:
    """[B,H,W,C] cut in the middle to about width/height = aspect, the same amount on both sides."""
    height, width = image.shape[1:3]
    x = max(0, round((width - height * aspect) / 2))
    y = max(0, round((height - width / aspect) / 2))
    return image[:, y : height - y, x : width - x]


def _side(name: str, default: int = 0, low: int = 0, step: int = 1) -> Any:
    return io.Int.Input(name, default=default, min=low, max=MAX_SIDE, step=step)


def _image(name: str = "image") -> Any:
    return io.Image.Input(name)


def _node(
    name: str, inputs: Callable[[], list], run: Callable, outputs: Any = None, **told: Any
) -> type[io.ComfyNode]:
    """A node class of one function. `inputs` makes them anew; told: fields of its schema."""

    class Made(io.ComfyNode):
        __doc__ = run.__doc__

        @classmethod
        def define_schema(cls) -> io.Schema:
            made = outputs() if outputs else [io.Image.Output()]
            return io.Schema(node_id=name, inputs=inputs(), outputs=made, **told)

        @classmethod
        def execute(cls, **given: Any) -> io.NodeOutput:
            made = run(**given)
            return made if isinstance(made, io.NodeOutput) else io.NodeOutput(made)

    Made.__name__ = Made.__qualname__ = name
    return Made


def scaled_by(image: torch.Tensor, upscale_method: str, scale_by: float) -> torch.Tensor:
    """Both sides times a factor."""
    height, width = image.shape[1:3]
    return resize(image, round(width * scale_by), round(height * scale_by), upscale_method)


def scaled_to_pixels(
    image: torch.Tensor, upscale_method: str, megapixels: float, resolution_steps: int = 1
) -> torch.Tensor:
    """So many pixels in all (a megapixel is 1024 x 1024), the aspect kept; sides are multiples of
    resolution_steps, which older versions of the node lack.
    """
    height, width = image.shape[1:3]
    factor = math.sqrt(megapixels * 1024 * 1024 / (width * height)) / resolution_steps
    sides = (round(side * factor) * resolution_steps for side in (width, height))
    return resize(image, *sides, upscale_method)


def scaled_to_side(image: torch.Tensor, upscale_method: str, largest_size: int) -> torch.Tensor:
    """The longer side becomes largest_size, the aspect kept."""
    height, width = image.shape[1:3]
    longest = max(height, width)
    sides = (
        largest_size if side == longest else round(side / longest * largest_size)
        for side in (width, height)
    )
    return resize(image, *sides, upscale_method)


def size_of(image: torch.Tensor) -> io.NodeOutput:
    """Width, height, count."""
    return io.NodeOutput(image.shape[2], image.shape[1], image.shape[0])


def cropped(image: torch.Tensor, width: int, height: int, x: int, y: int) -> torch.Tensor:
    """A part, cut off at the edges of the picture."""
    x, y = min(x, image.shape[2] - 1), min(y, image.shape[1] - 1)
    return image[:, y : y + height, x : x + width]


def cropped_mask(mask: torch.Tensor, width: int, height: int, x: int, y: int) -> torch.Tensor:
    """A part of a mask."""
    return cropped(mask.reshape(-1, *mask.shape[-2:])[..., None], width, height, x, y)[..., 0]


def padded(
    image: torch.Tensor, left: int, top: int, right: int, bottom: int, feathering: int
) -> io.NodeOutput:
    """More canvas in grey; the mask is 1 there and fades into the picture over `feathering`."""
    import torch

    count, height, width, channels = image.shape
    size = (height + top + bottom, width + left + right)
    canvas = torch.full((count, *size, channels), GREY, dtype=torch.float32)
    inside = (slice(top, top + height), slice(left, left + width))
    canvas[:, inside[0], inside[1]] = image
    mask = torch.ones(size)
    mask[inside] = _faded(height, width, (top, bottom, left, right), feathering)
    return io.NodeOutput(canvas, mask[None])


def _faded(height: int, width: int, added: tuple[int, int, int, int], feathering: int) -> Any:
    """[H,W]: the square of how near a pixel is to a side that grew; 0 from `feathering` on."""
    import torch

    fade = torch.zeros(height, width)
    if feathering <= 0 or feathering * 2 >= min(height, width):
        return fade
    rows, columns = torch.arange(height)[:, None], torch.arange(width)[None]
    distances = (rows, height - rows, columns, width - columns)
    near = torch.full((height, width), feathering)
    for distance, more in zip(distances, added, strict=True):
        if more:
            near = torch.minimum(near, distance)
    return ((feathering - near).float() / feathering) ** 2


def batched(image1: torch.Tensor, image2: torch.Tensor) -> torch.Tensor:
    """Both in one batch: the second takes the size of the first, RGB gets alpha beside RGBA."""
    import torch

    most = max(image1.shape[-1], image2.shape[-1])
    pair = [
        torch.nn.functional.pad(x, (0, most - x.shape[-1]), value=1.0) for x in (image1, image2)
    ]
    if pair[0].shape[1:] != pair[1].shape[1:]:
        height, width = pair[0].shape[1:3]
        pair[1] = resize(centre_crop(pair[1], width / height), width, height, "bilinear")
    return torch.cat(pair)


def repeated(image: torch.Tensor, amount: int) -> torch.Tensor:
    """The batch so many times."""
    return image.repeat(amount, 1, 1, 1)


def taken(image: torch.Tensor, batch_index: int, length: int) -> torch.Tensor:
    """Some of a batch."""
    start = min(batch_index, len(image) - 1)
    return image[start : start + length].clone()


def inverted(image: torch.Tensor) -> torch.Tensor:
    """1 - picture."""
    return 1.0 - image


def composed(
    destination: torch.Tensor,
    source: torch.Tensor,
    x: int,
    y: int,
    resize_source: bool,
    mask: torch.Tensor | None = None,
) -> torch.Tensor:
    """A picture laid over another at (x, y), where the mask is 1."""
    import torch

    channels = max(destination.shape[-1], source.shape[-1])
    made, over = (
        torch.nn.functional.pad(t, (0, channels - t.shape[-1]), value=1.0).clone()
        for t in (destination, source)
    )
    if resize_source:
        over = resize(over, made.shape[2], made.shape[1], "bilinear")
    over = over[torch.arange(len(made)) % len(over)]
    x, y = min(x, made.shape[2]), min(y, made.shape[1])
    part = made[:, y : y + over.shape[1], x : x + over.shape[2]]
    share = torch.ones(len(made), *over.shape[1:3], 1)
    if mask is not None:
        share = resize(
            mask.reshape(-1, *mask.shape[-2:])[..., None], over.shape[2], over.shape[1], "bilinear"
        )
        share = share[torch.arange(len(made)) % len(share)]
    over, share = (t[:, : part.shape[1], : part.shape[2]] for t in (over, share))
    part[:] = share * over + (1.0 - share) * part
    return made


def with_alpha(image: torch.Tensor, alpha: torch.Tensor) -> torch.Tensor:
    """A picture that is transparent where the mask is 1."""
    import torch

    mask = alpha.reshape(-1, *alpha.shape[-2:])[..., None]
    mask = resize(mask, image.shape[2], image.shape[1], "bilinear")
    every = torch.arange(max(len(image), len(mask)))
    pair = (image[every % len(image), ..., :3], 1.0 - mask[every % len(mask)])
    return torch.cat(pair, dim=-1)


def mask_to_image(mask: torch.Tensor) -> torch.Tensor:
    """A mask as a grey picture."""
    return mask.reshape(-1, *mask.shape[-2:])[..., None].repeat(1, 1, 1, 3)


def image_to_mask(image: torch.Tensor, channel: str) -> torch.Tensor:
    """One channel of a picture."""
    return image[..., ["red", "green", "blue", "alpha"].index(channel)].clone()


def threshold(mask: torch.Tensor, value: float) -> torch.Tensor:
    """1 where the mask is above the value."""
    return (mask > value).to(mask.dtype)


def flipped(image: torch.Tensor, flip_method: str) -> torch.Tensor:
    """Mirrored."""
    return image.flip(1 if flip_method.startswith("x") else 2)


def turned(image: torch.Tensor, rotation: str) -> torch.Tensor:
    """Turned clockwise by quarters."""
    quarters = {"none": 0, "90 degrees": 1, "180 degrees": 2, "270 degrees": 3}[rotation]
    return image.rot90(quarters, (2, 1))


def _scale(*rest: Callable[[], Any], methods: list[str] = METHODS) -> Callable[[], list]:
    return lambda: [
        _image(),
        io.Combo.Input("upscale_method", options=methods),
        *(make() for make in rest),
    ]


def _masks() -> list:
    return [io.Mask.Output()]


_FLIPS = ["x-axis: vertically", "y-axis: horizontally"]
_TURNS = ["none", "90 degrees", "180 degrees", "270 degrees"]
_SIDES = ["area", "lanczos", "bilinear", "nearest-exact", "bilinear", "bicubic"]
_UP, _BATCH, _TURN = "image/upscaling", "image/batch", "image/transform"

IMAGE_NODES = [
    _node(
        "ImageScaleBy",
        _scale(lambda: io.Float.Input("scale_by", default=1.0, min=0.01, max=8.0, step=0.01)),
        scaled_by,
        display_name="Upscale Image By",
        category=_UP,
    ),
    _node(
        "ImageScaleToTotalPixels",
        _scale(
            lambda: io.Float.Input("megapixels", default=1.0, min=0.01, max=16.0, step=0.01),
            lambda: io.Int.Input("resolution_steps", default=1, min=1, max=256, optional=True),
        ),
        scaled_to_pixels,
        category=_UP,
    ),
    _node(
        "ImageScaleToMaxDimension",
        _scale(lambda: _side("largest_size", 512), methods=_SIDES),
        scaled_to_side,
        category=_UP,
    ),
    _node(
        "GetImageSize",
        lambda: [_image()],
        size_of,
        lambda: [io.Int.Output(display_name=n) for n in ("width", "height", "batch_size")],
        display_name="Get Image Size",
        category="image",
    ),
    _node(
        "ImageCrop",
        lambda: [_image(), _side("width", 512, 1), _side("height", 512, 1), _side("x"), _side("y")],
        cropped,
        display_name="Image Crop",
        category=_TURN,
    ),
    _node(
        "CropMask",
        lambda: [
            io.Mask.Input("mask"),
            _side("x"),
            _side("y"),
            _side("width", 512, 1),
            _side("height", 512, 1),
        ],
        cropped_mask,
        _masks,
        category="mask",
    ),
    _node(
        "ImagePadForOutpaint",
        lambda: [
            _image(),
            *(_side(n, step=8) for n in ("left", "top", "right", "bottom")),
            _side("feathering", 40),
        ],
        padded,
        lambda: [io.Image.Output(), io.Mask.Output()],
        display_name="Pad Image for Outpainting",
        category="image",
    ),
    _node(
        "ImageBatch",
        lambda: [_image("image1"), _image("image2")],
        batched,
        display_name="Batch Images",
        category="image",
    ),
    _node(
        "RepeatImageBatch",
        lambda: [_image(), io.Int.Input("amount", default=1, min=1, max=4096)],
        repeated,
        category=_BATCH,
    ),
    _node(
        "ImageFromBatch",
        lambda: [
            _image(),
            io.Int.Input("batch_index", default=0, min=0, max=4095),
            io.Int.Input("length", default=1, min=1, max=4096),
        ],
        taken,
        category=_BATCH,
    ),
    _node(
        "ImageInvert", lambda: [_image()], inverted, display_name="Invert Image", category="image"
    ),
    _node(
        "ImageCompositeMasked",
        lambda: [
            _image("destination"),
            _image("source"),
            _side("x"),
            _side("y"),
            io.Boolean.Input("resize_source", default=False),
            io.Mask.Input("mask", optional=True),
        ],
        composed,
        category="image",
    ),
    _node(
        "JoinImageWithAlpha",
        lambda: [_image(), io.Mask.Input("alpha")],
        with_alpha,
        display_name="Join Image with Alpha",
        category="mask/compositing",
    ),
    _node(
        "MaskToImage",
        lambda: [io.Mask.Input("mask")],
        mask_to_image,
        display_name="Convert Mask to Image",
        category="mask",
    ),
    _node(
        "ImageToMask",
        lambda: [_image(), io.Combo.Input("channel", options=["red", "green", "blue", "alpha"])],
        image_to_mask,
        _masks,
        display_name="Convert Image to Mask",
        category="mask",
    ),
    _node(
        "ThresholdMask",
        lambda: [
            io.Mask.Input("mask"),
            io.Float.Input("value", default=0.5, min=0.0, max=1.0, step=0.01),
        ],
        threshold,
        _masks,
        category="mask",
    ),
    _node(
        "ImageFlip",
        lambda: [_image(), io.Combo.Input("flip_method", options=_FLIPS)],
        flipped,
        category=_TURN,
    ),
    _node(
        "ImageRotate",
        lambda: [_image(), io.Combo.Input("rotation", options=_TURNS)],
        turned,
        category=_TURN,
    ),
]
