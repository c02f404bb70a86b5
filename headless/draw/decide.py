"""Decides a drawing from a call and its models: the kind of drawing, and every default filled in.

The model's variant decides what is done with the images: an edit model takes them as Picture
1, 2, 3, a text-to-image model starts from one, the layered model splits one.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from ...controlnet.in_context import InContextModel, with_prefix
from ...errors import CallError, InkstoneError
from ...loaders.models.control import ControlModel
from ...nodes.schedule import SCHEDULES
from ...pipeline.edit import area_for, template_of
from ...pipeline.edit_choices import AUTO
from ...pipeline.enhance import read_instructions
from ...pipeline.enhance_choices import USUAL_TEMPERATURE
from ...pipeline.upscale import enlarged_size
from ...pipeline.upscale_choices import USUAL_STRENGTH
from ...pipeline.usual_settings import UsualSettings, log_usual_settings, usual_settings
from ...sampling.geometry import check_canvas
from ...sampling.pixel_lock import lock
from ...sampling.request import USUAL_LAYERS
from ...sampling.schedule import LIGHTNING, LIGHTNING_21, TURBO_21
from .image_traits import ImageTraits, mask_channel, traits_of
from .options import SCHEDULE_OPTIONS
from .request import size_before_upscale

if TYPE_CHECKING:
    from ...loaders.models.diffusion_model import DiffusionModel
    from .models import CallModels
    from .request import DrawCall

log = logging.getLogger(__name__)

STRENGTH = 0.6  # of image-to-image and inpaint, as the reference

Kind = Literal["text", "image", "edit", "layers"]

# schedule of a distilled LoRA -> its option
_OF_LORA = {LIGHTNING: "lightning", LIGHTNING_21: "lightning-2.1", TURBO_21: "turbo-2.1"}


@dataclass(frozen=True)
class ControlWiring:
    """The inputs of a control in addition to its map."""

    source: bool  # the image that is inpainted (Fun Union)
    mask: bool


@dataclass(frozen=True)
class Upscaling:
    """How a drawing is enlarged."""

    factor: float
    strength: float
    size: tuple[int, int]  # of the result


@dataclass(frozen=True)
class Drawing:
    """A drawing with every setting decided. `size`: of an empty canvas, for an edit too where
    --size is given; None = the size of the first image or map.
    """

    kind: Kind
    prompt: str  # as it is encoded, or enhanced before that
    negative: str
    steps: int
    cfg: float
    size: tuple[int, int] | None
    strength: float = 1.0
    schedule: str = SCHEDULES[0]  # as the node Schedule calls it
    layers: int = 0
    controls: tuple[ControlWiring, ...] = ()
    traits: Mapping[Path, ImageTraits] = field(default_factory=dict)
    mask_channel: str = ""
    region_channels: Mapping[Path, str] = field(default_factory=dict)  # of their masks
    enhance: Enhancement | None = None
    upscale: Upscaling | None = None
    own_alpha: bool = False  # the VAE draws alpha too: that of an image is not put in its place


@dataclass(frozen=True)
class Enhancement:
    """What the node Enhance Prompt gets beside the prompt. text: what it became, once known."""

    instructions: str
    pictures: bool  # those of the edit
    temperature: float
    seed: int  # the call's, so that all pictures of a batch have one prompt
    text: str = ""


def decide(call: DrawCall, models: CallModels) -> Drawing:
    """Fills in what the call leaves to the model. Raises CallError or InkstoneError where this
    model cannot draw this.
    """
    model = models.bundle.model
    kind = _kind(call, model)
    _check_size(call, kind)
    _check_masks(call, models)
    usual = _usual(call, model, len(call.image) if kind in ("edit", "layers") else 0)
    traits = {path: traits_of(path) for path in (*call.image, *(c.path for c in call.control))}
    drawn = size_before_upscale(call, lambda path: traits[path].size, lambda: usual.preset.size)
    size = call.size  # of an edit: a canvas of its own
    if kind == "text" and size is None:
        size = _canvas_of(call, model, drawn)
    if size is not None:
        check_canvas(*size, model.latents.step)
    return Drawing(
        kind=kind,
        prompt=call.prompt if _rewrites(call) else as_encoded(call.prompt, models),
        negative=call.negative if call.negative is not None else usual.preset.negative,
        steps=call.steps if call.steps is not None else usual.preset.steps,
        cfg=call.cfg if call.cfg is not None else usual.preset.cfg,
        size=size,
        schedule=_schedule(call, usual),
        strength=_strength(call, kind),
        layers=(call.layers or USUAL_LAYERS) if kind == "layers" else 0,
        controls=_control_inputs(call, models),
        traits=traits,
        mask_channel="" if call.mask is None else mask_channel(call.mask),
        region_channels={path: mask_channel(path) for path in call.region_masks},
        enhance=_enhancement(call, kind, model),
        own_alpha=_draws_alpha(models),
        upscale=_upscaling(call, kind, drawn),
    )


def _upscaling(call: DrawCall, kind: Kind, size: tuple[int, int]) -> Upscaling | None:
    """How the drawing of this size is enlarged; None where it is not."""
    if call.upscale is None:
        return None
    if kind == "layers":
        raise CallError(
            "--upscale does not apply to Qwen-Image-Layered, whose layers are redrawn together. "
            "Leave it out, or enlarge the picture first and split the result."
        )
    target = enlarged_size(size, call.upscale)  # refuses a size before anything is drawn
    strength = call.upscale_strength
    return Upscaling(call.upscale, USUAL_STRENGTH if strength is None else strength, target)


def _draws_alpha(models: CallModels) -> bool:
    vae = models.bundle.vae
    return vae is not None and vae.network.config.channels == 4


def _rewrites(call: DrawCall) -> bool:
    return call.enhance or call.rewrite > 0


def calls_of(call: DrawCall) -> list[DrawCall]:
    """The calls that a call is drawn as: one a picture where each has a prompt of its own."""
    if not call.rewrite or call.batch == 1:
        return [call]
    seeds = [(call.seed + k) % 2**64 for k in range(call.batch)]
    return [replace(call, seed=seed, batch=1) for seed in seeds]


def _enhancement(call: DrawCall, kind: Kind, model: DiffusionModel) -> Enhancement | None:
    """How the prompt is enhanced; an edit's with its pictures, where the text encoder sees them."""
    if not _rewrites(call):
        return None
    if kind == "layers":
        option = "--enhance" if call.enhance else "--variety rewrite"
        raise CallError(
            f"{option} does not apply to Qwen-Image-Layered: its prompt describes a picture that "
            "exists. Leave it out, or describe the picture with `inkstone ask PICTURE --long`."
        )
    text = "" if call.instructions is None else read_instructions(call.instructions)
    return Enhancement(
        instructions=text,
        pictures=kind == "edit" and template_of(model).sees,
        temperature=call.rewrite or USUAL_TEMPERATURE,
        seed=call.seed,
    )


