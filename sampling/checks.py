"""Checks a request against a model before the first weight is read."""

from __future__ import annotations

import logging

from torch import Tensor

from ..errors import InkstoneError
from .geometry import LatentSpec, check_canvas
from .nan_check import check
from .request import MOST_LAYERS, Model, Request, VariantModel
from .schedule import check_sigmas

log = logging.getLogger(__name__)


def check_request(model: VariantModel, r: Request) -> None:
    """Raises InkstoneError if this model cannot draw this request."""
    latents = model.latents
    check_canvas(r.width, r.height, latents.step)
    check_sigmas(r.sigmas)
    _check_variant(model, r)
    for number, picture in enumerate(r.references, 1):
        _check_reference(f"Reference picture {number}", picture, latents)
    for number, picture in enumerate(r.context, 1):
        _check_context(model, f"In-context map {number}", picture, r)
    if model.layered:
        _check_layers(r, latents)
    elif r.layers:
        raise InkstoneError(
            f"The request has {r.layers} layers, but {_name(model)} draws one picture. Use "
            "Qwen-Image-Layered, or set layers to 0."
        )
    if r.latent is not None and (r.sigmas[0] < 1 or r.repaint is not None):
        _check_latent(r.latent, r, latents)
    if r.repaint is not None:
        _check_repaint(r.repaint, r, latents)


def _name(model: VariantModel) -> str:
    return model.variant.name if model.variant else "a model of unknown variant"


def _check_variant(model: VariantModel, r: Request) -> None:
    own = model.variant
    if r.encoded_for and (own is None or own.name != r.encoded_for):
        raise InkstoneError(
            f"The prompt was encoded for {r.encoded_for}, the diffusion model is {_name(model)}: "
            "each variant was trained with its own template. Encode the prompt with this diffusion "
            f"model connected, or load {r.encoded_for}."
        )
    if not r.references or model.layered:
        return
    pictures = f"{len(r.references)} reference picture{'s' * (len(r.references) > 1)}"
    if own is None:
        raise InkstoneError(
            f"{pictures} for a model that does not say which variant it is (the tensors of "
            "Qwen-Image, Edit and Edit-2509 are identical). Choose the variant where the model is "
            "loaded: edit, edit-2509 or edit-2511."
        )
    if model.edit is None:
        raise InkstoneError(
            f"{pictures} for {own.name}, which takes none. Use a Qwen-Image-Edit model; to start "
            "from a picture, pass its latent and a denoising strength below 1."
        )
    if model.edit.most is not None and len(r.references) > model.edit.most:
        raise InkstoneError(
            f"{pictures} for {own.name}, which takes {model.edit.most}. Remove some, or use "
            "Edit-2509 or 2511."
        )


def _check_reference(name: str, picture: Tensor, latents: LatentSpec) -> None:
    shape = list(picture.shape)
    if len(shape) != 5 or shape[:3] != [1, latents.channels, 1] or min(shape) < 1:
        raise InkstoneError(
            f"{name} has shape {shape}: expected one latent {latents.words('1')}. Encode one "
            "picture with the VAE of this diffusion model."
        )
    check(name, picture, "of the VAE")


def _check_context(model: VariantModel, name: str, picture: Tensor, r: Request) -> None:
    if model.layered or model.apart or model.edit is not None:
        raise InkstoneError(
            f"{name} for {_name(model)}: in-context controls were trained for Qwen-Image. Load "
            "Qwen-Image, or remove the control."
        )
    _check_reference(name, picture[:1], model.latents)
    check(name, picture, "of the VAE")
    if len(picture) not in (1, r.batch):
        raise InkstoneError(
            f"{name} holds {len(picture)} maps for a batch of {r.batch}: expected 1"
            f"{f' or {r.batch}' if r.batch > 1 else ''}. Pass one for all, or one for each picture."
        )
    size, scale = list(picture.shape[-2:]), model.latents.scale
    if size != [*model.latents.sides(r.width, r.height)]:
        raise InkstoneError(
            f"{name} is {size[1] * scale}x{size[0] * scale}, the canvas {r.width}x{r.height}: "
            "expected the same size. Resize the map to the canvas."
        )


