"""Prepares pictures and prompts of edits, inpainting and layers for the diffusion model.

Nodes and command line call the same functions. Sizes: a picture keeps its own size where that is
near the size that the model draws, so nothing is resampled; a larger one is scaled to the size for
edits, and the lock brings the result back to the picture's exact size. The reference resizes all.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace

from torch import Tensor

from ..errors import InkstoneError
from ..loaders.arch.family import EditTemplate, Family
from ..loaders.arch.variant import VARIANTS
from ..loaders.models.diffusion_model import DiffusionModel
from ..loaders.models.text_encoder import EncodedText, TextEncoderModel
from ..loaders.models.vae import VAEModel
from ..sampling.inpaint import Crop, Repaint, crop_for, whole
from ..sampling.masks import bounds, mask_for, soften
from ..sampling.pixel_lock import Lock, check_picture, colour, lock, size_of, visible
from .edit_choices import AUTO, CROPS, LAYER_AREAS, MODEL, OWN, WORK_SIZES

log = logging.getLogger(__name__)

EDIT_AREA = 1024 * 1024  # pixels that the edit models were trained at
ROOM = 1.1  # a picture with this many times the model's pixels still keeps its own size


def largest_area(family: Family) -> int:
    """Pixels of a picture by this family's preset."""
    width, height = family.preset.size
    return width * height


def area_for(family: Family, work: str, size: tuple[int, int]) -> int | None:
    """Pixels to which a picture of `size` is scaled; None = it keeps its own size."""
    if work not in WORK_SIZES:
        raise InkstoneError(
            f"The working size is {work!r}: expected one of {', '.join(WORK_SIZES)}."
        )
    usual = largest_area(family)
    if work == OWN or (work == AUTO and size[0] * size[1] <= ROOM * usual):
        return None
    return min(usual, EDIT_AREA)


def lock_for(family: Family, picture: Tensor, work: str = AUTO) -> Lock:
    """The pixel lock of pictures [B,H,W,C]."""
    check_picture(picture)
    size = size_of(picture)
    own = lock(*size, area_for(family, work, size), latents=family.latents)
    if own.work != own.picture:
        log.info("the picture %dx%d is edited at %dx%d and scaled back", *size, *own.work)
    return own


def encode_on_canvas(vae: VAEModel, picture: Tensor, canvas: Lock) -> Tensor:
    """Pictures [B,H,W,C] -> raw latents [B,C,1,h,w] of their canvas, cached by content."""
    alpha = vae.network.config.channels == 4
    seen = visible(picture)
    return vae.encode(canvas.to_canvas(seen if alpha else colour(seen)))


def locks_for(family: Family, pictures: Sequence[Tensor], work: str = AUTO) -> tuple[Lock, ...]:
    """The locks of Picture 1, 2, 3 [1,H,W,C], each on its own canvas."""
    for number, picture in enumerate(pictures, 1):
        if picture.dim() == 4 and len(picture) > 1:
            raise InkstoneError(
                f"Picture {number} is a batch of {len(picture)}: expected one picture on each "
                "input. Take one out of the batch, or connect them one by one."
            )
    locks = tuple(lock_for(family, picture, work) for picture in pictures)
    sizes = (own.picture for own in locks)
    names = (f"Picture {n} ({w}x{h})" for n, (w, h) in enumerate(sizes, 1))
    log.info("pictures: %s", ", ".join(names))
    return locks


def references(
    vae: VAEModel, pictures: Sequence[Tensor], locks: Sequence[Lock]
) -> tuple[Tensor, ...]:
    """Picture 1, 2, 3 on their canvases -> raw latents [1,C,1,h,w] each."""
    return tuple(encode_on_canvas(vae, *pair) for pair in zip(pictures, locks, strict=True))


def template_of(model: DiffusionModel) -> EditTemplate:
    """The template of this model's edits. InkstoneError where it has none or is of unknown
    variant.
    """
    if model.edit is not None:
        return model.edit
    if model.variant is None:
        raise InkstoneError(
            f"{model.path.name} does not say which variant it is: the tensors of Qwen-Image, Edit "
            "and Edit-2509 are identical. Choose the variant where the model is loaded: edit, "
            "edit-2509 or edit-2511."
        )
    if model.layered:
        raise InkstoneError(
            f"{model.path.name} is Qwen-Image-Layered, which splits pictures into layers and has "
            "no edits. Use Inkstone Encode Layers, or a Qwen-Image-Edit model."
        )
    raise InkstoneError(
        f"{model.path.name} is {model.variant.name}, which takes no reference pictures. Use a "
        "Qwen-Image-Edit model; to start from a picture use Inkstone Image to Latent with a "
        "strength below 1."
    )