def with_enhanced(drawing: Drawing, text: str, models: CallModels) -> Drawing:
    """The drawing with the text that its prompt became."""
    assert drawing.enhance is not None
    return replace(drawing, enhance=replace(drawing.enhance, text=as_encoded(text, models)))


def _kind(call: DrawCall, model: DiffusionModel) -> Kind:
    images = len(call.image)
    if model.layered:
        if images != 1:
            raise InkstoneError(
                f"{model.path}: Qwen-Image-Layered splits one picture into layers, got {images}. "
                "Give the picture with --image."
            )
        for name in ("mask", "strength"):
            if getattr(call, name) is not None:
                raise CallError(f"--{name} does not apply to Qwen-Image-Layered. Leave it out.")
        return "layers"
    if call.layers is not None:
        raise CallError("--layers is for Qwen-Image-Layered, this model draws one picture.")
    if not images:
        return "text"
    if call.strength == 0:  # only enlarged
        return "image"
    if not _edits(call, model):
        return "image"
    template_of(model).check(images)
    return "edit"


def _check_size(call: DrawCall, kind: Kind) -> None:
    """A result that is the picture itself has its size; only an edit may have another canvas."""
    if call.size is not None and kind in ("image", "layers"):
        work = "starts from the picture" if kind == "image" else "takes the picture apart"
        raise CallError(
            f"--size and --image do not go together with this model: it {work}, so the result has "
            "exactly its size. Leave --size out, or use a Qwen-Image-Edit model."
        )


