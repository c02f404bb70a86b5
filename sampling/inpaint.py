"""Inpainting: paste, crop and stitch, outpainting.

Outside the mask the values of the original are kept bit by bit: nothing is added to them, not even
zero. A small part of a large picture is cropped with some context, edited at the model's full
resolution and pasted back; the rest is never touched. How masks work: masks.py.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import InkstoneError
from .geometry import FIRST_LATENTS, Box, LatentSpec, Sides, context_box, padded_size
from .masks import bounds, check_fits, check_soft, latent_mask, mask_for, soften
from .pixel_lock import Lock, Size, check_picture, colour, lock, size_of, visible

__all__ = ["Crop", "FILLS", "Repaint", "Sides", "bounds", "crop_for", "latent_mask", "mask_for"]
__all__ += ["pad_out", "paste", "soften", "stitch", "whole"]

FILLS = ("edge", "mirror", "grey")  # content of an outpainted part before it is drawn


def paste(original: Tensor, result: Tensor, mask: Tensor | None = None) -> Tensor:
    """original [B,H,W,C] with result [B,H,W,C] pasted where mask [n,H,W] is set; counts 1 or B.

    Where the mask is 0 the values are the original's, bit by bit, and where it is 1 the result's
    (None: everywhere). The alpha channel is kept unless the result has one; a grey picture becomes
    RGB if the result is.
    """
    check_picture(original)
    check_picture(result, "The result")
    if size_of(original) != size_of(result):
        raise InkstoneError(
            f"The result is {_size_text(result)}, the picture {_size_text(original)}: expected the "
            "same size. Crop the result with the pixel lock of its canvas."
        )
    count = _count(original, result, *(() if mask is None else (mask,)))
    result = result.to(original.device, original.dtype)
    original, result = _same_channels(original, result)
    if mask is None:
        return result.expand(count, -1, -1, -1).clone()
    check_fits(mask, size_of(original))
    out = original.expand(count, -1, -1, -1).clone()
    for i, item in enumerate(mask.to(out.device, torch.float32).expand(count, -1, -1)):
        if item.any():  # else all of it is kept
            box = bounds(item[None])
            part = result[min(i, len(result) - 1)][None]
            _blend(box.of(out[i][None]), box.of(part), box.of(item[None]))
    return out


def _blend(out: Tensor, new: Tensor, mask: Tensor) -> None:
    """Writes new over out, both [1,h,w,C]. Where the mask is 0 or 1 values are copied, not mixed:
    sums round, and -0.0 + 0 is 0.0."""
    m = mask[..., None]
    mixed = torch.lerp(out.float(), new.float(), m).to(out.dtype)
    out.copy_(torch.where(m <= 0, out, torch.where(m >= 1, new, mixed)))


@dataclass(frozen=True)
class Crop:
    """The part of a picture that is edited, and its pixel lock."""

    picture: Size
    box: Box
    lock: Lock  # its `picture` is the size of the box


def crop_for(
    mask: Tensor,
    margin: int = 64,
    area: int | None = None,
    enlarge: bool = True,
    latents: LatentSpec = FIRST_LATENTS,
) -> Crop:
    """The part around the marked area of mask [n,H,W], with `margin` pixels of context, edited at
    about `area` pixels: small parts are enlarged to the model's full resolution.
    """
    size = size_of(mask)
    box = context_box(bounds(mask), *size, margin)
    return Crop(size, box, lock(*box.size, area, enlarge, latents))


def whole(
    width: int,
    height: int,
    area: int | None = None,
    enlarge: bool = False,
    latents: LatentSpec = FIRST_LATENTS,
) -> Crop:
    """The whole picture as the part that is edited."""
    own = lock(width, height, area, enlarge, latents)
    return Crop((width, height), Box(0, 0, width, height), own)


def stitch(original: Tensor, result: Tensor, mask: Tensor, crop: Crop) -> Tensor:
    """original [B,H,W,C] with the edited part, result [B,h,w,C] of the crop's canvas, pasted where
    mask [n,H,W] is set; bit by bit the original elsewhere.
    """
    check_picture(original)
    check_fits(mask, crop.picture)
    if size_of(original) != crop.picture:
        raise InkstoneError(
            f"The picture is {_size_text(original)}, the crop was taken from {crop.picture[0]}x"
            f"{crop.picture[1]}. Pass the picture that the crop was taken from."
        )
    part = crop.lock.from_canvas(result)
    count = _count(original, part, mask)
    pasted = paste(crop.box.of(original), part, crop.box.of(mask))
    out = _same_channels(original, pasted)[0].expand(count, -1, -1, -1).clone()
    crop.box.of(out).copy_(pasted)
    return out


@dataclass(frozen=True, eq=False)
class Repaint:
    """Everything an inpainting carries from the mask to the finished picture."""

    picture: Tensor  # [B,H,W,C], the original
    mask: Tensor  # [n,H,W], grown and feathered
    crop: Crop

    def canvas(self) -> Tensor:
        """[B,h,w,3] of the crop's canvas, for the VAE."""
        return self.crop.lock.to_canvas(colour(visible(self.crop.box.of(self.picture))))

    def latent_mask(self) -> Tensor:
        """[n,1,h,w] in latent pixels of the crop's canvas: 1 = inpainted."""
        return latent_mask(self.crop.box.of(self.mask), self.crop.lock)

    def stitch(self, result: Tensor) -> Tensor:
        """The decoded canvas [B,h,w,C] -> the finished picture [B,H,W,C]."""
        return stitch(self.picture, result, self.mask, self.crop)


