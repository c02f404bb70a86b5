"""Core's nodes that answer with a language model: interfaces, so that graphs with them are read.

Where one has to run it is refused; the branch of a switch that is off is never reached.
"""

from __future__ import annotations

from typing import Final

from ...errors import InkstoneError
from ...host.api import io
from ..node_types import Value
from .factory import by_name, node, number

REFUSED: Final = {
    "TextGenerate": "needs ComfyUI: its language model (Qwen3.5-VL of the official templates) does "
    "not run here. Switch the enhancement off, or rewrite the prompt with Inkstone Enhance Prompt "
    "or `inkstone enhance`, which use the model's own text encoder"
}
"""Class -> why it does not run here, and what to do."""


def refuse(**values: Value) -> Value:
    """Answer a prompt; in ComfyUI only."""
    raise InkstoneError(f"TextGenerate {REFUSED['TextGenerate']}.")


TEXT_NODES = by_name(
    node(
        "TextGenerate",
        refuse,
        lambda: [
            io.Clip.Input("clip"),
            io.String.Input("prompt", multiline=True),
            number("max_length", 512, 1, 32768),
            io.Combo.Input("sampling_mode", options=["on", "off"]),
            io.Float.Input("sampling_mode.temperature", default=0.7, optional=True),
            io.Int.Input("sampling_mode.top_k", default=64, optional=True),
            io.Float.Input("sampling_mode.top_p", default=0.95, optional=True),
            io.Float.Input("sampling_mode.min_p", default=0.05, optional=True),
            io.Float.Input("sampling_mode.repetition_penalty", default=1.05, optional=True),
            io.Int.Input("sampling_mode.seed", default=0, optional=True),
            io.Float.Input("sampling_mode.presence_penalty", default=0.0, optional=True),
            io.Image.Input("image", optional=True),
            io.Image.Input("video", optional=True),
            io.AnyType.Input("audio", optional=True),
            io.Boolean.Input("thinking", default=False, optional=True),
            io.Boolean.Input("use_default_template", default=True, optional=True),
            io.Combo.Input("mtp", options=["auto", "off"], optional=True),
            io.String.Input("system_prompt", optional=True, force_input=True),
        ],
        lambda: [io.String.Output(display_name=name) for name in ("generated_text", "thinking")],
        display_name="Generate Text",
        category="text",
    )
)
