"""What an edit gives the diffusion model: pictures on their canvases, encoded, and the words.

Nodes and command line call the same functions. Sizes: a picture is worked on at its own size where
that is near what the model draws, so nothing is resampled; larger ones at the size for edits, and
the lock brings the result back to the picture's size exactly. The reference resizes all of them.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from ..errors import InkstoneError

if TYPE_CHECKING:
    from torch import Tensor

    from ..loaders.arch.family import EditTemplate, Family
    from ..loaders.models.diffusion_model import DiffusionModel
    from ..loaders.models.text_encoder import TextEncoderModel
    from ..loaders.models.vae import VAEModel
    from ..sampling.inpaint import Crop, Repaint
    from ..sampling.pixel_lock import Lock

log = logging.getLogger(__name__)

AUTO, OWN, MODEL = "auto", "the picture's own", "the model's"
WORK_SIZES = (AUTO, OWN, MODEL)
CROPS = ("auto", "on", "off")
EDIT_AREA = 1024 * 1024  # pixels that the edit models were trained at
LAYER_AREAS = {"640x640": 640 * 640, "1024x1024": 1024 * 1024}  # of the layered model
ROOM = 1.1  # a picture this much larger than the model draws still keeps its own size


def largest_area(family: Family) -> int:
    """Pixels of the pictures that this family draws."""
    width, height = family.preset.size
    return width * height


def area_for(family: Family, work: str, size: tuple[int, int]) -> int | None:
    """Pixels to work at for a picture of `size`; None = its own."""
    if work not in WORK_SIZES:
        raise InkstoneError(
            f"The size to work at is {work!r}: expected one of {', '.join(WORK_SIZES)}."
        )
    usual = largest_area(family)
    if work == OWN or (work == AUTO and size[0] * size[1] <= ROOM * usual):
        return None
    return min(usual, EDIT_AREA)


def lock_for(family: Family, picture: Tensor, work: str = AUTO) -> Lock:
    """The lock of pictures [B,H,W,C]."""
    from ..sampling.pixel_lock import check_picture, lock, size_of

    check_picture(picture)
    size = size_of(picture)
    made = lock(*size, area_for(family, work, size))
    if made.work != made.picture:
        log.info("the picture %dx%d is worked on at %dx%d and brought back", *size, *made.work)
    return made


def encoded(vae: VAEModel, picture: Tensor, lock: Lock) -> Tensor:
    """Pictures [B,H,W,C] -> raw latents [B,16,1,h,w] of their canvas, kept by content."""
    from ..sampling.pixel_lock import colour

    alpha = vae.network.config.channels == 4
    return vae.encode(lock.to_canvas(picture if alpha else colour(picture)))


def locks_for(family: Family, pictures: Sequence[Tensor], work: str = AUTO) -> tuple[Lock, ...]:
    """Of Picture 1, 2, 3 [1,H,W,C], each on its own canvas."""
    for number, picture in enumerate(pictures, 1):
        if picture.dim() == 4 and len(picture) > 1:
            raise InkstoneError(
                f"Picture {number} is a batch of {len(picture)}: expected one picture on each "
                "input. Take one out of the batch, or connect them one by one."
            )
    locks = tuple(lock_for(family, picture, work) for picture in pictures)
    sizes = (made.picture for made in locks)
    said = (f"Picture {n} ({w}x{h})" for n, (w, h) in enumerate(sizes, 1))
    log.info("pictures: %s", ", ".join(said))
    return locks


def references(
    vae: VAEModel, pictures: Sequence[Tensor], locks: Sequence[Lock]
) -> tuple[Tensor, ...]:
    """Picture 1, 2, 3 on their canvases -> raw latents [1,16,1,h,w] each."""
    return tuple(encoded(vae, *pair) for pair in zip(pictures, locks, strict=True))


def template_of(model: DiffusionModel) -> EditTemplate:
    """How this model's edits are encoded. InkstoneError where it has none, or does not say."""
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
            f"{model.path.name} is Qwen-Image-Layered, which takes pictures apart and has no "
            "edits. Use Inkstone Encode Layers, or a Qwen-Image-Edit model."
        )
    raise InkstoneError(
        f"{model.path.name} is {model.variant.name}, which takes no reference pictures. Use a "
        "Qwen-Image-Edit model; to start from a picture use Inkstone Image to Latent with a "
        "strength below 1."
    )


