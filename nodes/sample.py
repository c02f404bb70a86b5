"""The sampler node."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from ..errors import InkstoneError
from ..host.api import io, schema
from ..host.previews import previewer
from ..host.step_bar import StepBar
from . import sockets
from .canvas import canvas_for, check_start, warn_of_size
from .conditioning import (
    controls,
    encoded_for,
    negative_of,
    references,
    regional,
    slots,
    statistics,
    text_states,
)
from .latents import (
    LAYERS,
    LOCK,
    SAMPLES,
    STATISTICS,
    inpaint_mask,
    latent_samples,
    warn_of_batch_index,
)
from .schedule import (
    OWN,
    SCHEDULES,
    drawing_inputs,
    is_asked,
    left_to_model,
    schedule_inputs,
    sigmas_for,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from ..controlnet.in_context import InContext
    from ..loaders.models.diffusion_model import DiffusionModel
    from ..sampling.request import Control, Request
    from .conditioning import Conditioning
    from .latents import Latent


@dataclass(frozen=True, eq=False)
class Prepared:
    """What a sampler draws. positive, negative: [1,L,J] text states."""

    model: DiffusionModel
    positive: Tensor
    negative: Tensor | None
    request: Request
    controls: Sequence[Control | InContext]
    latent: Latent

    def output(self, result: Tensor) -> io.NodeOutput:
        """The node's output, of the latents that were drawn."""
        used = (self.model.latent_mean, self.model.latent_std)
        return io.NodeOutput(self.latent | {SAMPLES: result, STATISTICS: used})


class Denoise(io.ComfyNode):
    """The sampler."""

    ID = "InkstoneDenoise"

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id=cls.ID,
            display_name="Inkstone Sampler",
            category="inkstone/sampling",
            description="Denoises with Euler steps and the reference pipeline's CFG rescale. Uses "
            "the reference images of the conditioning and the mask of the latent, from our nodes "
            "or from core nodes.",
            search_aliases=[
                "ksampler advanced",
                "ksampler efficient",
                "sampler custom advanced",
                "cfg guider",
                "denoise",
            ],
            inputs=[
                sockets.Model.Input("model", tooltip="From Load Diffusion Model or Load All."),
                io.Conditioning.Input("positive", tooltip="The encoded prompt."),
                io.Conditioning.Input(
                    "negative",
                    optional=True,
                    tooltip="For CFG above 1. Not connected: the negative prompt of the node that "
                    "encoded the positive one.",
                ),
                io.Sigmas.Input(
                    "sigmas",
                    optional=True,
                    tooltip="From Inkstone Schedule or any core scheduler node, in place of steps, "
                    "schedule and strength below.",
                ),
                io.Latent.Input(
                    "latent",
                    optional=True,
                    tooltip="The latent to denoise. Its content is used if the denoising strength "
                    "is below 1, and outside its mask. Not connected: one picture in the model's "
                    "own size.",
                ),
                *drawing_inputs(),
                *schedule_inputs(sampler=True),
            ],
            outputs=[io.Latent.Output("latent_out", display_name="latent")],
        )

    @classmethod
    def needs_negative(cls, inputs: Mapping[str, object]) -> bool:
        """True if a run with these inputs may read the negative prompt that the positive one
        carries. Links are objects of the host.
        """
        cfg = inputs.get("cfg", OWN)
        off = isinstance(cfg, int | float) and 0 < cfg <= 1
        return not off and "negative" not in inputs

    @classmethod
    def execute(cls, *inputs: Any, **named: Any) -> io.NodeOutput:
        """Draws; its inputs are those of `prepared`."""
        from ..controlnet.denoise import denoise_with_controls
        from ..sampling.request import Hooks

        p = cls.prepared(*inputs, **named)
        passes = 2 if p.request.cfg > 1 else 1
        blocks = passes * p.model.network.config.layers
        bar = StepBar(len(p.request.sigmas) - 1, blocks, p.model.device)
        look = previewer(p.model, p.request)
        hooks = Hooks(on_step=lambda step: bar.step(step, look(step)), on_block=bar.block)
        result = denoise_with_controls(
            p.model, p.positive, p.negative, p.request, p.controls, hooks
        )
        return p.output(result)

    @classmethod
    def prepared(
        cls,
        model: DiffusionModel,
        positive: Conditioning,
        seed: int,
        cfg: float,
        negative: Conditioning | None = None,
        sigmas: Tensor | None = None,
        latent: Latent | None = None,
        steps: int = OWN,
        schedule: str = SCHEDULES[0],
        strength: float = 1.0,
    ) -> Prepared:
        """What `execute` draws with these inputs. Raises InkstoneError where it cannot."""
        from ..sampling.request import Request

        sockets.require_models(model=model)
        check_start(latent, 1.0 if sigmas is not None else strength)
        latent = canvas_for(model, latent)
        samples = latent_samples(latent)
        warn_of_batch_index(latent)
        pictures = references(positive, negative, model.apart)
        asked = sigmas is not None or is_asked(steps, schedule, cfg)
        usual = left_to_model(model, asked, len(pictures))
        if sigmas is None:
            sigmas = sigmas_for(usual, latent, steps, schedule, strength)
        else:
            _check_unused(steps, schedule, strength)
        cfg = cfg or usual.preset.cfg
        if cfg > 1 and negative is None:
            negative = negative_of(positive)
        statistics_in = statistics(positive, latent)
        if statistics_in is not None:  # raw latents are those of the VAE in use
            model = replace(model, latent_mean=statistics_in[0], latent_std=statistics_in[1])
        (batch, _, _, h, w), scale = samples.shape, model.latents.scale
        if LOCK not in latent:  # a picture's own size is no choice
            warn_of_size(model, w * scale, h * scale)
        request = Request(
            width=w * scale,
            height=h * scale,
            sigmas=sigmas,
            seed=seed,
            batch=batch,
            cfg=cfg,
            latent=samples,
            references=pictures,
            repaint=inpaint_mask(latent),
            layers=latent.get(LAYERS, 0),
            slots=slots(positive, negative if cfg > 1 else None),
            regional=regional(positive, negative if cfg > 1 else None, latent),
            encoded_for=encoded_for(positive, model.variant),
        )
        return Prepared(
            model=model,
            positive=text_states(positive, "positive"),
            negative=None if negative is None else text_states(negative, "negative"),
            request=request,
            controls=controls(positive, latent),
            latent=latent,
        )


def _check_unused(steps: int, schedule: str, strength: float) -> None:
    """Raises where the sampler's own schedule is set although sigmas are connected."""
    settings = {"steps": (steps, OWN), "schedule": (schedule, SCHEDULES[0])}
    settings["strength"] = (strength, 1.0)
    given = [f"{name} {value}" for name, (value, usual) in settings.items() if value != usual]
    if given:
        raise InkstoneError(
            f"Inkstone Sampler has {', '.join(given)}, but sigmas is connected, which decides all "
            "three. Set them at the node that makes the sigmas, or disconnect sigmas."
        )
