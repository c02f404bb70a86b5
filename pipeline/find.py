"""Finds what was named in a picture: the text encoder writes boxes; they become data, a mask and a
picture to look at. The node and the command call the same functions.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from ..errors import InkstoneError
from ..loaders.arch.family import Family
from ..loaders.models.text_encoder import TextEncoderModel
from ..sampling.next_token import Decoding
from .ask import ask
from .ask_choices import MOST_PIXELS
from .find_boxes import FoundBox, read_boxes
from .find_choices import USUAL_TOKENS

log = logging.getLogger(__name__)

_SHOWN = 300  # characters of an answer in an error
_MOST_WORDS = 500  # characters of what to find
_LISTED = 3  # reasons in a line


class NothingFound(InkstoneError):
    """The answer has no box."""


@dataclass(frozen=True)
class Found:
    """What the model found, in the picture's own pixels."""

    size: tuple[int, int]  # width and height of the picture
    seen: tuple[int, int]  # of the copy that the model saw
    boxes: tuple[FoundBox, ...]
    left_out: tuple[str, ...]  # why boxes of the answer are not in `boxes`
    answer: str

    def facts(self) -> dict[str, object]:
        """As JSON: a box is left, top, right, bottom."""
        return {
            "width": self.size[0],
            "height": self.size[1],
            "seen": list(self.seen),
            "boxes": [{"label": b.label, "box": list(b.span)} for b in self.boxes],
            "left_out": list(self.left_out),
            "answer": self.answer,
        }


def named_things(what: str) -> str:
    """What to find, on one line. Raises for nothing and for too much."""
    named = " ".join(what.split())
    if not named or len(named) > _MOST_WORDS:
        raise InkstoneError(
            f"What to find has {len(named)} characters: expected 1 to {_MOST_WORDS}. Name things "
            "in the picture, for example: the red car."
        )
    return named


def question_for(what: str, family: Family) -> str:
    """The request for boxes in the form that the family was trained with: Qwen2.5-VL's, or its
    own."""
    named = named_things(what)
    if family.wording is not None:
        return family.wording.find.format(named)
    return (
        f"Locate every instance that belongs to: {named}. Report the bbox coordinates and the "
        "label of each in JSON format. If there is none, report an empty list."
    )


def find(
    text_encoder: TextEncoderModel,
    picture: Tensor,
    what: str,
    max_tokens: int = USUAL_TOKENS,
    on_text: Callable[[str], None] = lambda piece: None,
    most: int = MOST_PIXELS,
) -> Found:
    """The boxes of what was named in a picture [H,W,C] or [1,H,W,C]; NothingFound where the answer
    has none. Greedy and without a penalty: the digits of boxes repeat by nature.
    """
    decoding = Decoding(max_tokens=max_tokens, repetition_penalty=1.0)
    asked = question_for(what, text_encoder.family)
    answer = ask(text_encoder, asked, [picture], decoding, on_text, most)
    size = picture.shape[-2], picture.shape[-3]
    scale = text_encoder.family.box_scale or answer.seen[0]
    found = read_boxes(answer.text, " ".join(what.split()), scale, size)
    cut = "" if answer.ended else f"the answer was cut at {max_tokens} tokens"
    reasons = "; ".join([*filter(None, [cut]), *found.left_out[:_LISTED]])
    if len(found.left_out) > _LISTED:
        reasons += f"; and {len(found.left_out) - _LISTED} more"
    if not found.boxes:
        raise NothingFound(_nothing(what, answer.text, reasons))
    if reasons:
        kept = len(found.boxes)
        count = kept + len(found.left_out)
        log.warning("Find in Picture: %d of %d boxes are used: %s", kept, count, reasons)
    return Found(size, answer.seen[0], found.boxes, found.left_out, answer.text)


def _nothing(what: str, answer: str, reasons: str) -> str:
    named = " ".join(what.split())
    shown = " ".join(answer.split())
    shown = shown if len(shown) <= _SHOWN else shown[:_SHOWN] + " ..."
    why = f" ({reasons})" if reasons else ""
    return (
        f"No box of {named!r} was found in the picture: the model answered {shown!r}{why}. "
        "Expected a list of boxes. Name what can be seen in it, or name it differently."
    )
