"""What is drawn, and whether a model can: every refusal is said before the first weight is read."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from ..kernels.errors import InkstoneError
from .control import Control
from .finite import check
from .geometry import LATENT, TOKEN, check_canvas
from .schedule import check_sigmas

log = logging.getLogger(__name__)

MOST_LAYERS, USUAL_LAYERS = 64, 4  # as the reference


class Edits(Protocol):
    """What is asked of an edit template."""

    most: int | None  # pictures; None = any number


class Kind(Protocol):
    """What is asked of a variant."""

    name: str


class Drawer(Protocol):
    """What is asked of a model before it draws."""

    variant: Kind | None  # None = neither the file nor the user says

    @property
    def apart(self) -> bool:
        """References have a time of their own (zero_cond_t)."""

    @property
    def layered(self) -> bool:
        """Draws layers of one picture."""

    @property
    def edit(self) -> Edits | None:
        """Its kind of edits; None = takes no references."""


Context = tuple[Tensor, ...]
"""Maps [n,16,1,h,w] that stand beside what is drawn, for a LoRA that reads them; n = 1 or the
batch."""


@dataclass(frozen=True)
class Request:
    """What to draw. Pictures that are given are raw VAE latents."""

    width: int
    height: int
    sigmas: Tensor
    seed: int = 0
    batch: int = 1
    cfg: float = 1.0
    latent: Tensor | None = None  # [n,16,1,h,w]; mixed in when sigmas start below 1
    references: tuple[Tensor, ...] = ()  # [1,16,1,h,w], each of its own size: Picture 1, 2, 3
    repaint: Tensor | None = None  # [n,1,h,w] 0..1: 1 = drawn, 0 = stays as in `latent`
    layers: int = 0  # layered variant: so many layers of the one reference
    controls: tuple[Control, ...] = ()
    context: Context = ()
    encoded_for: str = ""  # the variant whose template the prompts were encoded in; "" = not said

    @property
    def beside(self) -> tuple[Tensor, ...]:
        """All pictures that stand as tokens beside what is drawn."""
        return (*self.references, *self.context)


def check_request(model: Drawer, r: Request) -> None:
    """Raises InkstoneError where this model cannot draw this."""
    check_canvas(r.width, r.height)
    check_sigmas(r.sigmas)
    _check_variant(model, r)
    for number, picture in enumerate(r.references, 1):
        _check_reference(f"Reference picture {number}", picture)
    for number, picture in enumerate(r.context, 1):
        _check_context(model, f"In-context map {number}", picture, r)
    if model.layered:
        _check_layers(r)
    elif r.layers:
        raise InkstoneError(
            f"{r.layers} layers are asked of {_name(model)}, which draws one picture. Use "
            "Qwen-Image-Layered, or leave layers at 0."
        )
    if r.latent is not None and (r.sigmas[0] < 1 or r.repaint is not None):
        _check_latent(r.latent, r)
    if r.repaint is not None:
        _check_repaint(r.repaint, r)


def _name(model: Drawer) -> str:
    return model.variant.name if model.variant else "a model whose variant is not said"


def _check_variant(model: Drawer, r: Request) -> None:
    own = model.variant
    if r.encoded_for and (own is None or own.name != r.encoded_for):
        raise InkstoneError(
            f"The prompt was encoded for {r.encoded_for}, the diffusion model is {_name(model)}: "
            "each variant was trained with its own template. Encode the prompt with this diffusion "
            "model connected, or load the model that it was encoded for."
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
            "from a picture, give its latent and a strength below 1."
        )
    if model.edit.most is not None and len(r.references) > model.edit.most:
        raise InkstoneError(
            f"{pictures} for {own.name}, which takes {model.edit.most}. Leave out some, or use "
            "Edit-2509 or 2511."
        )


def _check_reference(name: str, picture: Tensor) -> None:
    shape = list(picture.shape)
    if len(shape) != 5 or shape[:3] != [1, 16, 1] or min(shape) < 1:
        raise InkstoneError(
            f"{name} has shape {shape}: expected one latent [1, 16, 1, height/8, width/8]. Encode "
            "one picture with the VAE of Qwen-Image."
        )
    check(name, picture, "of the VAE")


def _check_context(model: Drawer, name: str, picture: Tensor, r: Request) -> None:
    if model.layered or model.apart or model.edit is not None:
        raise InkstoneError(
            f"{name} for {_name(model)}: in-context controls were made for Qwen-Image. Load that, "
            "or take out the control."
        )
    _check_reference(name, picture[:1])
    check(name, picture, "of the VAE")
    if len(picture) not in (1, r.batch):
        raise InkstoneError(
            f"{name} holds {len(picture)} maps, {r.batch} are drawn: expected 1"
            f"{f' or {r.batch}' if r.batch > 1 else ''}. Give one for all, or one for each."
        )
    got, wanted = list(picture.shape[-2:]), [r.height // LATENT, r.width // LATENT]
    if got != wanted:
        raise InkstoneError(
            f"{name} is {got[1] * LATENT}x{got[0] * LATENT}, the canvas {r.width}x{r.height}: both "
            "must have the same size."
        )


def _check_layers(r: Request) -> None:
    if len(r.references) != 1:
        raise InkstoneError(
            f"Qwen-Image-Layered takes one picture apart, got {len(r.references)} pictures. "
            "Give the picture, with its alpha channel, as the one reference."
        )
    if not 1 <= r.layers <= MOST_LAYERS:
        raise InkstoneError(f"Layers is {r.layers}: expected 1 to {MOST_LAYERS}. 4 is usual.")
    got, wanted = list(r.references[0].shape[-2:]), [r.height // LATENT, r.width // LATENT]
    if got != wanted:
        raise InkstoneError(
            f"The picture to take apart is {got[1] * LATENT}x{got[0] * LATENT}, the canvas "
            f"{r.width}x{r.height}: layers have the size of their picture. Make both the same."
        )
    if r.repaint is not None or r.sigmas[0] < 1:
        raise InkstoneError(
            "Qwen-Image-Layered draws its layers from noise alone: no mask, and a schedule that "
            "starts at 1."
        )


def _check_latent(latent: Tensor, r: Request) -> None:
    wanted = [16, 1, r.height // LATENT, r.width // LATENT]
    if latent.dim() != 5 or list(latent.shape[1:]) != wanted or len(latent) not in (1, r.batch):
        count = "1" if r.batch == 1 else f"1 or {r.batch}"
        raise InkstoneError(
            f"The latent to start from has shape {list(latent.shape)}, the canvas is {r.width}x"
            f"{r.height}: expected {count} of {wanted}. Encode a picture of that size with the VAE."
        )
    check("the latent to start from", latent, "of the VAE")


def _check_repaint(mask: Tensor, r: Request) -> None:
    if r.latent is None:
        raise InkstoneError(
            "A mask is given and no latent: what is kept comes from the latent. Encode the "
            "picture with the VAE."
        )
    wanted = [1, r.height // LATENT, r.width // LATENT]
    if mask.dim() != 4 or list(mask.shape[1:]) != wanted or len(mask) not in (1, r.batch):
        raise InkstoneError(
            f"The repaint mask has shape {list(mask.shape)}: expected one value per latent pixel, "
            f"[1, {', '.join(map(str, wanted))}] for this {r.width}x{r.height} canvas. Bring the "
            "mask to the size of the picture first."
        )
    check("the repaint mask", mask, "of the mask")
    low, high = mask.min().item(), mask.max().item()
    if low < 0 or high > 1:
        raise InkstoneError(
            f"The repaint mask has values from {low:g} to {high:g}: expected 0 (keep) to 1 "
            "(repaint)."
        )


def reference_grid(picture: Tensor) -> tuple[int, int, int]:
    """(frames, rows, columns) in tokens of a latent [1,16,1,h,w]; odd sides count as one more."""
    side = TOKEN // LATENT
    return 1, -(-picture.shape[-2] // side), -(-picture.shape[-1] // side)
