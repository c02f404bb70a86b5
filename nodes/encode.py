"""Prompt node: words to conditioning."""

from __future__ import annotations

from typing import Any

from ..host.api import io, schema
from . import sockets


class EncodePrompt(io.ComfyNode):
    """Positive and negative prompt in one node."""

    KEEP_RESULTS = SKIPS_UNREAD = True

    ID = "InkstoneEncodePrompt"

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id=cls.ID,
            display_name="Inkstone Encode Prompt",
            category="inkstone/conditioning",
            description="Encodes the prompt and the negative prompt with Qwen-Image's own "
            "template.",
            search_aliases=["clip text encode", "prompt"],
            inputs=[
                sockets.TextEncoder.Input(
                    "text_encoder", tooltip="From Load Text Encoder or Load All."
                ),
                io.String.Input(
                    "prompt",
                    multiline=True,
                    default="",
                    tooltip="What the picture shows. Words to be written go in double quotes.",
                ),
                io.String.Input(
                    "negative",
                    multiline=True,
                    default=" ",
                    tooltip="What to guide away from; a single space is usual. Used only "
                    "when CFG is above 1.",
                ),
            ],
            outputs=[
                io.Conditioning.Output("positive_out", display_name="positive"),
                io.Conditioning.Output("negative_out", display_name="negative"),
            ],
        )

    @classmethod
    def execute(cls, text_encoder: Any, prompt: str, negative: str) -> io.NodeOutput:
        from ..loaders.models.text_encoder import TextEncoderModel

        sockets.require_type(
            text_encoder, TextEncoderModel, "text_encoder", "Inkstone Load Text Encoder"
        )
        options = {"pooled_output": None}
        made = sockets.conditionings(text_encoder.encode, (prompt, negative), options)
        return io.NodeOutput(*made)