def pad_out(
    picture: Tensor, sides: Sides, fill: str = "edge", feather: int = 0
) -> tuple[Tensor, Tensor]:
    """(picture [B,H,W,C] with new parts on its sides, mask [1,H,W] of these, feathered inwards).

    fill: "edge" repeats the rim, "mirror" the picture, "grey" is plain; it shows through where the
    mask is feathered and where a denoising strength below 1 starts from it.
    """
    check_picture(picture)
    check_soft(0, feather)
    if fill not in FILLS:
        raise InkstoneError(f"Fill is {fill!r}: expected one of {', '.join(FILLS)}.")
    (width, height), size = size_of(picture), padded_size(*size_of(picture), sides)
    inner = Box(sides.left, sides.top, sides.left + width, sides.top + height)
    if fill == "grey":
        out = picture.new_full((len(picture), size[1], size[0], picture.shape[-1]), 0.5)
        out[..., 3:] = 1  # opaque
        inner.of(out).copy_(picture)
    else:
        place = _mirrored if fill == "mirror" else _clamped
        down, across = (
            place(whole, before, old).to(picture.device)
            for whole, before, old in ((size[1], sides.top, height), (size[0], sides.left, width))
        )
        out = picture[:, down][:, :, across]
    mask = torch.ones(1, size[1], size[0], device=picture.device)
    inner.of(mask).zero_()
    return out, soften(mask, feather=feather)


def _clamped(whole: int, before: int, old: int) -> Tensor:
    """Source index of each of `whole` pixels if those outside repeat the last one."""
    return (torch.arange(whole) - before).clamp(0, old - 1)


def _mirrored(whole: int, before: int, old: int) -> Tensor:
    """Source index if the picture is mirrored at its rims, as often as needed."""
    place = (torch.arange(whole) - before) % (2 * old)
    return torch.minimum(place, 2 * old - 1 - place)


def _count(*tensors: Tensor) -> int:
    """The common count of pictures, results and masks, each of which may also be one for all."""
    counts = [len(t) for t in tensors]
    if any(n not in (1, max(counts)) for n in counts):
        names = zip(counts, ("picture", "result", "mask"))
        listing = ", ".join(f"{n} {name}{'s' * (n > 1)}" for n, name in names)
        raise InkstoneError(
            f"{listing} do not match: expected one for all, or the same count of each. Select "
            "those that belong together."
        )
    return max(counts)


def _same_channels(original: Tensor, result: Tensor) -> tuple[Tensor, Tensor]:
    """Both with the channels that the finished picture has."""
    alpha = original.shape[-1] == 4 or result.shape[-1] == 4
    if original.shape[-1] == result.shape[-1]:
        return original, result
    pair = [colour(original), colour(result)]
    if alpha:
        own = original[..., 3:] if original.shape[-1] == 4 else torch.ones_like(original[..., :1])
        new = result[..., 3:] if result.shape[-1] == 4 else own.expand(len(result), -1, -1, -1)
        pair = [torch.cat([c, a], -1) for c, a in zip(pair, (own, new))]
    return pair[0], pair[1]


def _size_text(picture: Tensor) -> str:
    return f"{picture.shape[2]}x{picture.shape[1]}"
