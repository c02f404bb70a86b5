"""The Model Info node: a description of a loaded model as text."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..host.api import io, schema, ui
from ..host.page_text import without_folders
from . import sockets
from .latents import LAYERS, OWN_SIZE, latent_samples

if TYPE_CHECKING:
    from ..loaders.models.diffusion_model import DiffusionModel
    from .latents import Latent


class ModelInfo(io.ComfyNode):
    """Family, formats, LoRAs and the memory plan of a model."""

    ID = "InkstoneModelInfo"

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id=cls.ID,
            display_name="Inkstone Model Info",
            category="inkstone/model",
            description="Describes a loaded model: family, size, weight formats, LoRAs and their "
            "coverage, where its weights are, and the memory plan for a latent size.",
            search_aliases=["model info", "inspect model details", "vram memory"],
            is_output_node=True,
            inputs=[
                sockets.Model.Input("model", tooltip="From Load Diffusion Model or Load LoRA."),
                io.Latent.Input(
                    "latent",
                    optional=True,
                    tooltip="Size to plan for; if not connected, the model's usual size.",
                ),
                io.Int.Input(
                    "steps",
                    default=0,
                    min=0,
                    max=1000,
                    tooltip="Number of steps to plan for. 0: the model's own.",
                ),
            ],
            outputs=[io.String.Output("info", display_name="info")],
        )

    @classmethod
    def execute(
        cls, model: DiffusionModel, steps: int, latent: Latent | None = None
    ) -> io.NodeOutput:
        from ..pipeline.describe import describe_model
        from ..pipeline.memory_plan import PlanRequest

        sockets.require_models(model=model)
        if latent is None or latent.get(OWN_SIZE):
            request = PlanRequest(steps=steps or None)
        else:
            batch, _, _, h, w = latent_samples(latent).shape
            size, layers = (w * 8, h * 8), latent.get(LAYERS, 0)
            request = PlanRequest(size, steps or None, batch, layers=layers)
        text = without_folders(describe_model(model, request))
        return io.NodeOutput(text, ui=ui.PreviewText(text))
