"""Drawing only a part of a picture: masks, crop and stitch, outpainting. Outside the mask the
pixels of the original are kept bit by bit.

Masks are [n,H,W], 1 = drawn anew, 0 = kept. Three rules, each the same everywhere:
 - Size: a mask is stretched over the picture, and each pixel takes the greatest value of the mask
   pixels that it touches. So nothing that was marked is lost, and hard masks stay hard. (The
   reference resizes in grey and cuts at 0.5.)
 - Latent cells are 8x8 pixels: one is drawn anew if any of its pixels is, however faintly.
 - A seam fades inside the mask only, over `feather` pixels. The rim of the picture is no seam.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ..kernels.errors import InkstoneError
from .geometry import LATENT, Box, Sides, context_box, padded_size
from .lock import Lock, check_picture, check_range, colour, lock, pad_edges, size_of

log = logging.getLogger(__name__)

MOST_SOFT = 512  # pixels to grow or feather: more is a typing error
FILLS = ("edge", "mirror", "grey")  # what lies in a new part before it is drawn
STRIP = 64  # columns at a time: a strip stays in the processor's cache

Size = tuple[int, int]
"""(width, height) in pixels."""


def mask_for(mask: Tensor, size: Size) -> Tensor:
    """Any mask ([H,W], [n,H,W], [n,1,H,W]; float 0..1 or bool) -> float32 [n,height,width]."""
    m = _check_mask(mask)
    (width, height), (w, h) = size_of(m), size
    if abs(width * h - height * w) > max(width * h, height * w) / 50:
        log.warning(
            "The mask is %dx%d, the picture %dx%d: the mask is stretched to another ratio",
            *(width, height, w, h),
        )
    return _touched(m, size)


def soften(mask: Tensor, grow: int = 0, feather: int = 0) -> Tensor:
    """[n,H,W] with its parts grown (or, below 0, shrunk) by `grow` pixels and faded inside.

    Growing: what lies within `grow` pixels of a value of 0.5 or more becomes 1. Feather: the value
    rises in a straight line from the rim, to 1 at `feather` pixels inside or, in a thinner mask,
    at its deepest pixel.
    """
    _check_soft(grow, feather)
    out = mask.clone()
    for item in out if grow or feather else ():
        if grow:
            _grow(item, grow)
        if feather:
            _fade(item, feather)
    return out


def bounds(mask: Tensor) -> Box:
    """The smallest box around all that any of the masks [n,H,W] marks."""
    marked = (mask > 0).any(0)
    rows, columns = (marked.any(d).nonzero().flatten() for d in (1, 0))
    if not len(rows):
        raise InkstoneError(
            "The mask is empty: nothing is marked to be drawn anew. Paint the part that shall "
            "change (a picture without an alpha channel is loaded with an empty mask)."
        )
    return Box(*(int(v) for v in (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1)))


def latent_mask(mask: Tensor, lock: Lock) -> Tensor:
    """[n,H,W] of the lock's picture -> [n,1,h/8,w/8] of its canvas, 1 where any pixel is marked."""
    _check_fits(mask, lock.picture)
    marked = pad_edges(_touched((mask > 0).float(), lock.work), lock.canvas)
    return F.max_pool2d(marked[:, None], LATENT)


def paste(original: Tensor, result: Tensor, mask: Tensor | None = None) -> Tensor:
    """original [B,H,W,C] with result [B,H,W,C] where mask [n,H,W] says; each count is 1 or B.

    Where the mask is 0 the values are the original's, bit by bit, and where it is 1 the result's
    (None: everywhere). An alpha channel is kept, unless the result brings its own; a grey picture
    becomes RGB where the result is.
    """
    check_picture(original)
    check_picture(result, "The result")
    if size_of(original) != size_of(result):
        raise InkstoneError(
            f"The result is {_said(result)}, the picture {_said(original)}: expected the same "
            "size. Bring it back with the lock it was made with."
        )
    count = _count(original, result, *(() if mask is None else (mask,)))
    result = result.to(original.device, original.dtype)
    original, result = _same_channels(original, result)
    if mask is None:
        return result.expand(count, -1, -1, -1).clone()
    _check_fits(mask, size_of(original))
    out = original.expand(count, -1, -1, -1).clone()
    for i, item in enumerate(mask.to(out.device, torch.float32).expand(count, -1, -1)):
        if item.any():  # else all of it stays
            box = bounds(item[None])
            part = result[min(i, len(result) - 1)][None]
            _blend(box.of(out[i][None]), box.of(part), box.of(item[None]))
    return out


def _blend(out: Tensor, new: Tensor, mask: Tensor) -> None:
    """Writes new over out, both [1,h,w,C]. Whole values are copied: sums round, -0.0 + 0 is 0.0."""
    m = mask[..., None]
    mixed = torch.lerp(out.float(), new.float(), m).to(out.dtype)
    out.copy_(torch.where(m <= 0, out, torch.where(m >= 1, new, mixed)))


@dataclass(frozen=True)
class Crop:
    """The part of a picture that is edited, and the lock at which it is."""

    picture: Size
    box: Box
    lock: Lock  # of the part: its `picture` is the size of the box


