"""Masks [n,H,W]: 1 = inpainted, 0 = kept. Four rules apply everywhere:

- Ends: up to NEARLY (8 of 255) from black is black, and as near to white is white. Other programs
  and JPEG write a black of 1 to 8, which would mark the whole picture.
- Size: a mask is stretched over the picture, and each pixel takes the greatest value of the mask
  pixels that it touches. So no marked pixel is lost, and hard masks stay hard. (The reference
  resizes in grey and thresholds at 0.5.)
- Latent cells are 8x8 pixels: one is inpainted if any of its pixels is, however faintly.
- A seam fades inside the mask only, over `feather` pixels. The rim of the picture is no seam.
"""

from __future__ import annotations

import logging

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import InkstoneError
from .geometry import Box
from .pixel_lock import Lock, Size, check_range, pad_edges, size_of

log = logging.getLogger(__name__)

MOST_SOFT = 512  # pixels to grow or feather: more is a typing error
NEARLY = 8.5 / 255  # a mask value this close to 0 or 1 is 0 or 1: 8-bit values 1..8 and 247..254
STRIP = 64  # columns at a time: a strip stays in the processor's cache


def mask_for(mask: Tensor, size: Size) -> Tensor:
    """Any mask ([H,W], [n,H,W], [n,1,H,W]; float 0..1 or bool) -> float32 [n,height,width]."""
    m = ends(_check_mask(mask))
    _note_inverted(m)
    (width, height), (w, h) = size_of(m), size
    if abs(width * h - height * w) > max(width * h, height * w) / 50:
        log.warning(
            "The mask is %dx%d, the picture %dx%d: the mask is stretched to another aspect ratio",
            *(width, height, w, h),
        )
    return touched(m, size)


def ends(mask: Tensor) -> Tensor:
    """Floats in 0..1 whose nearly black is 0 and nearly white is 1."""
    return mask.masked_fill(mask <= NEARLY, 0).masked_fill_(mask >= 1 - NEARLY, 1)


def _note_inverted(mask: Tensor) -> None:
    """One line where most is marked, with the whole rim, and only a part inside is not."""
    marked = mask >= 0.5
    share = marked.count_nonzero().item() / marked.numel()
    rims = (marked[:, 0], marked[:, -1], marked[:, :, 0], marked[:, :, -1])
    if 0.5 < share < 1 and all(bool(rim.all()) for rim in rims):
        log.info(
            "the mask marks %.0f %% with all of the rim: what is white is inpainted. If it is "
            "meant the other way round, invert it",
            100 * share,
        )


def soften(mask: Tensor, grow: int = 0, feather: int = 0) -> Tensor:
    """[n,H,W] grown (below 0: shrunk) by `grow` pixels, then feathered inside.

    Growing: pixels within `grow` of a value of 0.5 or more become 1. Feather: the value rises
    linearly from the rim, to 1 at `feather` pixels inside or, in a thinner mask, at its deepest
    pixel.
    """
    check_soft(grow, feather)
    out = mask.clone()
    for item in out if grow or feather else ():
        if grow:
            _grow(item, grow)
        if feather:
            _fade(item, feather)
    return out


def bounds(mask: Tensor) -> Box:
    """The smallest box around the marked area of all masks [n,H,W]."""
    marked = (mask > 0).any(0)
    rows, columns = (marked.any(d).nonzero().flatten() for d in (1, 0))
    if not len(rows):
        raise InkstoneError(
            "The mask is empty: it marks nothing to change. Paint the area white, or make it "
            "transparent in a picture with an alpha channel (ComfyUI's Load Image knows only that)."
        )
    return Box(*(int(v) for v in (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1)))


def latent_mask(mask: Tensor, lock: Lock) -> Tensor:
    """[n,H,W] of the lock's picture -> [n,1,h,w] in latent pixels of its canvas, 1 where any pixel
    is marked.
    """
    check_fits(mask, lock.picture)
    marked = pad_edges(touched((mask > 0).float(), lock.work), lock.canvas)
    return F.max_pool2d(marked[:, None], lock.latents.scale)


def touched(mask: Tensor, size: Size) -> Tensor:
    """A mask of `mask_for`, [n,H,W] -> [n,height,width], each the greatest value of the pixels that
    it touches.
    """
    if size_of(mask) == size:
        return mask
    return F.adaptive_max_pool2d(mask[:, None], (size[1], size[0]))[:, 0]


