"""A loaded text encoder."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor

from ...errors import InkstoneError
from ...kernels.attention import keeps_scores
from ...kernels.kv_cache import KeyValues
from ...kernels.lora import attached
from ...kernels.text_encoder import TextEncoder
from ...sampling.prompt_tags import prompt_tags
from ..arch.chat import PICTURE_PAD
from ..arch.expected_tensors import text_layout
from ..arch.family import EditTemplate, Family
from ..lora import adapters as lora_stack
from ..lora.adapters import Adapter, FittedAdapter
from ..memory.lru import Recent
from ..memory.residency import Residency
from .few_tokens import LoadedForms
from .output_head import HeadPlace
from .picture_prompt import PicturePrompt
from .tokenizer import Tokenizer
from .vision import TowerPlace, VisionModel

log = logging.getLogger(__name__)

_KEPT_HEADS = 2  # of prompts, of edits
_KEPT_TEXTS = 8  # prompts and their negatives, before and after a change


@dataclass(frozen=True)
class EncodedText:
    """A prompt as the diffusion model reads it.

    states [1,L,J], without the template's head. slots: for each picture of an edit, the number of
    rows before its place; () where the rows of pictures are among the states.
    """

    states: Tensor
    slots: tuple[int, ...] = ()


@dataclass(kw_only=True)
class TextEncoderModel:
    """A loaded language model with its tokenizer and template."""

    network: TextEncoder = field(repr=False)
    tokenizer: Tokenizer = field(repr=False)
    family: Family
    dtype: torch.dtype
    device: torch.device
    path: Path = field(repr=False)  # not for the page: ComfyUI shows what a wire carries
    weights: Residency = field(repr=False)
    budget: int | None = None  # bytes for the whole process; None = what is free
    adapters: tuple[FittedAdapter, ...] = ()
    vision: TowerPlace | None = field(default=None, repr=False)  # opened by the first edit
    forms: LoadedForms | None = field(default=None, repr=False)  # read by the first answer
    head: HeadPlace = field(default_factory=HeadPlace, repr=False)  # opened by the first answer
    _prefix: dict[tuple[int, ...], KeyValues] = field(default_factory=dict, repr=False)
    _texts: Recent[EncodedText] = field(default_factory=lambda: Recent(_KEPT_TEXTS), repr=False)

    def with_loras(self, adapters: Sequence[Adapter]) -> TextEncoderModel:
        """A light copy with these LoRAs too, and with a prefix of its own."""
        layout = text_layout(self.network.config)
        fitted = tuple(lora_stack.fit(a, "text", layout) for a in adapters)
        return replace(
            self, adapters=(*self.adapters, *fitted), _prefix={}, _texts=Recent(_KEPT_TEXTS)
        )

    def adapted(self) -> AbstractContextManager[None]:
        """A context in which the network has the side branches of this model's LoRAs."""
        branches = lora_stack.branches(self.adapters, self.network, self.device, self.dtype)
        return attached(self.network, branches)

    def encode(self, prompt: str, written: str | None = None) -> EncodedText:
        """Prompt -> [1,L,J] states without the template's head, which is encoded once and kept.

        States are kept by content: the same words are not encoded again. written: the prompt before
        a host removed its escapes, where that differs.
        """
        prompt = prompt or self.family.empty
        text = self._texts.find(prompt)
        if text is not None:
            return text
        if not self.family.grammar:
            self._warn_of_tags(prompt if written is None else written)
        ids = self._prompt_ids(prompt)
        self._ready(len(ids))
        with self.adapted(), torch.inference_mode():
            states = self._states(ids, self.family.drop)
        return self._texts.keep(prompt, EncodedText(states))

    def prompt_tokens(
        self, prompt: str, edit: EditTemplate | None = None, pictures: int = 0
    ) -> tuple[int, int]:
        """(tokens that are encoded, rows of states behind the head) of a prompt, for a plan. A
        picture of an edit counts as one token.
        """
        prompt = prompt or self.family.empty
        if edit is not None:
            tokens, drop = len(self.tokenizer.encode(edit.text(prompt, pictures))), edit.drop
            return tokens, max(1, tokens - drop - (pictures if edit.shares_copy else 0))
        drop = self.family.drop
        tokens = len(self.tokenizer.encode(self.family.template.format(prompt)))
        states = min(max(1, tokens - drop), self.family.most_tokens)
        return drop + states, states

    def _prompt_ids(self, prompt: str) -> list[int]:
        """Tokens of a prompt in its template, cut to what the model takes; warns of what is cut."""
        f = self.family
        ids = self._ids(f.template.format(prompt), f.drop)
        length = len(ids) - f.drop
        if length > f.most_tokens:
            log.warning(
                "the prompt has %d tokens, this model takes %d: the last %d are not used, "
                "shorten it",
                length,
                f.most_tokens,
                length - f.most_tokens,
            )
            ids = ids[: f.drop + f.most_tokens]
        unknown = f.grammar.unknown(prompt) if f.grammar else []
        if f.grammar and unknown:
            log.warning(
                "the %s model was not trained on %s; it knows %s, and words in double quotes that "
                "match %s",
                f.name,
                ", ".join(list(dict.fromkeys(unknown))[:5]),
                " ".join(f.grammar.words),
                f.grammar.pattern,
            )
        return ids

    @staticmethod
    def _warn_of_tags(prompt: str) -> None:
        tags = prompt_tags(prompt)
        if tags:
            log.warning(
                "the prompt has %s, which this model reads as plain words: load a LoRA with "
                "--lora or Inkstone Load LoRA, say in plain words what matters, and write "
                "wildcards and embeddings out",
                ", ".join(tag[:60] for tag in tags[:5]),
            )

    def _states(self, ids: list[int], drop: int) -> Tensor:
        """States after the head. The first prompt encodes the head together with itself, in one
        pass over the weights, and the head's keys and values are kept for all later ones.
        """
        if drop and tuple(ids[:drop]) not in self._prefix:
            cache = self.cache()
            states = self.network(torch.tensor([ids], device=self.device), [cache])
            self._keep(ids[:drop], cache.head(drop))
            return states[:, drop:]
        caches = self._caches(ids[:drop])
        return self.network(torch.tensor([ids[drop:]], device=self.device), caches)

    def encode_edit(
        self,
        prompt: str,
        pictures: Sequence[Tensor],
        edit: EditTemplate,
        written: str | None = None,
    ) -> EncodedText:
        """Prompt and pictures [H,W,C] in 0..1, in order -> [1,L,J] states, without the head.

        States are kept by content: the same words and pictures are not encoded again. written: as
        in `encode`.
        """
        edit.check(len(pictures))
        prompt = prompt or self.family.empty
        if not edit.sees:
            return self.encode(prompt, written)
        if len(pictures) > edit.usual:
            log.warning("%d pictures: the model is tested with up to %d", len(pictures), edit.usual)
        tower = self.tower("edits")
        pad, text = self.tokenizer.token_id(PICTURE_PAD), edit.text(prompt, len(pictures))
        if text.count(PICTURE_PAD) != len(pictures):
            raise InkstoneError(
                f"The prompt contains {PICTURE_PAD}, which marks the place of a picture. "
                "Take it out of the prompt."
            )
        encoded = [tower.encode(picture, edit.area, edit.sizes) for picture in pictures]
        key = (edit.name, prompt, *(picture.digest for picture in encoded))
        kept = self._texts.find(key)
        if kept is not None:
            return kept
        self._warn_of_tags(prompt if written is None else written)
        words = PicturePrompt.of(self._ids(text, edit.drop), pad, encoded)
        self._ready(len(words.ids), tower.row_bytes(words.rows))
        return self._texts.keep(key, self._edit_text(words, edit))

    def tower(self, purpose: str) -> VisionModel:
        """The vision tower, opened; raises where there is none. purpose: what needs it."""
        if self.vision is None:
            raise InkstoneError(
                f"{self.path}: this text encoder was loaded without its vision tower, which "
                f"{purpose} need."
            )
        return self.vision.open(purpose)

    def _edit_text(self, prompt: PicturePrompt, edit: EditTemplate) -> EncodedText:
        """The states after the head, with or without the rows of pictures."""
        with self.adapted(), torch.inference_mode():
            caches = self._caches(list(prompt.ids[: edit.drop]))
            states = prompt.states(self.network, self.device, caches, edit.drop)
            if not edit.shares_copy or edit.keeps_rows:
                return EncodedText(states)
            return EncodedText(*prompt.without_pictures(states, edit.drop))

    def _ids(self, text: str, drop: int) -> list[int]:
        """Tokens of a prompt in its template, checked."""
        ids = self.tokens(text)
        if len(ids) <= drop:
            raise InkstoneError(
                f"The prompt has {len(ids)} tokens with its template; {drop} of them belong to "
                "the template's head, so nothing is left. The tokenizer is not the one of this "
                "model: use the folder `tokenizer` that came with the text encoder."
            )
        return ids

    def tokens(self, text: str) -> list[int]:
        """Tokens of a text as it is, which this model has."""
        ids = self.tokenizer.encode(text)
        self._check_vocabulary(ids)
        return ids

    def _ready(self, tokens: int, more: int = 0) -> None:
        """Makes room for a prompt, and for `more` bytes."""
        self.weights.settle(self.budget, self.working_bytes(tokens) + more)

    def working_bytes(self, tokens: int) -> int:
        """Bytes of activations (streams, q, k, v, scores, gated hidden state of one layer) and of
        the copies of LoRAs. Rows of pictures come on top (`VisionModel.row_bytes`)."""
        c = self.network.config
        numbers = tokens * (8 * c.width + 3 * c.ff)
        scores = 2 * c.heads * tokens**2 if keeps_scores(tokens, self.device, self.dtype) else 0
        copied = lora_stack.copied_bytes(self.adapters, self.device, self.dtype)
        return numbers * self.dtype.itemsize + scores * torch.float32.itemsize + copied

    def cache(self, answering: bool = False) -> KeyValues:
        """An empty cache for one row that is encoded, or answered."""
        config = self.network.config
        return KeyValues(config.layers if answering else config.encoding_layers)

    def _caches(self, head: list[int]) -> list[KeyValues]:
        """A copy of the head's keys and values to go on from, for the one row; none without one."""
        if not head:
            return []
        if tuple(head) not in self._prefix:
            cache = self.cache()
            self.network(torch.tensor([head], device=self.device), [cache])
            self._keep(head, cache)
        return [self._prefix[tuple(head)].head(len(head))]

    def _keep(self, head: list[int], cache: KeyValues) -> None:
        while len(self._prefix) >= _KEPT_HEADS:
            del self._prefix[next(iter(self._prefix))]
        self._prefix[tuple(head)] = cache

    def _check_vocabulary(self, ids: list[int]) -> None:
        rows = self.network.config.vocab
        if max(ids, default=0) >= rows:
            raise InkstoneError(
                f"The tokenizer gives token {max(ids)}, the text encoder has only {rows} tokens: "
                "they belong to different models. Use the tokenizer folder that came with the "
                "text encoder."
            )