def crop_for(mask: Tensor, margin: int = 64, area: int | None = None, enlarge: bool = True) -> Crop:
    """The part around what mask [n,H,W] marks, with `margin` pixels of context, to be edited at
    about `area` pixels: small parts are enlarged to the model's full resolution.
    """
    size = size_of(mask)
    box = context_box(bounds(mask), *size, margin)
    return Crop(size, box, lock(*box.size, area, enlarge))


def whole(width: int, height: int, area: int | None = None, enlarge: bool = False) -> Crop:
    """The whole picture as the part that is edited."""
    return Crop((width, height), Box(0, 0, width, height), lock(width, height, area, enlarge))


def stitch(original: Tensor, result: Tensor, mask: Tensor, crop: Crop) -> Tensor:
    """original [B,H,W,C] with the edited part, result [B,h,w,C] of the crop's canvas, put back
    where mask [n,H,W] says; bit by bit the original elsewhere.
    """
    check_picture(original)
    _check_fits(mask, crop.picture)
    if size_of(original) != crop.picture:
        raise InkstoneError(
            f"The picture is {_said(original)}, the crop was made in {crop.picture[0]}x"
            f"{crop.picture[1]}. Use the picture that the part was cut from."
        )
    part = crop.lock.from_canvas(result)
    count = _count(original, part, mask)
    done = paste(crop.box.of(original), part, crop.box.of(mask))
    out = _same_channels(original, done)[0].expand(count, -1, -1, -1).clone()
    crop.box.of(out).copy_(done)
    return out


@dataclass(frozen=True)
class Repaint:
    """All that an inpainting carries from the mask to the finished picture."""

    picture: Tensor  # [B,H,W,C], the original
    mask: Tensor  # [n,H,W], grown and feathered
    crop: Crop

    def canvas(self) -> Tensor:
        """[B,h,w,3] of the crop's canvas: what the VAE encodes."""
        return self.crop.lock.to_canvas(colour(self.crop.box.of(self.picture)))

    def latent_mask(self) -> Tensor:
        """[n,1,h/8,w/8] of the crop's canvas: what is drawn anew."""
        return latent_mask(self.crop.box.of(self.mask), self.crop.lock)

    def stitch(self, result: Tensor) -> Tensor:
        """The decoded canvas [B,h,w,C] -> the finished picture [B,H,W,C]."""
        return stitch(self.picture, result, self.mask, self.crop)


def pad_out(
    picture: Tensor, sides: Sides, fill: str = "edge", feather: int = 0
) -> tuple[Tensor, Tensor]:
    """(picture [B,H,W,C] with new parts on its sides, mask [1,H,W] of these, feathered in them).

    fill: "edge" repeats the rim, "mirror" the picture, "grey" is plain; it shows through where the
    mask is feathered and where a strength below 1 starts from it.
    """
    check_picture(picture)
    _check_soft(0, feather)
    if fill not in FILLS:
        raise InkstoneError(f"Fill {fill!r} is not known: expected one of {', '.join(FILLS)}.")
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
    """Where each of `whole` pixels comes from, if those outside repeat the last one."""
    return (torch.arange(whole) - before).clamp(0, old - 1)


def _mirrored(whole: int, before: int, old: int) -> Tensor:
    """The same if the picture is mirrored at its rims, as often as it takes."""
    place = (torch.arange(whole) - before) % (2 * old)
    return torch.minimum(place, 2 * old - 1 - place)


# --- masks


def _touched(mask: Tensor, size: Size) -> Tensor:
    """[n,H,W] -> [n,height,width], each the greatest value of the pixels that it touches."""
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
        mask.mul_(solid)  # what is faint lies at a rim
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


# --- checks


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
            "Take one channel of a picture as the mask."
        )
    if not (m.is_floating_point() or m.dtype == torch.bool):
        raise InkstoneError(
            f"The mask has {m.dtype} values: expected floats from 0 (keep) to 1 (draw anew). "
            "Divide 8-bit values by 255."
        )
    m = m.float()
    check_range("The mask", m, 0.01)
    return m.clamp(0, 1)


def _check_fits(mask: Tensor, size: Size) -> None:
    if mask.dim() != 3 or size_of(mask) != size:
        raise InkstoneError(
            f"The mask has shape {list(mask.shape)}, the picture is {size[0]}x{size[1]}. "
            "Bring the mask to the size of the picture first."
        )


def _check_soft(grow: int, feather: int) -> None:
    for name, value, least in (("Grow", grow, -MOST_SOFT), ("Feather", feather, 0)):
        if not least <= value <= MOST_SOFT:
            raise InkstoneError(
                f"{name} is {value} pixels: expected {least} to {MOST_SOFT}. 8 to 32 is usual."
            )


def _count(*tensors: Tensor) -> int:
    """The common count of pictures, results and masks; each has it or is one for all."""
    counts = [len(t) for t in tensors]
    if any(n not in (1, max(counts)) for n in counts):
        names = zip(counts, ("picture", "result", "mask"))
        got = ", ".join(f"{n} {name}{'s' * (n > 1)}" for n, name in names)
        raise InkstoneError(
            f"{got} do not match: expected one for all, or the same count of each. Select the "
            "ones that belong together."
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


def _said(picture: Tensor) -> str:
    return f"{picture.shape[2]}x{picture.shape[1]}"
