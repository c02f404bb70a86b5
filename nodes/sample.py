"""Sampling nodes: empty latent, schedule, denoise."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from ..errors import InkstoneError
from ..host.api import io, schema
from ..host.previews import previewer
from ..host.step_bar import StepBar
from . import sockets
from .conditioning import controls, encoded_for, references, statistics, text_states
from .latents import LAYERS, SAMPLES, STATISTICS, inpaint_mask, latent_samples, warn_of_batch_index

if TYPE_CHECKING:
    from torch import Tensor

    from ..loaders.models.diffusion_model import DiffusionModel
    from .conditioning import Conditioning
    from .latents import Latent

CUSTOM = "custom (width and height below)"
SMALL = "128x128 (embedded model)"
SCHEDULES = ("the model's own", "Qwen-Image (shift by size)", "Lightning (shift 3)", "linear")


def sizes() -> dict[str, tuple[int, int]]:
    """The sizes of the Empty Latent node by name."""
    from ..sampling.geometry import SIZES

    return {**SIZES, SMALL: (128, 128)}


def _side(name: str) -> io.Input:
    return io.Int.Input(
        name,
        default=1328,
        min=16,
        max=16384,
        step=16,
        tooltip=f"{name.capitalize()} in pixels, a multiple of 16. Only used if size is custom.",
    )


class EmptyLatent(io.ComfyNode):
    """The canvas."""

    ID = "InkstoneEmptyLatent"

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id=cls.ID,
            display_name="Inkstone Empty Latent",
            category="inkstone/latent",
            description="An empty latent in one of Qwen-Image's seven sizes, or in any multiple "
            "of 16.",
            search_aliases=["size", "resolution", "empty latent"],
            inputs=[
                io.Combo.Input(
                    "size",
                    options=[*sizes(), CUSTOM],
                    default=next(iter(sizes())),
                    tooltip="A size that Qwen-Image was trained on, the embedded model's size, or "
                    "custom.",
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
            ],
            outputs=[io.Latent.Output(display_name="latent")],
        )

    @classmethod
    def execute(cls, size: str, width: int, height: int, batch_size: int) -> io.NodeOutput:
        import torch

        from ..sampling.geometry import check_canvas

        if size != CUSTOM:
            if size not in sizes():
                raise InkstoneError(
                    f"Size {size!r} is unknown: expected one of {', '.join(sizes())}, {CUSTOM}."
                )
            width, height = sizes()[size]
        check_canvas(width, height)
        return io.NodeOutput({SAMPLES: torch.zeros(batch_size, 16, 1, height // 8, width // 8)})


class ScheduleSigmas(io.ComfyNode):
    """Sigmas of a run."""

    ID = "InkstoneSchedule"

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id=cls.ID,
            display_name="Inkstone Schedule",
            category="inkstone/sampling",
            description="The sigmas (noise levels) of all steps, exactly as the reference pipeline "
            "computes them for this size.",
            search_aliases=["sigmas", "scheduler", "lightning"],
            inputs=[
                sockets.Model.Input(
                    "model",
                    tooltip="Its own scheduler settings are used, unless you choose another "
                    "schedule.",
                ),
                io.Latent.Input(
                    "latent", tooltip="The latent to denoise: the shift grows with its size."
                ),
                io.Int.Input(
                    "steps",
                    default=50,
                    min=1,
                    max=1000,
                    tooltip="Number of steps: 50 for Qwen-Image, 4 or 8 with Lightning.",
                ),
                io.Combo.Input(
                    "schedule",
                    options=list(SCHEDULES),
                    default=SCHEDULES[0],
                    tooltip="Lightning models need all three: the fixed shift 3, CFG 1, and 4 or 8 "
                    "steps.",
                ),
                io.Float.Input(
                    "strength",
                    default=1.0,
                    min=0.001,
                    max=1.0,
                    step=0.01,
                    round=0.001,
                    optional=True,
                    tooltip="Denoising strength for image-to-image and inpaint. 1 ignores the "
                    "latent's content and starts from noise; 0.6 is usual for image-to-image. Runs "
                    "this fraction of the steps.",
                ),
            ],
            outputs=[io.Sigmas.Output(display_name="sigmas")],
        )

    @classmethod
    def execute(
        cls, model: DiffusionModel, latent: Latent, steps: int, schedule: str, strength: float = 1.0
    ) -> io.NodeOutput:
        from ..sampling.schedule import LIGHTNING, LINEAR, QWEN, sigmas, tail

        sockets.require_models(model=model)
        if schedule not in SCHEDULES:
            raise InkstoneError(
                f"Schedule {schedule!r} is unknown: expected one of {', '.join(SCHEDULES)}."
            )
        chosen = dict(zip(SCHEDULES, (model.schedule, QWEN, LIGHTNING, LINEAR)))[schedule]
        h, w = latent_samples(latent, layers=True).shape[-2:]
        return io.NodeOutput(tail(sigmas(chosen, steps, (h // 2) * (w // 2)), strength))


class Denoise(io.ComfyNode):
    """The sampler."""

    ID = "InkstoneDenoise"

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id=cls.ID,
            display_name="Inkstone Denoise",
            category="inkstone/sampling",
            description="Samples with Euler steps and the reference pipeline's CFG rescale. Uses "
            "the reference images of the conditioning and the mask of the latent, from our nodes "
            "or from core nodes.",
            search_aliases=["ksampler", "sampler"],
            inputs=[
                sockets.Model.Input("model", tooltip="From Load Diffusion Model or Load All."),
                io.Conditioning.Input("positive", tooltip="The encoded prompt."),
                io.Sigmas.Input(
                    "sigmas", tooltip="From Inkstone Schedule or any core scheduler node."
                ),
                io.Latent.Input(
                    "latent",
                    tooltip="The latent to denoise. Its content is used if the denoising strength "
                    "is below 1, and outside its mask.",
                ),
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=0xFFFFFFFFFFFFFFFF,
                    control_after_generate=True,
                    tooltip="The same seed gives the same picture on any machine. Picture k of a "
                    "batch uses seed + k.",
                ),
                io.Float.Input(
                    "cfg",
                    default=4.0,
                    min=0.0,
                    max=100.0,
                    step=0.1,
                    round=0.01,
                    tooltip="Guidance away from the negative prompt. 4 for Qwen-Image; 1 for "
                    "Lightning (off, twice as fast).",
                ),
                io.Conditioning.Input(
                    "negative", optional=True, tooltip="Required if CFG is above 1."
                ),
            ],
            outputs=[io.Latent.Output("latent_out", display_name="latent")],
        )

    @classmethod
    def execute(
        cls,
        model: DiffusionModel,
        positive: Conditioning,
        sigmas: Tensor,
        latent: Latent,
        seed: int,
        cfg: float,
        negative: Conditioning | None = None,
    ) -> io.NodeOutput:
        from ..controlnet.denoise import denoise_with_controls
        from ..sampling.request import Hooks, Request

        sockets.require_models(model=model)
        samples = latent_samples(latent)
        warn_of_batch_index(latent)
        own = statistics(positive, latent)
        if own is not None:  # raw latents are those of the VAE in use
            model = replace(model, latent_mean=own[0], latent_std=own[1])
        batch, _, _, h, w = samples.shape
        request = Request(
            width=w * 8,
            height=h * 8,
            sigmas=sigmas,
            seed=seed,
            batch=batch,
            cfg=cfg,
            latent=samples,
            references=references(positive, negative, model.apart),
            repaint=inpaint_mask(latent),
            layers=latent.get(LAYERS, 0),
            encoded_for=encoded_for(positive),
        )
        positive_states = text_states(positive, "positive")
        negative_states = None if negative is None else text_states(negative, "negative")
        passes = 2 if cfg > 1 else 1
        bar = StepBar(len(sigmas) - 1, passes * model.network.config.layers, model.device)
        look = previewer(model, request)
        hooks = Hooks(on_step=lambda step: bar.step(step, look(step)), on_block=bar.block)
        result = denoise_with_controls(
            model, positive_states, negative_states, request, controls(positive, latent), hooks
        )
        statistics_used = (model.latent_mean, model.latent_std)
        return io.NodeOutput(latent | {SAMPLES: result, STATISTICS: statistics_used})
