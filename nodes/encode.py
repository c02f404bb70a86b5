"""Prompt node: text to conditioning. Its inputs and outputs also serve the edit nodes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..host.api import io, schema
from . import sockets
from .conditioning import encoded

if TYPE_CHECKING:
    from ..loaders.models.text_encoder import TextEncoderModel

QUOTES = "Put text that should appear in the picture in double quotes."


def prompt_inputs(tip: str) -> list[io.Input]:
    """The inputs of a prompt and its negative."""
    return [
        io.String.Input("prompt", multiline=True, default="", tooltip=tip),
        io.String.Input(
            "negative",
            multiline=True,
            default=" ",
            tooltip="Negative prompt: what to avoid. Usually a single space. Only used if CFG is "
            "above 1.",
        ),
    ]


def conditioning_outputs() -> list[io.Output]:
    """The outputs positive and negative."""
    return [io.Conditioning.Output(f"{n}_out", display_name=n) for n in ("positive", "negative")]


class EncodePrompt(io.ComfyNode):
    """Positive and negative prompt in one node."""

    KEEP_RESULTS = True
    SKIPS_UNREAD = (0, 1)  # prompts that are not connected are not encoded

    ID = "InkstoneEncodePrompt"

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id=cls.ID,
            display_name="Inkstone Encode Prompt",
            category="inkstone/conditioning",
            description="Encodes the prompt and the negative prompt with Qwen-Image's prompt "
            "template.",
            search_aliases=[
                "clip text encode",
                "positive prompt",
                "negative prompt",
                "text to image",
            ],
            inputs=[
                sockets.TextEncoder.Input(
                    "text_encoder", tooltip="From Load Text Encoder or Load All."
                ),
                *prompt_inputs(f"Describe the picture. {QUOTES}"),
            ],
            outputs=conditioning_outputs(),
        )

    @classmethod
    def execute(cls, text_encoder: TextEncoderModel, prompt: str, negative: str) -> io.NodeOutput:
        sockets.require_models(text_encoder=text_encoder)
        texts = (prompt, negative)
        return io.NodeOutput(*encoded(text_encoder.encode, texts, {"pooled_output": None}))
