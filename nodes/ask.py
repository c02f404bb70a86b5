"""The Ask Picture node: the text encoder answers questions about pictures and captions them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..host.api import io, schema, ui
from ..host.progress import WrittenText
from ..pipeline.ask_choices import CAPTIONS, FREE
from ..sampling.next_token_limits import MOST_TOKENS, USUAL_PENALTY, USUAL_TOKENS
from . import sockets

if TYPE_CHECKING:
    from torch import Tensor

    from ..loaders.models.text_encoder import TextEncoderModel

_PICTURES = (
    "The pictures that the question is about; with several, the question can call them Picture 1, "
    "2, 3."
)


_WRITING = (
    "0: always the most likely token, so the answer is the same every time. Higher values write "
    "more freely, 0.7 is usual.",
    "Seed of the choice, the same on every machine. Used when temperature is above 0.",
)


def decoding_inputs() -> list[io.Input]:
    """How an answer is chosen: the fields of Decoding."""
    further = (
        io.Float.Input(
            "top_p",
            default=1.0,
            min=0.01,
            max=1.0,
            step=0.01,
            tooltip="Chooses only among the most likely tokens that together have this "
            "probability. 1: all. Used when temperature is above 0.",
        ),
        io.Int.Input(
            "top_k",
            default=0,
            min=0,
            max=100000,
            tooltip="Chooses only among this many of the most likely tokens. 0: all. Used when "
            "temperature is above 0.",
        ),
        io.Float.Input(
            "repetition_penalty",
            default=USUAL_PENALTY,
            min=0.5,
            max=2.0,
            step=0.01,
            tooltip="Above 1, words that have occurred become less likely. 1: off. 1.05 is the "
            "publisher's value.",
        ),
    )
    return [
        io.Int.Input(
            "max_tokens",
            default=USUAL_TOKENS,
            min=1,
            max=MOST_TOKENS,
            tooltip="The longest answer, in tokens; a token is a short word or a part of one.",
        ),
        *sockets.writing_inputs(0.0, _WRITING, *further),
    ]


class AskPicture(io.ComfyNode):
    """Pictures and a question -> the answer as text."""

    ID = "InkstoneAskPicture"
    GROWS = sockets.PICTURES

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id=cls.ID,
            display_name="Inkstone Ask Picture",
            category="inkstone/image",
            description="Captions a picture or answers a question about pictures, with the text "
            "encoder that is loaded for drawing (Qwen2.5-VL, Qwen3-VL). Its file needs the output "
            "head.",
            search_aliases=[
                "image caption",
                "describe image",
                "interrogate",
                "vqa",
                "qwen vl",
                "llm",
            ],
            is_output_node=True,
            inputs=[
                sockets.TextEncoder.Input(
                    "text_encoder",
                    tooltip="From Load Text Encoder or Load All. The file needs the vision tower "
                    "and the output head (lm_head).",
                ),
                io.Combo.Input(
                    "caption",
                    options=[*CAPTIONS, FREE],
                    default=next(iter(CAPTIONS)),
                    tooltip="A caption: short, long, or one for training an image model. free "
                    "question: asks what stands in question.",
                ),
                io.String.Input(
                    "question",
                    default="",
                    multiline=True,
                    tooltip="What you want to know, in any language that the model speaks. Only "
                    "with free question; otherwise leave it empty.",
                ),
                *decoding_inputs(),
                *sockets.growing_pictures(_PICTURES),
            ],
            outputs=[io.String.Output("answer", display_name="answer")],
        )

    @classmethod
    def execute(
        cls,
        text_encoder: TextEncoderModel,
        caption: str,
        question: str,
        max_tokens: int,
        temperature: float,
        top_p: float,
        top_k: int,
        repetition_penalty: float,
        seed: int,
        images: dict[str, Tensor] | None = None,
        **fixed: Tensor | None,
    ) -> io.NodeOutput:
        # **fixed: the host's names of the fixed sockets, "images.picture_1"
        from ..pipeline.ask import ask, question_of
        from ..sampling.next_token import Decoding

        sockets.require_models(text_encoder=text_encoder)
        decoding = Decoding(
            max_tokens=max_tokens,
            temperature=temperature,
            top_p=top_p,
            top_k=top_k,
            repetition_penalty=repetition_penalty,
            seed=seed,
        )
        pictures = sockets.connected(images, fixed)
        asked = question_of(caption, question, text_encoder.family)
        answer = ask(text_encoder, asked, pictures, decoding, WrittenText(max_tokens))
        return io.NodeOutput(answer.text, ui=ui.PreviewText(answer.text))
