"""Model info node: what a loaded model is, as text."""

from __future__ import annotations

from typing import Any

from ..host.api import io, schema, ui
from . import sockets


class ModelInfo(io.ComfyNode):
    """Family, formats, LoRAs and the memory plan of a model."""

    ID = "InkstoneModelInfo"

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id=cls.ID,
            display_name="Inkstone Model Info",
            category="inkstone/model",
            description="Says what a loaded model is: family, size, formats and their counts, "
            "LoRAs and what each covers, where its weights are, and the memory plan for a canvas.",
            search_aliases=["inspect", "model details", "vram", "memory"],
            is_output_node=True,
            inputs=[
                sockets.Model.Input("model", tooltip="From Load Diffusion Model or LoRA Stack."),
                io.Latent.Input(
                    "latent", optional=True, tooltip="The canvas to plan for; else the usual size."
                ),
                io.Int.Input(
                    "steps", default=50, min=1, max=1000, tooltip="Steps to plan the table for."
                ),
            ],
            outputs=[io.String.Output("info", display_name="info")],
        )

    @classmethod
    def execute(cls, model: Any, steps: int, latent: dict | None = None) -> io.NodeOutput:
        from ..loaders.models.diffusion_model import DiffusionModel
        from ..pipeline.describe import describe_model
        from ..pipeline.memory_plan import PlanRequest

        sockets.require_type(model, DiffusionModel, "model", "Inkstone Load Diffusion Model")
        if latent is None:
            wanted = PlanRequest(steps=steps)
        else:
            batch, _, _, h, w = sockets.latent_samples(latent).shape
            size, layers = (w * 8, h * 8), latent.get(sockets.LAYERS, 0)
            wanted = PlanRequest(size, steps, batch, layers=layers)
        text = describe_model(model, wanted)
        return io.NodeOutput(text, ui=ui.PreviewText(text))
