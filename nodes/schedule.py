"""The Schedule node, and the inputs that it shares with the sampler."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from ..errors import InkstoneError
from ..host.api import io, schema
from . import sockets
from .canvas import canvas_for
from .latents import latent_samples, spec_of
from .shown import shown_if, unconnected

if TYPE_CHECKING:
    from torch import Tensor

    from ..loaders.models.diffusion_model import DiffusionModel
    from ..pipeline.usual_settings import UsualSettings
    from .latents import Latent

SCHEDULES = (
    "the model's own",
    "Qwen-Image (shift by size)",
    "Lightning (shift 3)",
    "linear",
    "ComfyUI 2.1 (constant shift 0.69)",
    "Lightning 2.1 (shift by size, no terminal)",
    "2.1 Turbo (8 fixed sigmas)",
)
OWN: Final = 0  # steps, CFG: as the model's card says


def drawing_inputs() -> list[io.Input]:
    """The seed and the CFG of a node that draws."""
    return [
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
            default=float(OWN),
            min=0.0,
            max=100.0,
            step=0.1,
            round=0.01,
            tooltip="Guidance away from the negative prompt. 0: the model's own (4 for "
            "Qwen-Image, 1 for 2.1 and with Lightning). 1: off, twice as fast.",
        ),
    ]


def schedule_inputs(sampler: bool) -> list[io.Input]:
    """Steps, schedule and denoising strength. sampler: of a node that takes sigmas instead."""
    inputs = _schedule_inputs(optional=sampler)
    return [shown_if(item, [unconnected("sigmas")]) for item in inputs] if sampler else inputs


def _schedule_inputs(optional: bool) -> list[io.Input]:
    return [
        io.Int.Input(
            "steps",
            default=OWN,
            min=0,
            max=1000,
            optional=optional,
            tooltip="Number of steps. 0: the model's own (50 for Qwen-Image, 40 for 2.1, 4 or "
            "8 with Lightning, 20 for the embedded model).",
        ),
        io.Combo.Input(
            "schedule",
            options=list(SCHEDULES),
            default=SCHEDULES[0],
            optional=optional,
            tooltip="Lightning models need all three: the fixed shift 3, CFG 1, and 4 or 8 steps. "
            "ComfyUI 2.1: as its own nodes have it, up to 0.125 from the reference.",
        ),
        io.Float.Input(
            "strength",
            default=1.0,
            min=0.001,
            max=1.0,
            step=0.01,
            round=0.001,
            optional=True,
            tooltip="Denoising strength for image-to-image and inpaint. 1 ignores the latent's "
            "content and starts from noise; 0.6 is usual for image-to-image. Runs this fraction "
            "of the steps.",
        ),
    ]


def is_asked(steps: int, schedule: str, cfg: float = OWN) -> bool:
    """True if any setting is not left to the model."""
    return bool(steps or cfg or schedule != SCHEDULES[0])


def left_to_model(model: DiffusionModel, asked: bool, pictures: int = 0) -> UsualSettings:
    """The settings of a node that are left to the model; one line if they are not its card's."""
    from ..pipeline.usual_settings import log_usual_settings, usual_settings

    usual = usual_settings(model, pictures, asked=asked)
    if not asked:
        log_usual_settings(usual, model)
    return usual


def sigmas_for(
    usual: UsualSettings, latent: Latent, steps: int, schedule: str, strength: float
) -> Tensor:
    """[n + 1] sigmas on this LATENT. usual: what steps OWN and the first schedule stand for;
    strength: the fraction of the steps that runs.
    """
    from ..sampling.schedule import (
        CORE_21,
        LIGHTNING,
        LIGHTNING_21,
        LINEAR,
        QWEN,
        TURBO_21,
        sigmas,
        tail,
    )

    if schedule not in SCHEDULES:
        raise InkstoneError(
            f"Schedule {schedule!r} is unknown: expected one of {', '.join(SCHEDULES)}."
        )
    steps = steps or usual.preset.steps
    own = (usual.schedule, QWEN, LIGHTNING, LINEAR, CORE_21, LIGHTNING_21, TURBO_21)
    chosen = dict(zip(SCHEDULES, own, strict=True))[schedule]
    _, rows, columns = spec_of(latent).grid(latent_samples(latent, layers=True))
    return tail(sigmas(chosen, steps, rows * columns), strength)


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
            search_aliases=["basic scheduler", "sigmas", "lightning", "model sampling auraflow"],
            inputs=[
                sockets.Model.Input(
                    "model",
                    tooltip="Its own scheduler settings are used, unless you choose another "
                    "schedule.",
                ),
                io.Latent.Input(
                    "latent",
                    optional=True,
                    tooltip="The latent to denoise: the shift grows with its size. Not connected: "
                    "the model's own size.",
                ),
                *schedule_inputs(sampler=False),
            ],
            outputs=[io.Sigmas.Output(display_name="sigmas")],
        )

    @classmethod
    def execute(
        cls,
        model: DiffusionModel,
        latent: Latent | None = None,
        steps: int = OWN,
        schedule: str = SCHEDULES[0],
        strength: float = 1.0,
    ) -> io.NodeOutput:
        sockets.require_models(model=model)
        latent = canvas_for(model, latent)
        usual = left_to_model(model, is_asked(steps, schedule))
        return io.NodeOutput(sigmas_for(usual, latent, steps, schedule, strength))
