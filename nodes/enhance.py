"""The Enhance Prompt node: the text encoder rewrites a prompt before it is encoded."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..host.api import io, schema, ui
from ..host.progress import WrittenText
from ..pipeline.enhance_choices import TRIES, USUAL_TEMPERATURE
from . import sockets
from .encode import QUOTES

if TYPE_CHECKING:
    from torch import Tensor

    from ..loaders.models.text_encoder import TextEncoderModel

PNG_CHUNK = "inkstone_enhanced"  # node id -> the prompt and what it became
_PICTURES = (
    "For an edit: the same pictures as in Encode Edit, in the same order. Not connected: the "
    "prompt is for a new picture."
)
_WRITING = (
    "0: always the most likely words. Higher values write more freely.",
    "The same prompt and seed give the same text. Another seed: another wording.",
)


class EnhancePrompt(io.ComfyNode):
    """A prompt -> the same with more detail, quoted text kept."""

    KEEP_RESULTS = True

    ID = "InkstoneEnhancePrompt"
    GROWS = sockets.PICTURES

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id=cls.ID,
            display_name="Inkstone Enhance Prompt",
            category="inkstone/conditioning",
            description="Rewrites a prompt in more detail with the text encoder that is loaded for "
            "drawing (Qwen2.5-VL, Qwen3-VL), for new pictures and for edits. Text in quotes stays "
            "as it is. "
            "The text encoder's file needs the output head.",
            search_aliases=[
                "prompt enhancer",
                "rewrite prompt",
                "expand prompt",
                "magic prompt",
                "polish prompt",
                "upsample prompt",
                "llm",
            ],
            hidden=[io.Hidden.unique_id, io.Hidden.extra_pnginfo],
            inputs=[
                sockets.TextEncoder.Input(
                    "text_encoder",
                    tooltip="From Load Text Encoder or Load All. The file needs the output head "
                    "(lm_head), with pictures also the vision tower.",
                ),
                io.String.Input(
                    "prompt",
                    multiline=True,
                    default="",
                    tooltip=f"The prompt in your words, in any language. {QUOTES} It is kept "
                    "letter for letter.",
                ),
                io.String.Input(
                    "enhanced",
                    multiline=True,
                    default="",
                    tooltip="Usually empty. To edit the enhanced prompt, copy it here: what stands "
                    "here is put out as it is, and nothing is rewritten.",
                ),
                io.String.Input(
                    "instructions",
                    multiline=True,
                    default="",
                    tooltip="How to rewrite, in your own words, in place of Inkstone's "
                    "instructions. Empty: Inkstone's.",
                ),
                *sockets.writing_inputs(USUAL_TEMPERATURE, _WRITING),
                *sockets.growing_pictures(_PICTURES, least=0),
            ],
            outputs=[io.String.Output("prompt_out", display_name="prompt")],
            is_output_node=True,
        )

    @classmethod
    def execute(
        cls,
        text_encoder: TextEncoderModel,
        prompt: str,
        enhanced: str,
        instructions: str,
        temperature: float,
        seed: int,
        images: dict[str, Tensor] | None = None,
        **fixed: Tensor | None,
    ) -> io.NodeOutput:
        # **fixed: the host's names of the fixed sockets, "images.picture_1"
        from ..pipeline.enhance import EnhanceRequest, enhance, most_written

        sockets.require_models(text_encoder=text_encoder)
        if enhanced.strip():
            return cls._shown(prompt, enhanced, "")
        request = EnhanceRequest(
            prompt=prompt,
            pictures=sockets.connected(images, fixed),
            instructions=instructions,
            temperature=temperature,
            seed=seed,
        )
        lines = [WrittenText(most_written(text_encoder.family)) for _ in range(TRIES)]
        result = enhance(text_encoder, request, lambda number, piece: lines[number](piece))
        return cls._shown(prompt, result.text, result.note)

    @classmethod
    def _shown(cls, prompt: str, enhanced: str, note: str) -> io.NodeOutput:
        """The output, shown on the node, and kept in the pictures that this run saves."""
        chunks = getattr(cls.hidden, "extra_pnginfo", None)
        if isinstance(chunks, dict):
            kept = chunks.setdefault(PNG_CHUNK, {})
            kept[str(getattr(cls.hidden, "unique_id", ""))] = {"prompt": prompt, "text": enhanced}
        lines = f"{enhanced}\n\n({note})" if note else enhanced
        both = {"prompt": prompt, "text": enhanced}
        shown = {**ui.PreviewText(lines).as_dict(), "enhanced": [both]}  # read by web/messages.js
        return io.NodeOutput(enhanced, ui=shown)
