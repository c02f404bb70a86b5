"""The Variety node: a model whose seeds differ more."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from ..errors import InkstoneError
from ..host.api import io, schema
from ..sampling.variety_choices import METHODS, NO_EARLY_CFG, TEXT_NOISE, USUAL_NOISE_STEPS, Variety
from . import sockets

if TYPE_CHECKING:
    from ..loaders.models.diffusion_model import DiffusionModel


class VarietyNode(io.ComfyNode):
    """The model with variety."""

    ID = "InkstoneVariety"

    @classmethod
    def define_schema(cls) -> io.Schema:
        noise, early = METHODS[TEXT_NOISE], METHODS[NO_EARLY_CFG]
        return schema(
            node_id=cls.ID,
            display_name="Inkstone Variety",
            category="inkstone/sampling",
            description="Makes the pictures of different seeds differ more: noise on the words, or "
            "no CFG, in the first steps, which decide the composition. The same seed still gives "
            "the same picture.",
            search_aliases=[
                "seed variance",
                "seed variety",
                "diversity",
                "more different seeds",
                "conditioning noise",
                "cfg start",
                "skip early cfg",
            ],
            inputs=[
                sockets.Model.Input("model", tooltip="From a model or LoRA loader."),
                io.Float.Input(
                    "text_noise",
                    default=noise.usual,
                    min=0.0,
                    max=noise.most,
                    step=0.05,
                    round=0.001,
                    tooltip="Strength of the noise on the words, relative to their states. Higher: "
                    "seeds differ more, and the prompt is followed less. 0: off. "
                    f"{noise.usual:g} is usual.",
                ),
                io.Float.Input(
                    "noise_steps",
                    default=USUAL_NOISE_STEPS,
                    min=0.01,
                    max=1.0,
                    step=0.01,
                    round=0.001,
                    tooltip="The first fraction of the steps in which the words are noisy. "
                    f"{USUAL_NOISE_STEPS:g} is usual.",
                ),
                io.Float.Input(
                    "no_early_cfg",
                    default=0.0,
                    min=0.0,
                    max=early.most,
                    step=0.01,
                    round=0.001,
                    tooltip="The first fraction of the steps that is drawn without CFG, which is "
                    "also twice as fast there. 0: off. No effect where CFG is 1, as with "
                    f"Lightning and Turbo. {early.usual:g} is usual.",
                ),
            ],
            outputs=[sockets.Model.Output("model_out", display_name="model")],
        )

    @classmethod
    def execute(
        cls, model: DiffusionModel, text_noise: float, noise_steps: float, no_early_cfg: float
    ) -> io.NodeOutput:
        sockets.require_models(model=model)
        variety = Variety(text_noise, noise_steps, no_early_cfg)
        if model.variety and variety:
            raise InkstoneError(
                f"The model has variety already ({model.variety.words()}): two Inkstone Variety "
                f"nodes are in a row, this one with {variety.words()}. Set both amounts at one of "
                "them, and remove the other."
            )
        return io.NodeOutput(replace(model, variety=variety or model.variety))
