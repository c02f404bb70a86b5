"""The canvas: the Empty Latent node, and a latent whose size the sampler's model decides."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

from ..errors import InkstoneError
from ..host.api import io, schema
from . import sockets
from .latents import OWN_SIZE, RATIO, SAMPLES, scale_of
from .shown import among, shown_if

if TYPE_CHECKING:
    from ..loaders.models.diffusion_model import DiffusionModel
    from ..sampling.geometry import LatentSpec
    from .latents import Latent

log = logging.getLogger(__name__)

MODELS_SIZE: Final = "the model's own"
CUSTOM = "custom (width and height below)"
SMALL = "128x128 (embedded model)"
SIDE = 1328  # width and height of a new node
FAR = 2.5  # a canvas with an area this many times the model's, or less than its inverse, is named


def sizes() -> dict[str, tuple[int, int]]:
    """The sizes of the Empty Latent node by name."""
    from ..sampling.geometry import SIZES, SIZES_21

    return {**SIZES, **SIZES_21, SMALL: (128, 128)}


def size_given(inputs: Mapping[str, object]) -> tuple[object, object] | None:
    """(width, height) that an Empty Latent with these inputs has: of its size by name, else of its
    widgets, which may be links. None = the model's own size.
    """
    name = inputs.get("size")
    if name == MODELS_SIZE:
        return None
    return sizes().get(str(name)) or (inputs.get("width"), inputs.get("height"))


def check_unused(size: str, sides: tuple[object, object], used: tuple[object, object]) -> None:
    """Raises where width and height are set although another choice decides the size."""
    if sides not in (used, (SIDE, SIDE)):
        raise InkstoneError(
            f"Empty Latent has size {size!r} and also width {sides[0]} and height {sides[1]}, "
            f"which that choice does not use. Choose size {CUSTOM!r} for {sides[0]}x{sides[1]}, or "
            f"set both back to {SIDE}."
        )


def _side(name: str) -> io.Input:
    side = io.Int.Input(
        name,
        default=SIDE,
        min=16,
        max=16384,
        step=16,
        tooltip=f"{name.capitalize()} in pixels, a multiple of 16. For size custom.",
    )
    return shown_if(side, [among("size", [CUSTOM])])


class EmptyLatent(io.ComfyNode):
    """The canvas."""

    ID = "InkstoneEmptyLatent"

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id=cls.ID,
            display_name="Inkstone Empty Latent",
            category="inkstone/latent",
            description="An empty latent in the size that the model was trained for, in one of "
            "the sizes of Qwen-Image or Qwen-Image-2.1, or in any multiple of 16 (2.1: of 32).",
            search_aliases=[
                "empty latent image",
                "empty sd3 latent image",
                "resolution",
                "aspect ratio",
                "width height size",
            ],
            inputs=[
                io.Combo.Input(
                    "size",
                    options=[MODELS_SIZE, *sizes(), CUSTOM],
                    default=MODELS_SIZE,
                    tooltip="the model's own: what the sampling model was trained for. Or a size "
                    "of Qwen-Image, the embedded model's, or custom.",
                ),
                _side("width"),
                _side("height"),
                io.Int.Input(
                    "batch_size",
                    default=1,
                    min=1,
                    max=256,
                    tooltip="Number of pictures. Picture k uses seed + k, so each one can be "
                    "generated again on its own.",
                ),
                sockets.Model.Input(
                    "model",
                    optional=True,
                    tooltip="Gives the model's own size to nodes that do not know the model, such "
                    "as KSampler. Inkstone Sampler knows it.",
                ),
            ],
            outputs=[io.Latent.Output(display_name="latent")],
        )

    @classmethod
    def execute(
        cls,
        size: str,
        width: int,
        height: int,
        batch_size: int,
        model: DiffusionModel | None = None,
    ) -> io.NodeOutput:
        from ..sampling.geometry import FIRST_LATENTS, check_canvas

        if model is not None:
            sockets.require_models(model=model)
        if size == MODELS_SIZE:
            own = model.preset().size if model is not None else (SIDE, SIDE)
            check_unused(size, (width, height), own)
            latent = empty(*own, batch_size, None if model is None else model.latents)
            return io.NodeOutput(latent if model is not None else latent | {OWN_SIZE: True})
        if size != CUSTOM:
            if size not in sizes():
                raise InkstoneError(
                    f"Size {size!r} is unknown: expected one of {MODELS_SIZE}, "
                    f"{', '.join(sizes())}, {CUSTOM}."
                )
            check_unused(size, (width, height), sizes()[size])
            width, height = sizes()[size]
        latents = FIRST_LATENTS if model is None else model.latents
        check_canvas(width, height, latents.step)
        return io.NodeOutput(empty(width, height, batch_size, latents))


def empty(width: int, height: int, batch: int = 1, latents: LatentSpec | None = None) -> Latent:
    """A LATENT of zeros; sides in pixels. latents: of the model, where it is known."""
    import torch

    from ..sampling.geometry import FIRST_LATENTS

    return {SAMPLES: torch.zeros(batch, *(latents or FIRST_LATENTS).shape(width, height))}


def canvas_for(model: DiffusionModel, latent: Latent | None) -> Latent:
    """The LATENT to sample with this model: of the model's own size where none is connected, or
    one that leaves it to the model. An empty one of another model's kind becomes one of this
    model's, of the same size in pixels, as core's sampler has it.
    """
    from ..sampling.geometry import check_canvas

    latents = model.latents
    if latent is None:
        return empty(*model.preset().size, latents=latents)
    samples = latent[SAMPLES]
    if latent.get(OWN_SIZE):
        return empty(*model.preset().size, len(samples), latents)
    if samples.dim() not in (4, 5) or samples.shape[1] == latents.channels:
        return latent
    if bool(samples.any()):
        raise InkstoneError(
            f"The latent has {samples.shape[1]} channels, this model's have {latents.channels}: it "
            "was made with the VAE of another model. Encode the picture with the VAE that belongs "
            f"to {model.path.name}."
        )
    scale = latent.get(RATIO) or scale_of(samples)
    height, width = (round(side * scale) for side in samples.shape[-2:])
    check_canvas(width, height, latents.step)
    return {**latent, **empty(width, height, len(samples), latents)}


def check_start(latent: Latent | None, strength: float) -> None:
    """Raises where a denoising strength below 1 has no picture to start from."""
    if strength < 1 and (latent is None or latent.get(OWN_SIZE)):
        got = "nothing is connected to it" if latent is None else "an empty latent is connected"
        raise InkstoneError(
            f"The denoising strength is {strength:g}, which starts from the picture in the input "
            f"latent, but {got}. Connect Inkstone Image to Latent or Inkstone Inpaint to it, or "
            "set the strength to 1."
        )


def warn_of_size(model: DiffusionModel, width: int, height: int) -> None:
    """One line for a canvas that is far from what the model was trained for; sides in pixels."""
    own = model.preset().size
    factor = width * height / (own[0] * own[1])
    if 1 / FAR <= factor <= FAR:
        return
    log.warning(
        "the canvas of %dx%d has %.3g times the area that %s was trained for (%dx%d): the picture "
        "may repeat or fall apart%s. Empty Latent with size %r has the right one",
        width,
        height,
        factor,
        model.path.name,
        *own,
        ", and each step takes much longer" if factor > 1 else "",
        MODELS_SIZE,
    )
