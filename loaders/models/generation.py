"""Text from a text encoder: its language model answers, token by token.

Every prompt of a batch is read by itself, through the same forward that encodes prompts, and keeps
its own keys and values: nothing is padded. Then all rows take one step together, so the weights are
read once for all of them; a row that has ended leaves. The text comes in pieces as it is made.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ...errors import InkstoneError
from ...kernels.interrupt import beat
from ...kernels.kv_cache import KeyValues, cache_bytes
from ...sampling.next_token import GREEDY, Decoding, generator, next_token
from ...sampling.next_token_limits import MOST_TOKENS
from ..arch.chat import PICTURE_PAD
from ..memory.placement import NotEnoughMemory
from ..memory.residency import settle_together
from .few_tokens import LoadedForms
from .output_head import HeadModel
from .picture_prompt import PicturePrompt
from .text_encoder import TextEncoderModel
from .text_pieces import TextPieces
from .vision import EncodedPicture

log = logging.getLogger(__name__)

STOPS = ("<|im_end|>", "<|endoftext|>")
_WORTH = 8  # tokens of an answer from which forms for single tokens are made
_COPIES = 6  # of the scores of all tokens, while one is chosen
OnText = Callable[[int, str], None]
"""(number of the prompt, piece of its answer), as soon as a piece is whole."""


@dataclass(frozen=True)
class TextPrompt:
    """A whole text in its template, with one `<|image_pad|>` for each picture [H,W,C] in 0..1.

    area: the most pixels at which the model sees a picture, unless its family fixes them.
    """

    text: str
    pictures: Sequence[Tensor] = ()
    area: int = 1024 * 1024


@dataclass(frozen=True)
class GeneratedText:
    """An answer and how it came to be."""

    text: str
    tokens: tuple[int, ...]  # with the one that ended it
    ended: bool  # by itself; False: max_tokens cut it off
    prompt_tokens: int
    seen: tuple[tuple[int, int], ...]  # width and height at which each picture was seen
    seconds: float  # of the whole batch, reading the prompts included
    seconds_per_token: float


@dataclass
class _Row:
    """One prompt while it is answered."""

    prompt: PicturePrompt
    cache: KeyValues
    source: torch.Generator
    pieces: TextPieces
    place: int = 0  # position of the next token
    out: list[int] = field(default_factory=list)
    ended: bool = False

    @property
    def ids(self) -> Sequence[int]:
        return self.prompt.ids

    @property
    def pictures(self) -> Sequence[EncodedPicture]:
        return self.prompt.pictures


def generate(
    model: TextEncoderModel,
    prompts: Sequence[TextPrompt],
    decoding: Decoding = GREEDY,
    on_text: OnText | None = None,
) -> list[GeneratedText]:
    """The answers to prompts, in order. Each equals the answer to it alone, with its seed."""
    decoding.check()
    head = model.head.open()
    start = time.perf_counter()
    rows = [_row(model, prompt, decoding, n) for n, prompt in enumerate(prompts)]
    seen = sum(row.prompt.rows for row in rows)
    forms = ready(model, head, [len(row.ids) for row in rows], decoding.max_tokens, seen)
    prepared = time.perf_counter()
    stops = {model.tokenizer.find(token) for token in STOPS} - {None}
    with ExitStack() as stack, model.adapted(), torch.inference_mode():
        for one in forms:
            stack.enter_context(one.network.used())
        scores = [_read(model, head, row) for row in rows]
        read = time.perf_counter()
        _answer(model, head, rows, scores, _Loop(decoding, frozenset(stops), on_text))
    end = time.perf_counter()
    steps = max((len(row.out) for row in rows), default=0) - 1
    each = (end - read) / steps if steps > 0 else 0.0
    log.info(
        "weights and pictures ready in %.1f s, %d tokens read in %.1f s, %d written, %.2f s each",
        prepared - start,
        sum(len(row.ids) for row in rows),
        read - prepared,
        sum(len(row.out) for row in rows),
        each,
    )
    return [_answered(model, row, end - start, each) for row in rows]


@dataclass(frozen=True)
class _Loop:
    decoding: Decoding
    stops: frozenset[int | None]
    on_text: OnText | None


def _answered(model: TextEncoderModel, row: _Row, seconds: float, each: float) -> GeneratedText:
    cell = 28 if model.vision is None or not row.pictures else model.vision.open().cell
    seen = tuple((p.grid[1] * cell, p.grid[0] * cell) for p in row.pictures)
    return GeneratedText(
        row.pieces.text, tuple(row.out), row.ended, len(row.ids), seen, seconds, each
    )


def _row(model: TextEncoderModel, prompt: TextPrompt, decoding: Decoding, number: int) -> _Row:
    """A prompt as tokens, with its pictures encoded."""
    count = prompt.text.count(PICTURE_PAD)
    if count != len(prompt.pictures):
        raise InkstoneError(
            f"The prompt has {count} places for pictures ({PICTURE_PAD}): expected "
            f"{len(prompt.pictures)}, one for each picture. Take {PICTURE_PAD} out of the question."
        )
    read = PicturePrompt(model.tokens(prompt.text), -1, ())
    if prompt.pictures:
        tower = model.tower("questions about pictures")
        sizes = model.family.seen_sizes
        pictures = [tower.encode(p, prompt.area, sizes) for p in prompt.pictures]
        read = PicturePrompt.of(read.ids, model.tokenizer.token_id(PICTURE_PAD), pictures)
    if len(read.ids) + decoding.max_tokens > MOST_TOKENS:
        raise InkstoneError(
            f"The prompt has {len(read.ids)} tokens with its pictures, and max_tokens is "
            f"{decoding.max_tokens}: the model takes {MOST_TOKENS} in all. Give fewer pictures, or "
            "a shorter text."
        )
    source = generator(decoding, number)
    return _Row(read, model.cache(answering=True), source, TextPieces(model.tokenizer))


def ready(
    model: TextEncoderModel, head: HeadModel, prompts: Sequence[int], max_tokens: int, rows: int = 0
) -> list[LoadedForms]:
    """Makes room for prompts of these lengths, in tokens, and their answers. rows: of all pictures.
    Returns the forms for single tokens, none where there is no room for them beside the whole text
    encoder.
    """
    own = [] if head.weights is None else [head.weights]
    working = answer_bytes(model, prompts, max_tokens, rows)
    forms = forms_for(model, head, max_tokens)
    if forms:
        extra = [one.weights for one in forms]
        try:
            settle_together(model.weights, [*own, *extra], model.budget, working)
            if model.weights.placement is not None and not model.weights.placement.streamed:
                return forms
        except NotEnoughMemory:
            pass
        for weights in extra:
            weights.park()
        log.info(
            "answers are written slowly: %.1f GB more would hold a form for single tokens",
            sum(weights.nbytes for weights in extra) / 1e9,
        )
    settle_together(model.weights, own, model.budget, working)
    return []


def forms_for(model: TextEncoderModel, head: HeadModel, max_tokens: int) -> list[LoadedForms]:
    """The forms for single tokens that are of use. Making them takes as long as some tokens
    without them, so for shorter answers only those in memory are used.
    """
    forms = [one for one in (model.forms, head.forms) if one is not None]
    made = all(one.weights.reserved for one in forms)
    return forms if made or max_tokens >= _WORTH else []


def answer_bytes(
    model: TextEncoderModel, prompts: Sequence[int], max_tokens: int, rows: int = 0
) -> int:
    """Bytes of keys and values of all prompts and answers, of activations, and of this number of
    rows of pictures."""
    kept = cache_room(model, prompts, max_tokens)
    kept += model.vision.open().row_bytes(rows) if model.vision is not None and rows else 0
    scores = _COPIES * model.network.config.vocab * torch.float64.itemsize
    return kept + model.working_bytes(max(prompts, default=0)) + scores


def cache_room(model: TextEncoderModel, prompts: Sequence[int], max_tokens: int) -> int:
    """Bytes of keys and values at the end of the longest answers."""
    c = model.network.config
    return sum(cache_bytes(c, length + max_tokens, model.dtype) for length in prompts)


def _read(model: TextEncoderModel, head: HeadModel, row: _Row) -> Tensor:
    """Reads a prompt; scores [vocab] of the first token of its answer."""
    if row.prompt.positions is not None:
        states = row.prompt.states(model.network, model.device, [row.cache], answering=True)
        row.place = int(row.prompt.positions.max()) + 1
    else:
        ids = torch.tensor([row.ids], device=model.device)
        states = model.network(ids, [row.cache], answering=True)
        row.place = len(row.ids)
    return head.scores(states[:, -1])[0]


def _answer(
    model: TextEncoderModel, head: HeadModel, rows: list[_Row], scores: list[Tensor], loop: _Loop
) -> None:
    """Writes the answers of all rows, one token of each at a time."""
    numbered = list(enumerate(rows))
    for step in range(loop.decoding.max_tokens):
        beat("tokens", step, loop.decoding.max_tokens)
        for (number, row), own in zip(numbered, scores, strict=True):
            _take(number, row, own, loop)
        pairs = [pair for pair in numbered if not pair[1].ended]
        if not pairs or step == loop.decoding.max_tokens - 1:
            break
        numbered, going = pairs, [row for _, row in pairs]
        ids = torch.tensor([[row.out[-1]] for row in going], device=model.device)
        positions = torch.tensor([[row.place] for row in going])
        caches = [row.cache for row in going]
        states = model.network(ids, caches, None, positions, answering=True)
        scores = list(head.scores(states[:, -1]))
        for row in going:
            row.place += 1
    for number, row in enumerate(rows):
        _say(number, row.pieces.end(), loop)


def _take(number: int, row: _Row, scores: Tensor, loop: _Loop) -> None:
    """Chooses the next token of a row."""
    if not torch.isfinite(scores).all():
        raise InkstoneError(
            f"Token {len(row.out) + 1} of the answer has scores that are not finite numbers. The "
            "text encoder's file is damaged, or its type overflows here: load it with dtype "
            "float32."
        )
    token = next_token(scores, [*row.ids, *row.out], loop.decoding, row.source)
    row.out.append(token)
    row.ended = token in loop.stops
    if not row.ended:
        _say(number, row.pieces.push(token), loop)


def _say(number: int, piece: str, loop: _Loop) -> None:
    if piece and loop.on_text is not None:
        loop.on_text(number, piece)