def _grow(mask: Tensor, grow: int) -> None:
    """Grows [H,W] in place, or shrinks it."""
    height, width = mask.shape
    solid = mask >= 0.5
    if not solid.any() or (grow < 0 and solid.all()):
        return
    box = bounds(solid[None]).wider(abs(grow) + 1, width, height)
    part, inside = box.of(mask[None])[0], box.of(solid[None])[0]
    if grow > 0:
        part.masked_fill_(_distance(inside, grow + 1) <= grow, 1)
    else:
        mask.mul_(solid)  # faint values are at a rim
        part.masked_fill_(_distance(~inside, 1 - grow) <= -grow, 0)


def _fade(mask: Tensor, feather: int) -> None:
    """Fades [H,W] in place from its rim inwards."""
    height, width = mask.shape
    marked = mask > 0
    if not marked.any() or marked.all():
        return
    box = bounds(marked[None]).wider(1, width, height)
    depth = _distance(~box.of(marked[None])[0], feather + 1)
    box.of(mask[None])[0].mul_(depth / depth.max())


def _distance(seeds: Tensor, most: int) -> Tensor:
    """[h,w] bool -> float32 distance of each pixel to the nearest seed, exact, at most `most`."""
    along = torch.minimum(_behind(seeds, most), _behind(seeds.flip(1), most).flip(1)) ** 2
    strips = []
    for strip in along.split(STRIP, dim=1):
        strip = strip.contiguous()
        best = strip.clone()
        for d in range(1, min(most, len(strip))):
            moved = strip + d * d
            torch.minimum(best[d:], moved[:-d], out=best[d:])
            torch.minimum(best[:-d], moved[d:], out=best[:-d])
        strips.append(best)
    return torch.cat(strips, 1).sqrt_().clamp_(max=most)


def _behind(seeds: Tensor, most: int) -> Tensor:
    """[h,w] bool -> float32 steps back along the row to the last seed, at most `most`."""
    place = torch.arange(seeds.shape[1], device=seeds.device, dtype=torch.float32)
    last = torch.where(seeds, place, -float(most)).cummax(1).values
    return (place - last).clamp_(max=most)


def _check_mask(mask: Tensor) -> Tensor:
    """Any mask -> float32 [n,H,W] in 0..1."""
    m, shape = mask, list(mask.shape)
    if m.dim() == 2:
        m = m[None]
    elif m.dim() == 4 and shape[1] == 1:
        m = m[:, 0]
    if m.dim() != 3 or min(shape) < 1:
        raise InkstoneError(
            f"The mask has shape {shape}: expected [masks, height, width] with at least one pixel. "
            "Use one channel of a picture as the mask."
        )
    if not (m.is_floating_point() or m.dtype == torch.bool):
        raise InkstoneError(
            f"The mask has {m.dtype} values: expected floats from 0 (keep) to 1 (inpaint). "
            "Divide 8-bit values by 255."
        )
    m = m.float()
    check_range("The mask", m, 0.01)
    return m.clamp(0, 1)


def check_fits(mask: Tensor, size: Size) -> None:
    """Raises unless the mask is [n,H,W] of this size."""
    if mask.dim() != 3 or size_of(mask) != size:
        raise InkstoneError(
            f"The mask has shape {list(mask.shape)}, the picture is {size[0]}x{size[1]}: expected "
            "the same size. Resize the mask to the picture first."
        )


def check_soft(grow: int, feather: int) -> None:
    """Raises unless both numbers of pixels are within their limits."""
    for name, value, least in (("Grow", grow, -MOST_SOFT), ("Feather", feather, 0)):
        if not least <= value <= MOST_SOFT:
            raise InkstoneError(
                f"{name} is {value} pixels: expected {least} to {MOST_SOFT}. 8 to 32 is usual."
            )


def without_opaque(pictures: Tensor) -> Tensor:
    """[B,H,W,C] without the alpha of pictures that are opaque: [B,H,W,3], or alpha 1 for those in a
    batch with others. A decoder gives nearly 1 there, which as 8 bits would leave a picture
    slightly transparent.
    """
    if pictures.shape[-1] != 4:
        return pictures
    opaque = pictures[..., 3].flatten(1).amin(1) >= 1 - NEARLY
    if opaque.all():
        return pictures[..., :3].contiguous()
    if opaque.any():
        pictures = pictures.clone()
        pictures[opaque, ..., 3] = 1
    return pictures