def _check_layers(r: Request, latents: LatentSpec) -> None:
    if len(r.references) != 1:
        raise InkstoneError(
            f"Qwen-Image-Layered splits one picture into layers, got {len(r.references)} pictures. "
            "Pass the picture, with its alpha channel, as the only reference."
        )
    if not 1 <= r.layers <= MOST_LAYERS:
        raise InkstoneError(f"Layers is {r.layers}: expected 1 to {MOST_LAYERS}. 4 is usual.")
    size, scale = list(r.references[0].shape[-2:]), latents.scale
    if size != [*latents.sides(r.width, r.height)]:
        raise InkstoneError(
            f"The picture to split is {size[1] * scale}x{size[0] * scale}, the canvas "
            f"{r.width}x{r.height}: layers have the size of their picture. Use the same size for "
            "both."
        )
    if r.repaint is not None or r.sigmas[0] < 1:
        raise InkstoneError(
            "Qwen-Image-Layered draws its layers from noise alone. Remove the mask, and use a "
            "schedule that starts at 1 (denoising strength 1)."
        )


def _check_latent(latent: Tensor, r: Request, latents: LatentSpec) -> None:
    expected = latents.shape(r.width, r.height)
    if latent.dim() != 5 or list(latent.shape[1:]) != expected or len(latent) not in (1, r.batch):
        count = "1" if r.batch == 1 else f"1 or {r.batch}"
        raise InkstoneError(
            f"The latent to start from has shape {list(latent.shape)}, the canvas is {r.width}x"
            f"{r.height}: expected {count} of {expected}. Encode a picture of that size with the "
            "VAE."
        )
    check("the latent to start from", latent, "of the VAE")


def _check_repaint(mask: Tensor, r: Request, latents: LatentSpec) -> None:
    if r.latent is None:
        raise InkstoneError(
            "There is an inpainting mask but no latent, from which the kept part comes. Encode the "
            "picture with the VAE and pass its latent."
        )
    expected = [1, *latents.sides(r.width, r.height)]
    if mask.dim() != 4 or list(mask.shape[1:]) != expected or len(mask) not in (1, r.batch):
        raise InkstoneError(
            f"The inpainting mask has shape {list(mask.shape)}: expected one value per latent "
            f"pixel, [1, {', '.join(map(str, expected))}] for this {r.width}x{r.height} canvas. "
            "Resize the mask to the picture first."
        )
    check("the inpainting mask", mask, "of the mask")
    low, high = mask.min().item(), mask.max().item()
    if low < 0 or high > 1:
        raise InkstoneError(
            f"The inpainting mask has values from {low:g} to {high:g}: expected 0 (keep) to 1 "
            "(inpaint). Divide 8-bit values by 255."
        )


def texts_of(
    model: Model, positive: Tensor, negative: Tensor | None, cfg: float
) -> dict[str, Tensor]:
    """The states [1,L,J] of each half of CFG that is computed, positive first. Raises InkstoneError
    where they are not this model's, or where CFG above 1 has no negative prompt.
    """
    check_guidance(cfg, negative)
    texts = {"positive": check_text(positive, model, "positive")}
    if cfg > 1 and negative is not None:
        texts["negative"] = check_text(negative, model, "negative")
    return texts


def check_guidance(cfg: float, negative: Tensor | None) -> None:
    """Raises InkstoneError where CFG is no number for it, or has nothing to guide away from."""
    if not 0 <= cfg <= 100:
        raise InkstoneError(
            f"CFG is {cfg}: expected 0 to 100. Qwen-Image uses 4, Qwen-Image-2.1 and Lightning "
            "models 1."
        )
    if cfg > 1 and negative is None:
        raise InkstoneError(
            f"CFG is {cfg}, but there is no negative prompt to guide away from. Connect a negative "
            'prompt (a single space " " is the usual one), or set CFG to 1.'
        )
    if cfg <= 1 and negative is not None:
        log.info("CFG %g is off: the negative prompt is skipped, each step runs once", cfg)


def warn_of_negative(cfg: float, text: str | None) -> None:
    """One line where a negative prompt was written that CFG does not read."""
    if cfg <= 1 and text is not None and text.strip():
        log.warning(
            "the negative prompt has no effect: CFG is %g, and only CFG above 1 reads it", cfg
        )


def check_text(text: Tensor, model: Model, name: str) -> Tensor:
    """Prompt states [1,L,J]. Raises InkstoneError where they are not this model's."""
    joint = model.network.config.joint
    if text.dim() != 3 or text.shape[0] != 1 or text.shape[1] == 0:
        raise InkstoneError(
            f"The {name} prompt has shape {list(text.shape)}: expected [1, tokens, {joint}]. "
            "Encode one prompt with the Inkstone text encoder node."
        )
    if text.shape[2] != joint:
        raise InkstoneError(
            f"The {name} prompt was encoded {text.shape[2]} wide, this diffusion model expects "
            f"{joint}. Load the text encoder that belongs to it: Qwen2.5-VL 7B for Qwen-Image, "
            "Qwen3-VL 8B for Qwen-Image-2.1."
        )
    check(f"the {name} prompt", text, "of the text encoder")
    return text
