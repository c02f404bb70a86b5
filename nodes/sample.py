"""Sampling nodes: empty latent, schedule, denoise."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ..errors import InkstoneError
from ..host.api import io, schema
from ..host.previews import previewer
from ..host.step_bar import StepBar
from . import sockets

CUSTOM = "custom (width and height below)"
SMALL = "128x128 (embedded model)"
SCHEDULES = ("the model's own", "Qwen-Image (shift by size)", "Lightning (shift 3)", "linear")


def sizes() -> dict[str, tuple[int, int]]:
    from ..sampling.geometry import SIZES

    return {**SIZES, SMALL: (128, 128)}


class EmptyLatent(io.ComfyNode):
    """The canvas."""

    ID = "InkstoneEmptyLatent"

    @classmethod
    def define_schema(cls) -> io.Schema:
        side = dict(default=1328, min=16, max=16384, step=16)
        return schema(
            node_id=cls.ID,
            display_name="Inkstone Empty Latent",
            category="inkstone/latent",
            description="An empty canvas in one of Qwen-Image's seven sizes, or any multiple "
            "of 16.",
            search_aliases=["size", "resolution", "empty latent"],
            inputs=[
                io.Combo.Input(
                    "size",
                    options=[*sizes(), CUSTOM],
                    default=next(iter(sizes())),
                    tooltip="The sizes Qwen-Image was trained for, the embedded model's, or "
                    "custom.",
                ),
                io.Int.Input(
                    "width",
                    tooltip="Pixels, a multiple of 16. Read only with size = custom.",
                    **side,
                ),
                io.Int.Input(
                    "height",
                    tooltip="Pixels, a multiple of 16. Read only with size = custom.",
                    **side,
                ),
                io.Int.Input(
                    "batch_size",
                    default=1,
                    min=1,
                    max=256,
                    tooltip="Pictures to draw. Picture k uses seed + k, so each can be drawn "
                    "again alone.",
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
        return io.NodeOutput({"samples": torch.zeros(batch_size, 16, 1, height // 8, width // 8)})


class ScheduleSigmas(io.ComfyNode):
    """Sigmas of a run."""

    ID = "InkstoneSchedule"

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id=cls.ID,
            display_name="Inkstone Schedule",
            category="inkstone/sampling",
            description="Noise levels of every step, exactly as the reference computes them "
            "for this canvas.",
            search_aliases=["sigmas", "scheduler", "lightning"],
            inputs=[
                sockets.Model.Input(
                    "model", tooltip="Its own scheduler settings are used unless another is chosen."
                ),
                io.Latent.Input("latent", tooltip="The canvas: the shift grows with its size."),
                io.Int.Input(
                    "steps",
                    default=50,
                    min=1,
                    max=1000,
                    tooltip="50 for Qwen-Image, 4 or 8 with Lightning.",
                ),
                io.Combo.Input(
                    "schedule",
                    options=list(SCHEDULES),
                    default=SCHEDULES[0],
                    tooltip="Lightning models need the fixed shift 3, CFG 1 and 4 or 8 steps "
                    "together.",
                ),
                io.Float.Input(
                    "strength",
                    default=1.0,
                    min=0.001,
                    max=1.0,
                    step=0.01,
                    round=0.001,
                    optional=True,
                    tooltip="Image-to-image and inpaint: how much of the latent is drawn anew. 1: "
                    "all of it, from noise; 0.6 is usual for image-to-image. So much of the steps "
                    "is done.",
                ),
            ],
            outputs=[io.Sigmas.Output(display_name="sigmas")],
        )

    @classmethod
    def execute(
        cls, model: Any, latent: dict, steps: int, schedule: str, strength: float = 1.0
    ) -> io.NodeOutput:
        from ..loaders.models.diffusion_model import DiffusionModel
        from ..sampling.schedule import LIGHTNING, LINEAR, QWEN, sigmas, tail

        sockets.require_type(model, DiffusionModel, "model", "Inkstone Load Diffusion Model")
        if schedule not in SCHEDULES:
            raise InkstoneError(
                f"Schedule {schedule!r} is unknown: expected one of {', '.join(SCHEDULES)}."
            )
        chosen = dict(zip(SCHEDULES, (model.schedule, QWEN, LIGHTNING, LINEAR)))[schedule]
        h, w = sockets.latent_samples(latent, layers=True).shape[-2:]
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
            description="Draws: Euler steps through the diffusion model with the reference's "
            "CFG rescale. Reference pictures of the conditioning, and the mask of the latent, "
            "ours or of core nodes, are used.",
            search_aliases=["ksampler", "sampler"],
            inputs=[
                sockets.Model.Input("model", tooltip="From Load Diffusion Model or Load All."),
                io.Conditioning.Input("positive", tooltip="The encoded prompt."),
                io.Sigmas.Input(
                    "sigmas", tooltip="From Inkstone Schedule, or any core scheduler node."
                ),
                io.Latent.Input(
                    "latent",
                    tooltip="The canvas. Its content counts when sigmas start below 1 (strength), "
                    "and outside its mask.",
                ),
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=0xFFFFFFFFFFFFFFFF,
                    control_after_generate=True,
                    tooltip="Same seed, same picture, on any machine. Picture k of a batch "
                    "uses seed + k.",
                ),
                io.Float.Input(
                    "cfg",
                    default=4.0,
                    min=0.0,
                    max=100.0,
                    step=0.1,
                    round=0.01,
                    tooltip="Guidance away from the negative prompt. 4 for Qwen-Image, 1 "
                    "(off, twice as fast) for Lightning.",
                ),
                io.Conditioning.Input(
                    "negative", optional=True, tooltip="Needed when CFG is above 1."
                ),
            ],
            outputs=[io.Latent.Output("latent_out", display_name="latent")],
        )

    @classmethod
    def execute(
        cls,
        model: Any,
        positive: list,
        sigmas: Any,
        latent: dict,
        seed: int,
        cfg: float,
        negative: list | None = None,
    ) -> io.NodeOutput:
        from ..controlnet.in_context import apply_in_context_loras
        from ..loaders.models.diffusion_model import DiffusionModel
        from ..sampling.request import Hooks, Request
        from ..sampling.sampler import denoise

        sockets.require_type(model, DiffusionModel, "model", "Inkstone Load Diffusion Model")
        samples = sockets.latent_samples(latent)
        own = sockets.statistics(latent, positive)
        if own is not None:  # raw latents are those of the VAE in use
            model = replace(model, latent_mean=own[0], latent_std=own[1])
        batch, _, _, h, w = samples.shape
        model, controls, context = apply_in_context_loras(model, sockets.controls(positive, latent))
        request = Request(
            w * 8,
            h * 8,
            sigmas,
            seed,
            batch,
            cfg,
            samples,
            references=sockets.references(positive, negative, model.apart),
            repaint=sockets.repaint_mask(latent),
            layers=latent.get(sockets.LAYERS, 0),
            controls=controls,
            context=context,
            encoded_for=sockets.encoded_for(positive),
        )
        texts = [
            None if c is None else sockets.text_states(c, n)
            for c, n in ((positive, "positive"), (negative, "negative"))
        ]
        passes = 2 if cfg > 1 else 1
        bar = StepBar(len(sigmas) - 1, passes * model.network.config.layers, model.device)
        look = previewer(model, request)
        hooks = Hooks(on_step=lambda step: bar.step(step, look(step)), on_block=bar.block)
        drawn = {"samples": denoise(model, *texts, request, hooks)}
        drawn[sockets.STATISTICS] = (model.latent_mean, model.latent_std)
        return io.NodeOutput(latent | drawn)
