"""Questions to the text encoder about pictures, and captions as ready questions.

The node and the command call the same functions. The wording of the captions is our own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor

from ..errors import InkstoneError
from ..loaders.arch.family import Family
from ..loaders.models.generation import GeneratedText, TextPrompt, generate
from ..loaders.models.text_encoder import TextEncoderModel
from ..sampling.next_token import Decoding
from .ask_choices import CAPTIONS, FREE, MOST_PIXELS


def question_of(caption: str, question: str, family: Family) -> str:
    """The question that a caption of CAPTIONS, or FREE with a question, asks a family's model."""
    if caption == FREE:
        if not question.strip():
            raise InkstoneError(
                f"The question is empty: write one, or choose a caption: {', '.join(CAPTIONS)}."
            )
        return question
    if caption not in CAPTIONS:
        raise InkstoneError(
            f"The caption is {caption!r}: expected {FREE} or one of {', '.join(CAPTIONS)}."
        )
    if question.strip():
        raise InkstoneError(
            f"There is a question, and the caption {caption!r}, which is a question of its own. "
            f"Choose {FREE} to ask yours, or leave the question empty."
        )
    return (family.wording.captions if family.wording else CAPTIONS)[caption]


def prompt_for(
    text_encoder: TextEncoderModel, question: str, pictures: Sequence[Tensor], most: int
) -> TextPrompt:
    """The question in the model's template. pictures: [H,W,C] or [1,H,W,C] in 0..1 each, called
    Picture 1, 2, 3 where there are several; most: pixels at which the model sees one.
    """
    text = text_encoder.family.chat.text(question, len(pictures))
    return TextPrompt(text, list(pictures), most)


def ask(
    text_encoder: TextEncoderModel,
    question: str,
    pictures: Sequence[Tensor],
    decoding: Decoding,
    on_text: Callable[[str], None] = lambda piece: None,
    most: int = MOST_PIXELS,
) -> GeneratedText:
    """The answer to a question about pictures; its pieces go to `on_text` as they are written."""
    prompt = prompt_for(text_encoder, question, pictures, most)
    return generate(text_encoder, [prompt], decoding, lambda _, piece: on_text(piece))[0]
