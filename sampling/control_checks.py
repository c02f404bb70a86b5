"""Checks of controls against the model and the canvas of a run."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..errors import InkstoneError
from ..kernels.configs import MMDiTConfig, SingleStreamConfig
from ..kernels.control_blockwise import BlockwiseBranch
from ..kernels.control_fun import FunBranch
from ..kernels.control_instantx import ControlBranch
from ..kernels.control_union import UnionBranch
from .geometry import TOKEN, LatentSpec
from .nan_check import check
from .request import Control

if TYPE_CHECKING:
    from .request import Request

MOST_STRENGTH = 10.0


def check_controls(base: MMDiTConfig | SingleStreamConfig, latents: LatentSpec, r: Request) -> None:
    """Raises InkstoneError if a control does not fit the model or the canvas."""
    if r.controls and r.layers:
        raise InkstoneError(
            "Qwen-Image-Layered splits a picture into layers and takes no controls. Remove the "
            "control, or draw with Qwen-Image."
        )
    for control in r.controls:
        _check_numbers(control)
        _check_family(control, base)
        _check_pictures(control, latents, r)


def _check_numbers(c: Control) -> None:
    if not -MOST_STRENGTH <= c.strength <= MOST_STRENGTH:
        raise InkstoneError(
            f"The strength of the control {c.name} is {c.strength:g}: expected {-MOST_STRENGTH:g} "
            f"to {MOST_STRENGTH:g}. 0.8 to 1 is usual."
        )
    if not 0 <= c.start < c.end <= 1:
        raise InkstoneError(
            f"The control {c.name} acts from {c.start:g} to {c.end:g}: expected fractions of the "
            "steps, 0 <= start < end <= 1. Use 0 and 1 for all steps."
        )


_SHAPE = {"width": "width", "heads": "heads", "axes": "rope axes"}
# config fields that a branch shares with its base model, and their names in messages
_COMPARED = {
    ControlBranch: _SHAPE | {"joint": "text width", "channels": "channels"},
    FunBranch: _SHAPE,
    UnionBranch: _SHAPE,
    BlockwiseBranch: {"width": "width", "channels": "channels", "layers": "blocks"},
}


# what the base model of a branch is, where it is no MMDiT
_BASES: dict[type, type] = {UnionBranch: SingleStreamConfig}


def _check_family(c: Control, base: MMDiTConfig | SingleStreamConfig) -> None:
    own = c.branch.network.config
    names = _COMPARED[type(c.branch.network)]
    other = [
        f"{word} {getattr(own, name)} where the model has {getattr(base, name)}"
        for name, word in names.items()
        if getattr(own, name) != getattr(base, name)
    ]
    if type(base) is not _BASES.get(type(c.branch.network), MMDiTConfig):
        other.insert(0, "blocks of another kind")
    if other:
        raise InkstoneError(
            f"The control {c.name} is for a model of another family: it has {', '.join(other)}. "
            "Load a control that was trained for this diffusion model."
        )


def _check_pictures(c: Control, latents: LatentSpec, r: Request) -> None:
    size = [*latents.sides(r.width, r.height)]
    counts = (1, r.batch)
    if c.latent.dim() != 5 or list(c.latent.shape[1:]) != [latents.channels, 1, *size]:
        raise InkstoneError(
            f"The picture of the control {c.name} has a latent of shape {list(c.latent.shape)}, "
            f"the canvas is {r.width}x{r.height}: expected [pictures, {latents.channels}, 1, "
            f"{size[0]}, {size[1]}]. Resize the control picture to the canvas."
        )
    if isinstance(c.branch.network, FunBranch | UnionBranch):
        if (c.keep_mask is None) != (c.source is None):
            raise InkstoneError(
                f"The control {c.name} inpaints with a mask and the picture to inpaint, and got "
                "only one of the two. Connect both, or neither."
            )
    elif c.branch.network.masked != (c.keep_mask is not None):
        takes = "takes a mask and got none" if c.keep_mask is None else "takes no mask and got one"
        raise InkstoneError(
            f"The control {c.name} {takes}. An inpainting control needs the mask of the area to "
            "inpaint; the others take only the picture."
        )
    tokens = [r.height // TOKEN, r.width // TOKEN]
    for word, mask, expected in (("mask", c.keep_mask, size), ("region", c.where, tokens)):
        if mask is not None and (mask.dim() != 4 or list(mask.shape[1:]) != [1, *expected]):
            raise InkstoneError(
                f"The {word} of the control {c.name} has shape {list(mask.shape)}: expected "
                f"[masks, 1, {expected[0]}, {expected[1]}] for this {r.width}x{r.height} canvas. "
                "Resize it to the canvas."
            )
    for word, x in (
        ("pictures", c.latent),
        ("masks", c.keep_mask),
        ("regions", c.where),
        ("pictures to inpaint", c.source),
    ):
        if x is not None and len(x) not in counts:
            raise InkstoneError(
                f"The control {c.name} has {len(x)} {word} for a batch of {r.batch}: expected 1"
                f"{f' or {r.batch}' if r.batch > 1 else ''}. Pass one for all, or one for each."
            )
    check(f"the picture of the control {c.name}", c.latent, "of the VAE")
