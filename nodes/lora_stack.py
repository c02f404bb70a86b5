"""The LoRA nodes of older graphs: a file with its strength, and a stack of them on a model.

They are not offered any more; nodes/lora.py has their successor. The stack's inputs grow where the
host supports it (Autogrow). Elsewhere it has a fixed set with the names that a growing input writes
into a graph, so graphs can move between hosts. Several stacks in a row add up.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..host import model_folders
from ..host.api import io, schema
from . import sockets

if TYPE_CHECKING:
    from ..loaders.lora.adapters import Adapter
    from ..loaders.models.diffusion_model import DiffusionModel
    from ..loaders.models.text_encoder import TextEncoderModel

FIXED = 4  # sockets on a host without growing inputs
MOST = 50  # sockets of a growing input
_TIP = "From Inkstone LoRA File. All connected LoRAs are applied; their order does not matter."


class LoadLora(io.ComfyNode):
    """A LoRA file and its strength."""

    ID = "InkstoneLoadLora"
    FILES = {"lora": sockets.ModelInput("loras", "lora")}

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id=cls.ID,
            display_name="Inkstone LoRA File (old)",
            category="inkstone/load",
            is_deprecated=True,
            description="Loads a LoRA, LoKr, LoHa or DoRA file from any trainer. For older "
            "graphs: Inkstone Load LoRA does the work of both nodes.",
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
                    tooltip="1 as trained, 0 off. Changing it does not read the file again.",
                ),
                io.String.Input(
                    "blocks",
                    default="",
                    tooltip="Strength factors for ranges of blocks, for example "
                    "0-19:0.5,20-59:1.0. Empty: the same strength for all blocks.",
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


def _lora_inputs() -> list[io.Input]:
    """One growing input, or `FIXED` sockets with the names that it would give them."""
    if hasattr(io, "Autogrow"):
        socket = sockets.Lora.Input("lora", tooltip=_TIP)
        template = io.Autogrow.TemplatePrefix(socket, prefix="lora_", min=1, max=MOST)
        return [io.Autogrow.Input("loras", template=template, tooltip=_TIP)]
    return [
        sockets.Lora.Input(
            f"loras.lora_{i}", display_name=f"lora_{i}", optional=i > 0, tooltip=_TIP
        )
        for i in range(FIXED)
    ]


class LoraStack(io.ComfyNode):
    """LoRAs on a model, as side branches of its weights."""

    GROWS = ("loras.lora_", MOST)

    ID = "InkstoneLoraStack"

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id=cls.ID,
            display_name="Inkstone LoRA Stack (old)",
            category="inkstone/model",
            is_deprecated=True,
            description="Applies LoRAs to a model with weights of any format, without merging. For "
            "older graphs: Inkstone Load LoRA does the work of both nodes.",
            inputs=[
                sockets.Model.Input("model", tooltip="From Load Diffusion Model or Load All."),
                *_lora_inputs(),
                sockets.TextEncoder.Input(
                    "text_encoder",
                    optional=True,
                    tooltip="Only needed for a LoRA that was also trained on the text encoder.",
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
        cls,
        model: DiffusionModel,
        loras: dict[str, Adapter | None] | None = None,
        text_encoder: TextEncoderModel | None = None,
        **fixed: Adapter | None,
    ) -> io.NodeOutput:
        # **fixed: the host's names of the fixed sockets, "loras.lora_0", are no parameters
        from ..loaders.lora.adapters import Adapter, apply_loras

        sockets.require_models(model=model)
        if text_encoder is not None:
            sockets.require_models(text_encoder=text_encoder)
        adapters = [
            sockets.require_type(lora, Adapter, "lora", "Inkstone LoRA File")
            for lora in ((loras or {}) | fixed).values()
            if lora is not None
        ]
        adapted, text, lines = apply_loras(model, text_encoder, adapters)
        return io.NodeOutput(adapted, "\n".join(lines), text)
