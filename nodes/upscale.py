"""The Upscale Picture node."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..errors import InkstoneError
from ..host.api import io, schema
from ..host.previews import preview_method, previewer
from ..host.step_bar import StepBar
from ..pipeline.upscale_choices import MOST_FACTOR, USUAL_FACTOR, USUAL_STRENGTH
from . import sockets
from .canvas import empty
from .conditioning import (
    controls_on,
    encoded_for,
    negative_of,
    references,
    region_inputs,
    text_states,
)
from .sample import Denoise
from .schedule import drawing_inputs, is_asked, left_to_model, schedule_inputs, sigmas_for

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from ..loaders.models.diffusion_model import DiffusionModel
    from ..loaders.models.vae import VAEModel
    from ..pipeline.upscale import Redraw
    from ..sampling.request import Hooks
    from .conditioning import Conditioning


class UpscalePicture(io.ComfyNode):
    """A picture, enlarged and redrawn tile by tile."""

    ID = "InkstoneUpscalePicture"

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id=cls.ID,
            display_name="Inkstone Upscale Picture",
            category="inkstone/image",
            description="Enlarges a picture by any factor and redraws it with the diffusion model "
            "at a small strength, tile by tile. Tiles are merged in every step, so there are no "
            "seams, and memory is that of one tile.",
            search_aliases=[
                "ultimate sd upscale",
                "tiled diffusion",
                "multidiffusion",
                "hires fix",
                "upscale model",
                "super resolution",
                "enlarge",
                "supir",
                "4k",
            ],
            inputs=[
                sockets.Model.Input("model", tooltip="From Load Diffusion Model or Load All."),
                sockets.VAE.Input("vae", tooltip="From Load VAE or Load All."),
                io.Image.Input(
                    "image", tooltip="One picture, or a batch, which is enlarged one by one."
                ),
                io.Conditioning.Input(
                    "positive", tooltip="The encoded prompt: what the whole picture shows."
                ),
                io.Conditioning.Input(
                    "negative",
                    optional=True,
                    tooltip="For CFG above 1. Not connected: the negative prompt of the node that "
                    "encoded the positive one.",
                ),
                io.Float.Input(
                    "factor",
                    default=USUAL_FACTOR,
                    min=1.0,
                    max=float(MOST_FACTOR),
                    step=0.25,
                    round=0.001,
                    tooltip="How many times larger each side becomes. The size is exact, for any "
                    "picture. 1 redraws a picture at its own size.",
                ),
                io.Float.Input(
                    "strength",
                    default=USUAL_STRENGTH,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    round=0.001,
                    tooltip="How much is redrawn, as a fraction of the steps. 0: nothing, the "
                    "picture is only resampled. 0.1 sharpens; 0.2 to 0.3 invents detail; more "
                    "repeats the prompt in every tile.",
                ),
                *drawing_inputs(),
                *schedule_inputs(sampler=False)[:2],
                io.Int.Input(
                    "tile",
                    default=0,
                    min=0,
                    max=4096,
                    step=32,
                    tooltip="Side of a tile in pixels, a multiple of 32. 0: what the model was "
                    "trained for. Smaller tiles need less memory and see less of the picture.",
                ),
            ],
            outputs=[io.Image.Output("image_out", display_name="image")],
        )

    @classmethod
    def needs_negative(cls, inputs: Mapping[str, object]) -> bool:
        """As the sampler."""
        return Denoise.needs_negative(inputs)

    @classmethod
    def execute(
        cls,
        model: DiffusionModel,
        vae: VAEModel,
        image: Tensor,
        positive: Conditioning,
        factor: float,
        strength: float,
        seed: int,
        cfg: float,
        steps: int,
        schedule: str,
        tile: int,
        negative: Conditioning | None = None,
    ) -> io.NodeOutput:
        from ..pipeline.upscale import Redraw, enlarged_size, tiles_for, upscaled_batch
        from ..sampling.pixel_lock import check_picture, size_of

        sockets.require_models(model=model, vae=vae)
        check_picture(image)
        _check_plain(positive, negative, model)
        size = enlarged_size(size_of(image), factor)
        if not strength:
            return io.NodeOutput(upscaled_batch(image, size))
        tiles = tiles_for(model, size, tile)
        usual = left_to_model(model, is_asked(steps, schedule, cfg))
        own = empty(*tiles.size, latents=model.latents)
        cfg = cfg or usual.preset.cfg
        if cfg > 1 and negative is None:
            negative = negative_of(positive)
        redraw = Redraw(
            model=model,
            vae=vae,
            tiles=tiles,
            positive=text_states(positive, "positive"),
            negative=None if negative is None else text_states(negative, "negative"),
            sigmas=sigmas_for(usual, own, steps, schedule, strength),
            seed=seed,
            cfg=cfg,
            encoded_for=encoded_for(positive, model.variant),
        )
        return io.NodeOutput(upscaled_batch(image, size, redraw, lambda: _hooks(redraw)))


def _hooks(redraw: Redraw) -> Hooks:
    """The progress bar of one picture, with previews of the whole."""
    from ..sampling.request import Hooks, Request

    model, tiles, steps = redraw.model, redraw.tiles, len(redraw.sigmas) - 1
    blocks = len(tiles) * (2 if redraw.cfg > 1 else 1) * model.network.config.layers
    bar = StepBar(steps, blocks, model.device)
    width, height = tiles.canvas
    look = previewer(model, Request(width=width, height=height, sigmas=redraw.sigmas))
    return Hooks(
        on_step=lambda step: bar.step(step, look(step)),
        on_block=bar.block,
        previews=preview_method() != "none",
    )


def _check_plain(
    positive: Conditioning, negative: Conditioning | None, model: DiffusionModel
) -> None:
    """Raises for a prompt with what belongs to a whole canvas."""
    pictures = references(positive, negative, model.apart)
    carried = {
        "reference pictures": pictures,
        "controls": controls_on(positive),
        "regional prompts": region_inputs(positive),
    }
    what = next((name for name, value in carried.items() if value), "")
    if what:
        raise InkstoneError(
            f"The prompt of Upscale Picture carries {what}, which belong to a whole canvas; here a "
            "picture is redrawn tile by tile. Connect Inkstone Encode Prompt with the same text."
        )