def _edits(call: DrawCall, model: DiffusionModel) -> bool:
    """True for an edit model, unless it can draw too and the image is started from (a strength or a
    mask is given); a text-to-image model takes one image.
    """
    if model.variant is None:
        raise InkstoneError(
            f"{model.path.name} does not say which variant it is: the tensors of Qwen-Image, Edit "
            "and Edit-2509 are identical. Add --variant qwen-image to start from the picture, or "
            "--variant edit, edit-2509 or edit-2511 to edit it."
        )
    starts_from = call.strength is not None or call.mask is not None
    edits = model.edit is not None and not (model.variant.draws and starts_from)
    if not edits and len(call.image) > 1:
        raise CallError(
            f"{len(call.image)} pictures for {model.variant.name}, which starts from one. Give one "
            "--image, or use a Qwen-Image-Edit model."
        )
    return edits


def _strength(call: DrawCall, kind: Kind) -> float:
    if kind in ("text", "layers"):
        return 1.0
    usual = 1.0 if kind == "edit" else STRENGTH
    return usual if call.strength is None else call.strength


def _usual(call: DrawCall, model: DiffusionModel, images: int) -> UsualSettings:
    """The settings that the call leaves to the model."""
    asked = any(value is not None for value in (call.steps, call.cfg, call.schedule))
    settings = usual_settings(model, images, asked=asked, fast=call.fast)
    log_usual_settings(settings, model)
    return settings


def _schedule(call: DrawCall, usual: UsualSettings) -> str:
    """The schedule that was asked for, Lightning's for its LoRA, else the model's own."""
    name = call.schedule or ("model" if usual.lora is None else _OF_LORA[usual.lora.schedule])
    return SCHEDULES[SCHEDULE_OPTIONS.index(name)]


def _canvas_of(
    call: DrawCall, model: DiffusionModel, size: tuple[int, int]
) -> tuple[int, int] | None:
    """The canvas where no option gives it: the model's own size, or that of the first control map;
    None where that is no size of a canvas, so that the result is brought back to it.
    """
    if not call.control:
        return size
    canvas = lock(*size, area_for(model.family, AUTO, size), latents=model.latents).canvas
    return size if canvas == size else None


def _check_masks(call: DrawCall, models: CallModels) -> None:
    for model in models.controls:
        if model.masked and call.mask is None:
            raise CallError(
                f"The control {model.path.name} is for inpainting: give --mask F, the part to "
                "inpaint."
            )


def _control_inputs(call: DrawCall, models: CallModels) -> tuple[ControlWiring, ...]:
    """An inpainting control gets the mask, Fun Union the image too; without an inpainting the mask
    says where the others act.
    """
    masked = call.mask is not None
    inpaints = masked and bool(call.image)
    sources = [inpaints and _reads_source(model) for model in models.controls]
    return tuple(
        ControlWiring(source, masked and (source or model.masked or not inpaints))
        for source, model in zip(sources, models.controls)
    )


def _reads_source(model: ControlModel | InContextModel) -> bool:
    """Takes the image that is inpainted in addition to its map."""
    return isinstance(model, ControlModel) and model.network.borrows


def as_encoded(prompt: str, models: CallModels) -> str:
    """The prompt as an in-context control was trained to read it."""
    if not any(isinstance(model, InContextModel) for model in models.controls):
        return prompt
    if prompt != with_prefix(prompt):
        log.info("in-context control: the prompt is encoded as %r", with_prefix(prompt))
    return with_prefix(prompt)
