"""Prompt enhancement: the language model of the text encoder rewrites a prompt.

For a drawing, or for an edit with its pictures. The answer is checked (enhance_rules.py); one that
breaks a rule is asked for again with another seed, and after the last try the original prompt is
kept, with one sentence that says why. The node, the command and `draw --enhance` call this.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from ..errors import InkstoneError
from ..files.paths import read_regular
from ..loaders.arch.family import Family
from ..loaders.models.generation import TextPrompt, generate
from ..loaders.models.text_encoder import TextEncoderModel
from ..sampling.next_token import Decoding
from .answer_stages import PlannedAnswer
from .ask import prompt_for
from .enhance_choices import (
    DRAWING,
    EDITING,
    INSTRUCTIONS,
    LONGEST,
    MOST_BYTES,
    SEEN_PIXELS,
    TOP_K,
    TOP_P,
    TRIES,
    USUAL_TEMPERATURE,
)
from .enhance_rules import LANGUAGES, cleaned, fault, quoted, script_of

log = logging.getLogger(__name__)

_SEED_STEP = 1 << 32  # between tries, so that the tries of seeds in a row are not each other's


@dataclass(frozen=True, kw_only=True)
class EnhanceRequest:
    """A prompt to enhance. pictures: of an edit, [H,W,C] or [1,H,W,C] in 0..1 each.

    instructions: what takes the place of ours; "" = ours.
    """

    prompt: str
    pictures: Sequence[Tensor] = ()
    instructions: str = ""
    temperature: float = USUAL_TEMPERATURE
    seed: int = 0
    pixels: int = SEEN_PIXELS  # at which a picture is seen, at most


@dataclass(frozen=True)
class Enhanced:
    """The prompt to draw. note: why it is the original; "" where it was enhanced."""

    text: str
    note: str
    tries: int


Write = Callable[[int], tuple[str, bool]]
"""Writes the answer of a try, from 0: (text, whether it ended by itself)."""


def enhance(
    text_encoder: TextEncoderModel,
    request: EnhanceRequest,
    on_text: Callable[[int, str], None] = lambda number, piece: None,
) -> Enhanced:
    """The enhanced prompt, the same for the same request. Pieces go to `on_text` as they are
    written, with the number of their try.
    """
    check_prompt(request.prompt)
    most = most_written(text_encoder.family)
    prompt = question_of(text_encoder, request)

    def write(number: int) -> tuple[str, bool]:
        decoding = decoding_of(request, number, most)
        answer = generate(text_encoder, [prompt], decoding, lambda _, p: on_text(number, p))[0]
        return answer.text, answer.ended

    def fits(text: str) -> bool:
        return len(text_encoder.tokens(text)) <= most

    enhanced = choose(request.prompt, write, fits)
    if enhanced.note:
        log.warning("%s", enhanced.note)
    else:
        log.info("enhanced prompt: %s", enhanced.text)
    return enhanced


def most_written(family: Family) -> int:
    """Tokens of an answer at most: what the model takes as a prompt, and no book."""
    return min(family.most_tokens, LONGEST)


def choose(prompt: str, write: Write, fits: Callable[[str], bool]) -> Enhanced:
    """The first answer without a fault, else the prompt. fits: what is not too long."""
    faults: list[str] = []
    for number in range(TRIES):
        text, ended = write(number)
        candidates = cleaned(text)
        if not ended or not fits(candidates[0]):
            faults.append("is too long")
            continue
        wrong = [fault(prompt, one) for one in candidates]
        if "" in wrong:
            return Enhanced(candidates[wrong.index("")], "", number + 1)
        faults.append(wrong[-1])
    listed = "; ".join(f"answer {n} {what}" for n, what in enumerate(faults, 1))
    return Enhanced(prompt, f"the prompt was not enhanced and is used as it is: {listed}", TRIES)


def decoding_of(request: EnhanceRequest, number: int, most: int) -> Decoding:
    """How the answer of a try is chosen. After a greedy one the next ones are drawn."""
    temperature = request.temperature
    if number and not temperature:
        temperature = USUAL_TEMPERATURE
    return Decoding(
        max_tokens=most,
        temperature=temperature,
        top_p=TOP_P,
        top_k=TOP_K,
        seed=(request.seed + number * _SEED_STEP) % 2**64,
    )


def question_of(text_encoder: TextEncoderModel, request: EnhanceRequest) -> TextPrompt:
    """What the language model is asked: the instructions, what must be kept, the prompt."""
    asked = wording(request, text_encoder.family)
    pictures = shown_pictures(request, text_encoder.family)
    return prompt_for(text_encoder, asked, pictures, request.pixels)


def planned(text_encoder: TextEncoderModel, request: EnhanceRequest) -> PlannedAnswer:
    """The first try for a memory plan; only the sizes of the pictures are read. Each further one
    takes the same.
    """
    family = text_encoder.family
    pictures = shown_pictures(request, family)
    sizes = [(picture.shape[-2], picture.shape[-3]) for picture in pictures]
    asked, most = wording(request, family), most_written(family)
    return PlannedAnswer(text_encoder, asked, sizes, request.pixels, most)


def shown_pictures(request: EnhanceRequest, family: Family) -> Sequence[Tensor]:
    """The pictures of the request that the model looks at: none where its edits are encoded without
    them, as it was trained on the request alone."""
    if request.pictures and not any(edit.sees for edit in family.edits):
        log.info("%s enhances a request for an edit without its pictures", family.noun)
        return ()
    return request.pictures


def wording(request: EnhanceRequest, family: Family) -> str:
    """The question as text, in Chinese for a Chinese prompt; in a family's own words where it was
    trained on some."""
    if family.wording is not None and not request.instructions.strip():
        return family.wording.enhance.format(" ".join(request.prompt.split()))
    script = script_of(request.prompt)
    chinese = script == "CJK"
    names = (family.names[chinese].format(number) for number in (1, 2))
    own = INSTRUCTIONS[EDITING if request.pictures else DRAWING, chinese].format(*names)
    texts = ", ".join(f'"{text}"' for text in dict.fromkeys(quoted(request.prompt)))
    language = LANGUAGES.get(script, "")
    if chinese:
        kept = f"以下文字须原样放在双引号中，每个只出现一次：{texts}。除此之外" if texts else ""
        rules = f"{kept}不要用引号。用提示词的语言写，简体或繁体与提示词一致。"
        marks = "提示词：", "改写后的提示词："
    else:
        exactly = f"Copy this text exactly, in double quotes, each once: {texts}. " if texts else ""
        rest = "Use quotes for nothing else. " if texts else "Use no quotes. "
        known = f", which is {language}" if language and script != "LATIN" else ""
        rules = f"{exactly}{rest}Write in the language of the prompt{known}."
        marks = "Prompt:", "Rewritten prompt:"
    head = f"{request.instructions.strip() or own}\n{rules}"
    return f"{head}\n\n{marks[0]} {request.prompt.strip()}\n\n{marks[1]}"


def check_prompt(prompt: str) -> None:
    """Raises for a prompt that says nothing."""
    if not prompt.strip():
        raise InkstoneError("The prompt is empty: write what is to be drawn or changed.")


def read_instructions(path: Path) -> str:
    """The instructions of a text file. Raises InkstoneError."""
    try:
        text = read_regular(path, MOST_BYTES).decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
        raise InkstoneError(f"{path}: cannot be read: {reason}.") from None
    if "\0" in text:
        raise InkstoneError(
            f"{path}: the file of instructions holds zero bytes: expected UTF-8 text."
        )
    if not text.strip():
        raise InkstoneError(f"{path}: the file of instructions is empty: write what to do.")
    return text