def seen_pictures(
    edit: EditTemplate, pictures: Sequence[Tensor], locks: Sequence[Lock]
) -> list[Tensor]:
    """Picture 1, 2, 3 [1,H,W,C] as the text encoder gets them: as they are, or on the canvas that
    the VAE encodes. What is transparent is its vision tower's business (`Sight.over_white`).
    """
    if not edit.shares_copy:
        return list(pictures)
    return [own.to_canvas(visible(p)) for p, own in zip(pictures, locks, strict=True)]


def edit_states(
    text_encoder: TextEncoderModel, edit: EditTemplate, prompt: str, seen: Sequence[Tensor]
) -> EncodedText:
    """Prompt and Picture 1, 2, 3 [1,H,W,C], see `seen_pictures` -> [1,L,J] states, cached by
    content.
    """
    return text_encoder.encode_edit(prompt, [p[0] for p in seen], edit)


def part_for(family: Family, mask: Tensor, work: str = AUTO, crop: str = "auto") -> Crop:
    """The part of a picture to inpaint for a mask [n,H,W] of its size: all of it, or the masked
    area with a margin, at the model's full resolution.
    """
    if crop not in CROPS:
        raise InkstoneError(f"Crop is {crop!r}: expected one of {', '.join(CROPS)}.")
    bounds(mask)  # refuses an empty mask before anything is computed
    size = size_of(mask)
    own = area_for(family, AUTO, size) is None
    if crop == "off" or (crop == "auto" and own):
        area = area_for(family, work, size)
        return whole(*size, area, enlarge=work == MODEL, latents=family.latents)
    area = None if work == OWN else min(largest_area(family), EDIT_AREA)
    part = crop_for(mask, area=area, latents=family.latents)
    log.info(
        "the part %dx%d around the mask is drawn at %dx%d and put back",
        *part.box.size,
        *part.lock.work,
    )
    return part


def repaint_for(
    family: Family, picture: Tensor, mask: Tensor, soft: tuple[int, int], where: tuple[str, str]
) -> Repaint:
    """Pictures [B,H,W,C] and any mask -> the record of an inpainting. soft: pixels to grow and to
    feather; where: a working size of WORK_SIZES and a crop of CROPS.
    """
    check_picture(picture)
    grown = soften(mask_for(mask, size_of(picture)), *soft)
    return Repaint(picture, grown, part_for(family, grown, *where))


def put_back(repaint: Repaint, result: Tensor) -> Tensor:
    """The inpainted part [B,h,w,C] -> the whole picture [B,H,W,C]. The part has the size of its
    canvas where the core's node decoded it, and its own size where ours did.
    """
    crop = repaint.crop
    if size_of(result) == crop.box.size != crop.lock.canvas:
        own = lock(*crop.box.size, latents=crop.lock.latents)
        repaint = replace(repaint, crop=replace(crop, lock=own))
        result = own.to_canvas(result)
    return repaint.stitch(result)


def whole_picture(vae: VAEModel, picture: Tensor, area: str) -> tuple[Tensor, Lock]:
    """One picture [1,H,W,C] for the layered model -> its latent with alpha, and its lock."""
    check_picture(picture)
    if len(picture) > 1:
        raise InkstoneError(
            f"The picture to split into layers is a batch of {len(picture)}: expected one. Take "
            "one out of the batch."
        )
    layered = any(v.layered and v.family == vae.family.name for v in VARIANTS.values())
    alpha = vae.network.config.channels == 4
    if not alpha or not layered:
        got = f"of {vae.family.noun}" if alpha else "without alpha"
        raise InkstoneError(
            f"{vae.path.name} is a VAE {got}, layers need the one of Qwen-Image-Layered. Load that "
            "VAE."
        )
    if area not in LAYER_AREAS:
        raise InkstoneError(f"Area is {area!r}: expected one of {', '.join(LAYER_AREAS)}.")
    own = lock(*size_of(picture), LAYER_AREAS[area])
    return encode_on_canvas(vae, picture, own), own
