"""Variants of the diffusion model: the kind of work a file was trained for, as frozen data.

Qwen-Image, 2512, Edit and Edit-2509 have identical tensors, so most single files do not show which
they are. Signs of a variant: a tensor that only the layered one has, the mark of zero_cond_t, the
pipeline class of a whole folder, metadata. Without any, the variant is None and edits ask for a
choice: nothing is guessed, because a wrong variant draws a plausible, worse picture.

No torch here: node schemas and the command line list these names.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

from ...errors import InkstoneError

log = logging.getLogger(__name__)

VARIANT_KEY = "inkstone_variant"  # metadata of files that we write


@dataclass(frozen=True)
class Variant:
    """One kind of work."""

    name: str
    words: str
    edit: str | None = None  # name of the family's EditTemplate; None: takes no reference pictures
    zero_cond_t: bool = False  # references have a time of their own
    layered: bool = False  # draws layers of one picture
    draws: bool = False  # an edit model that takes descriptions too, so it can start from a picture
    family: str = "qwen-image"  # name of a record in family.py
    distilled: bool = False  # its schedule is the family's `turbo`
    hint: str = ""  # in a file's name, where nothing else tells it from the family's first variant
    offered: bool = True  # the user may choose it for a file that does not show its variant
    spec: str = ""  # what LoRAs for it are labelled with (modelspec.architecture), as by others


SPEC = "modelspec.architecture"  # in a LoRA's metadata: SPEC/lora
_ALL = (
    Variant("qwen-image", "Qwen-Image and 2512: text to image", spec="Qwen-Image"),
    Variant("edit", "Qwen-Image-Edit: one picture", edit="edit", spec="Qwen-Image-Edit"),
    Variant(
        "edit-2509",
        "Qwen-Image-Edit-2509: numbered pictures",
        edit="edit-plus",
        spec="Qwen-Image-Edit-Plus",
    ),
    Variant(
        "edit-2511",
        "Qwen-Image-Edit-2511: numbered pictures",
        "edit-plus",
        zero_cond_t=True,
        spec="Qwen-Image-Edit-2511",
    ),
    Variant(
        "layered",
        "Qwen-Image-Layered: a picture into layers",
        layered=True,
        spec="Qwen-Image-Layered",
    ),
    Variant(
        "2.1",
        "Qwen-Image-2.1: text to image, and numbered pictures",
        edit="edit-2.1",
        draws=True,
        family="qwen-image-2.1",
        spec="Qwen-Image-2.1",
    ),
    Variant(
        "2.1-turbo",
        "Qwen-Image-2.1-Turbo: the same in 8 steps",
        edit="edit-2.1",
        draws=True,
        family="qwen-image-2.1",
        hint="turbo",
        distilled=True,
        spec="Qwen-Image-2.1",
    ),
    Variant(
        "embedded",
        "the embedded model: text to image",
        family="inkstone-embedded",
        offered=False,
        spec="Inkstone-Embedded",
    ),
    Variant(
        "embedded-edit",
        "the embedded model: draws, and edits pictures",
        edit="references",
        zero_cond_t=True,
        draws=True,
        family="inkstone-embedded",
        offered=False,
        spec="Inkstone-Embedded",
    ),
)
VARIANTS = {variant.name: variant for variant in _ALL}
CHOICES = tuple(variant.name for variant in _ALL if variant.offered)

# `_class_name` in the model_index.json of a whole folder -> variants; without a mark, the first
CLASSES = {
    "QwenImagePipeline": ("qwen-image",),
    "QwenImageImg2ImgPipeline": ("qwen-image",),
    "QwenImageInpaintPipeline": ("qwen-image",),
    "QwenImageControlNetPipeline": ("qwen-image",),
    "QwenImageControlNetInpaintPipeline": ("qwen-image",),
    "QwenImageEditPipeline": ("edit",),
    "QwenImageEditInpaintPipeline": ("edit",),
    "QwenImageEditPlusPipeline": ("edit-2509", "edit-2511"),
    "QwenImageLayeredPipeline": ("layered",),
}


def variant_by_marks(family: str, zero_cond_t: bool, layered: bool) -> Variant | None:
    """The variant that marks in a file's tensors show; None where it has none."""
    if not zero_cond_t and not layered:
        return None
    return next(
        (
            v
            for v in _ALL
            if (v.family, v.layered) == (family, layered) and (layered or v.zero_cond_t)
        ),
        None,
    )


def detect_variant(family: str, mark: str, pipeline: str) -> Variant | None:
    """The variant by all signs of a model. mark: a variant's name by the weights or their metadata,
    or anything else; pipeline: the class that its folder's model_index.json names, or ""."""
    by_weights = VARIANTS.get(mark)
    by_folder = [name for name in CLASSES.get(pipeline, ()) if VARIANTS[name].family == family]
    if by_weights is None:
        without_mark = by_folder[:1] or [
            v.name for v in _ALL if v.family == family and not (v.zero_cond_t or v.layered)
        ]
        return VARIANTS[without_mark[0]] if len(without_mark) == 1 else None
    if by_folder and by_weights.name not in by_folder:
        log.warning(
            "the weights are those of %s, but the folder names %s: the weights decide",
            by_weights.name,
            pipeline,
        )
    return by_weights


def _by_hint(family: str, where: str) -> Variant | None:
    """For a family of which no file says its variant: by the file's name, said in a line."""
    hinted = [v for v in _ALL if v.family == family and v.hint]
    if not hinted:
        return None
    first = next(v for v in _ALL if v.family == family)
    name = where.replace("\\", "/").rpartition("/")[2].lower()
    guess = next((v for v in hinted if v.hint in name), first)
    others = ", ".join(v.name for v in _ALL if v.family == family and v is not guess)
    log.info(
        "the file does not say which variant it is: by its name it is taken as %s; if it is "
        "another, choose the variant (%s) where the model is loaded",
        guess.name,
        others,
    )
    return guess


def choose_variant(
    detected: Variant | None, choice: str | None, family: str, where: object
) -> Variant | None:
    """The detected variant, or the user's choice where none is (a choice never overrides it), or
    what the file's name hints at in families whose files do not show it.
    """
    if not choice:
        return detected or _by_hint(family, str(where))
    known = [v.name for v in _ALL if v.family == family]
    if choice not in known:
        offered = ", ".join(name for name in known if name in CHOICES)
        raise InkstoneError(
            f"{where}: variant {choice!r} is not one of the {family} models: leave it out (auto)"
            + (f", or choose one of {offered}." if offered else ".")
        )
    chosen = VARIANTS[choice]
    if detected is not None and detected is not chosen:
        raise InkstoneError(
            f"{where}: the chosen variant is {choice}, but the model says that it is "
            f"{detected.name} ({detected.words}). Choose auto, or load the file of {choice}."
        )
    if chosen.layered and detected is None:
        raise InkstoneError(
            f"{where}: the chosen variant is {choice}, but the file lacks the tensor "
            "time_text_embed.addition_t_embedding.weight that this variant has. Choose another "
            f"variant, or load the file of {choice}."
        )
    return chosen
