"""The Step Cache node: a model that skips what changes little from step to step."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from ..host.api import io, schema
from ..sampling.step_cache_choices import METHODS, StepCache
from . import sockets

if TYPE_CHECKING:
    from ..loaders.models.diffusion_model import DiffusionModel

USUAL = 0.0  # the number that stands for the method's own


class StepCacheNode(io.ComfyNode):
    """The model with a step cache."""

    ID = "InkstoneStepCache"

    @classmethod
    def define_schema(cls) -> io.Schema:
        numbers = ", ".join(f"{name} {method.usual:g}" for name, method in METHODS.items())
        return schema(
            node_id=cls.ID,
            display_name="Inkstone Step Cache",
            category="inkstone/sampling",
            description="Draws in less time: steps that change little take what earlier steps "
            "computed instead of all blocks. The picture changes a little. For the model's usual "
            "20 to 50 steps, not for Lightning or Turbo.",
            search_aliases=[
                "teacache",
                "fbcache",
                "easycache",
                "taylorseer",
                "first block cache",
                "wavespeed",
                "apply first block cache",
                "lazycache",
            ],
            inputs=[
                sockets.Model.Input("model", tooltip="From a model or LoRA loader."),
                io.Combo.Input(
                    "method",
                    options=list(METHODS),
                    default=next(iter(METHODS)),
                    tooltip="fbcache: block 1 decides. teacache: the change of block 1's input "
                    "decides. easycache: the change of the latents decides. taylorseer: every "
                    "second step is extrapolated, taylorseer2 with a curve instead of a line.",
                ),
                io.Float.Input(
                    "threshold",
                    default=USUAL,
                    min=0.0,
                    max=20.0,
                    step=0.01,
                    round=0.001,
                    tooltip="Higher: faster, and farther from the picture without a cache. With "
                    f"taylorseer, every how many steps one is computed. 0: usual ({numbers}).",
                ),
                io.Float.Input(
                    "start",
                    default=0.0,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="From which fraction of the steps on blocks may be skipped.",
                ),
                io.Float.Input(
                    "end",
                    default=1.0,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="Up to which fraction of the steps blocks may be skipped.",
                ),
                io.Boolean.Input(
                    "force",
                    default=False,
                    tooltip="Also with Lightning, Turbo and fewer than 10 steps, where pictures "
                    "suffer.",
                ),
            ],
            outputs=[sockets.Model.Output("model_out", display_name="model")],
        )

    @classmethod
    def execute(
        cls,
        model: DiffusionModel,
        method: str,
        threshold: float = USUAL,
        start: float = 0.0,
        end: float = 1.0,
        force: bool = False,
    ) -> io.NodeOutput:
        sockets.require_models(model=model)
        if threshold == USUAL and method in METHODS:
            threshold = METHODS[method].usual
        cache = StepCache(method, threshold, start, end, force)
        return io.NodeOutput(replace(model, step_cache=cache))
