"""LoRA nodes: a file with its strength, and a stack of them on a model.

The stack's inputs grow where the host can do that (Autogrow). Elsewhere it has a fixed set under
the very names that a grown one writes into a graph, so graphs go from host to host; stacks behind
one another add up.
"""

from __future__ import annotations

from typing import Any

from ..host import model_folders
from ..host.api import io, schema
from . import sockets

FIXED = 4  # sockets on a host without growing inputs
MOST = 50  # sockets of a growing input
_TIP = "From Inkstone Load LoRA. All of them are applied, whatever their order."


class LoadLora(io.ComfyNode):
    """A LoRA file and how strongly it counts."""

    ID = "InkstoneLoadLora"
    FILES = {"lora": sockets.ModelInput("loras", "lora")}

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id=cls.ID,
            display_name="Inkstone Load LoRA",
            category="inkstone/load",
            description="Reads a LoRA, LoKr, LoHa or DoRA file of any trainer. Connect it to "
            "Inkstone LoRA Stack.",
            search_aliases=["lora", "lycoris", "lokr", "loha", "dora", "lightning"],
            inputs=[
                io.Combo.Input(
                    "lora",
                    options=model_folders.model_files("loras"),
                    tooltip="A file in models/loras.",
                ),
                io.Float.Input(
                    "strength",
                    default=1.0,
                    min=-100.0,
                    max=100.0,
                    step=0.05,
                    round=0.001,
                    tooltip="1 as trained, 0 off. Changing it reads nothing again.",
                ),
                io.String.Input(
                    "blocks",
                    default="",
                    tooltip="Factors of the strength for ranges of blocks, such as "
                    "0-19:0.5,20-59:1.0. Empty: every block the same.",
                ),
            ],
            outputs=[sockets.Lora.Output("lora_out", display_name="lora")],
        )

    @classmethod
    def validate_inputs(cls, lora: str) -> bool | str:
        return model_folders.known_model("loras", lora)

    @classmethod
    def execute(cls, lora: str, strength: float, blocks: str) -> io.NodeOutput:
        from ..loaders.lora.adapters import Adapter
        from ..loaders.lora.file import load_lora

        return io.NodeOutput(
            Adapter(load_lora(model_folders.model_path("loras", lora)), strength, blocks)
        )


def _lora_inputs() -> list[Any]:
    """One growing input, or `FIXED` sockets with the names that it would give them."""
    if hasattr(io, "Autogrow"):
        one = sockets.Lora.Input("lora", tooltip=_TIP)
        template = io.Autogrow.TemplatePrefix(one, prefix="lora_", min=1, max=MOST)
        return [io.Autogrow.Input("loras", template=template, tooltip=_TIP)]
    return [
        sockets.Lora.Input(
            f"loras.lora_{i}", display_name=f"lora_{i}", optional=i > 0, tooltip=_TIP
        )
        for i in range(FIXED)
    ]


class LoraStack(io.ComfyNode):
    """LoRAs on a model, beside its weights."""

    ID = "InkstoneLoraStack"

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id=cls.ID,
            display_name="Inkstone LoRA Stack",
            category="inkstone/model",
            description="Puts LoRAs beside the weights of a model, whatever these are stored as. "
            "The model that goes in stays as it is. Says how much of each LoRA was applied.",
            search_aliases=["lora", "lora loader", "model lora"],
            inputs=[
                sockets.Model.Input("model", tooltip="From Load Diffusion Model or Load All."),
                *_lora_inputs(),
                sockets.TextEncoder.Input(
                    "text_encoder",
                    optional=True,
                    tooltip="Needed only where a LoRA was trained on the text encoder too.",
                ),
            ],
            outputs=[
                sockets.Model.Output("model_out", display_name="model"),
                io.String.Output("coverage", display_name="coverage"),
                sockets.TextEncoder.Output("text_encoder_out", display_name="text_encoder"),
            ],
        )

    @classmethod
    def execute(
        cls, model: Any, loras: dict | None = None, text_encoder: Any = None, **fixed: Any
    ) -> io.NodeOutput:
        # **fixed: the host's own names of the fixed sockets, "loras.lora_0", are no parameters
        from ..loaders.lora.adapters import Adapter, dress
        from ..loaders.models.diffusion_model import DiffusionModel
        from ..loaders.models.text_encoder import TextEncoderModel

        sockets.require_type(model, DiffusionModel, "model", "Inkstone Load Diffusion Model")
        if text_encoder is not None:
            sockets.require_type(
                text_encoder, TextEncoderModel, "text_encoder", "Inkstone Load Text Encoder"
            )
        adapters = [
            sockets.require_type(a, Adapter, "lora", "Inkstone Load LoRA")
            for a in ((loras or {}) | fixed).values()
            if a is not None
        ]
        made, text, lines = dress(model, text_encoder, adapters)
        return io.NodeOutput(made, "\n".join(lines), text)