def edit_states(
    text_encoder: TextEncoderModel, edit: EditTemplate, prompt: str, pictures: Sequence[Tensor]
) -> Tensor:
    """Prompt and Picture 1, 2, 3 [1,H,W,C] -> [1,L,J] states, kept by content."""
    return text_encoder.encode_edit(prompt, [p[0] for p in pictures], edit)


def part_for(family: Family, mask: Tensor, work: str = AUTO, crop: str = "auto") -> Crop:
    """The part of a picture that is drawn anew for a mask [n,H,W] of its size: all of it, or what
    the mask marks with room around it, at the model's full resolution.
    """
    from ..sampling.inpaint import crop_for, whole
    from ..sampling.masks import bounds
    from ..sampling.pixel_lock import size_of

    if crop not in CROPS:
        raise InkstoneError(f"Crop is {crop!r}: expected one of {', '.join(CROPS)}.")
    bounds(mask)  # an empty mask is told before anything is computed
    size = size_of(mask)
    own = area_for(family, AUTO, size) is None
    if crop == "off" or (crop == "auto" and own):
        area = area_for(family, work, size)
        return whole(*size, area, enlarge=work == MODEL)
    area = None if work == OWN else min(largest_area(family), EDIT_AREA)
    made = crop_for(mask, area=area)
    log.info(
        "the part %dx%d around the mask is drawn at %dx%d and put back",
        *made.box.size,
        *made.lock.work,
    )
    return made


def repaint_for(
    family: Family, picture: Tensor, mask: Tensor, soft: tuple[int, int], where: tuple[str, str]
) -> Repaint:
    """Pictures [B,H,W,C] and any mask -> all that inpainting needs. soft: pixels to grow and to
    feather; where: of WORK_SIZES and CROPS.
    """
    from ..sampling.inpaint import Repaint
    from ..sampling.masks import mask_for, soften
    from ..sampling.pixel_lock import check_picture, size_of

    check_picture(picture)
    grown = soften(mask_for(mask, size_of(picture)), *soft)
    return Repaint(picture, grown, part_for(family, grown, *where))


def put_back(repaint: Repaint, result: Tensor) -> Tensor:
    """The drawn part [B,h,w,C] -> the finished picture [B,H,W,C]; as the core decodes it (the whole
    canvas) or as our Decode does (already of the part's own size).
    """
    from ..sampling.pixel_lock import lock, size_of

    crop = repaint.crop
    if size_of(result) == crop.box.size != crop.lock.canvas:
        own = lock(*crop.box.size)
        repaint = replace(repaint, crop=replace(crop, lock=own))
        result = own.to_canvas(result)
    return repaint.stitch(result)


def whole_picture(vae: VAEModel, picture: Tensor, area: str) -> tuple[Tensor, Lock]:
    """One picture [1,H,W,C] for the layered model -> its latent with alpha, and its lock."""
    from ..sampling.pixel_lock import check_picture, lock, size_of

    check_picture(picture)
    if len(picture) > 1:
        raise InkstoneError(
            f"The picture to take apart is a batch of {len(picture)}: expected one. Take one out "
            "of the batch."
        )
    if vae.network.config.channels != 4:
        raise InkstoneError(
            f"{vae.path.name} is a VAE without alpha, layers need the one of Qwen-Image-Layered. "
            "Load that VAE."
        )
    if area not in LAYER_AREAS:
        raise InkstoneError(f"Area is {area!r}: expected one of {', '.join(LAYER_AREAS)}.")
    made = lock(*size_of(picture), LAYER_AREAS[area])
    return encoded(vae, picture, made), made
