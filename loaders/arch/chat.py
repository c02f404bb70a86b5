"""How a language model is asked: the templates around a question, and the words of those models
that were trained on words of their own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

TAIL = "<|im_end|>\n<|im_start|>assistant\n"
PICTURE_PAD = "<|image_pad|>"  # becomes as many tokens as the vision tower makes rows
PICTURE = f"<|vision_start|>{PICTURE_PAD}<|vision_end|>"


@dataclass(frozen=True)
class ChatTemplate:
    """The text made of a question and its pictures, which the language model answers."""

    head: str
    picture: str  # of a single picture
    numbered: str  # of each of several; {} is its number, from 1
    tail: str

    def text(self, question: str, pictures: int) -> str:
        """The text with one place for each picture."""
        places = [self.numbered.format(n + 1) for n in range(pictures)]
        return (
            self.head + "".join([self.picture] if pictures == 1 else places) + question + self.tail
        )


# the chat templates of Qwen2.5-VL and of Qwen3-VL, which writes no system turn of its own; with
# several pictures as their add_vision_id writes them
CHAT = ChatTemplate(
    "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n",
    PICTURE,
    "Picture {}: " + PICTURE,
    TAIL,
)
CHAT_21 = replace(CHAT, head="<|im_start|>user\n")


@dataclass(frozen=True)
class Wording:
    """What a small language model is asked, where it was trained on words of its own.

    area: pixels of the copy at which it sees a picture, whatever the picture's size.
    """

    captions: Mapping[str, str]  # name of a caption -> the question
    find: str  # {} is what to find
    enhance: str  # {} is the prompt
    area: int


EMBEDDED_CHAT = ChatTemplate("<|im_start|>", PICTURE, PICTURE, "<|im_end|>")
EMBEDDED_WORDING = Wording(
    captions={
        "short caption": "caption",
        "long caption": "long caption",
        "training caption": "caption",
    },
    find="find {}",
    enhance="enhance {}",
    area=47000,  # 224x224, 280x168, 168x280 of its canvases: 16 of their pixels make a cell
)
