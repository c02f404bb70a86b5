"""The loaded models: what sampling, nodes and command line hold. bundle.py makes them."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor

from ..kernels.errors import InkstoneError
from ..kernels.lora import attached
from ..kernels.mmdit import MMDiT
from ..kernels.modulation import Modulation, modulation, modulation_keys, time_embedding
from ..kernels.text_encoder import Past, TextEncoder, picture_positions
from ..quant.storage import Found, Storage
from ..sampling.lightning import Distilled
from ..sampling.schedule import Schedule
from . import lora_stack
from .family import PICTURE_PAD, EditTemplate, Family, Preset
from .layout import mmdit_layout, text_layout
from .lora import Lora
from .lora_stack import Adapter, Fitted
from .recent import Recent
from .residency import Residency, settle_together
from .safetensors_file import Weights
from .slots import read_weight
from .tokenizer import Tokenizer
from .vae_model import VAEModel
from .variant import Variant
from .vision import Seen, TowerPlace, with_pictures

log = logging.getLogger(__name__)

_KEPT_TABLES = 2  # one wire with LoRAs, one without
_KEPT_LORAS = 4  # files that stay read while their strengths are tried
_KEPT_HEADS = 2  # of prompts, of edits
_KEPT_TEXTS = 8  # prompts and their negatives, before and after a change


@dataclass
class DiffusionModel:
    """A loaded MMDiT. Its modulation weights are read from the file when a table is asked for."""

    network: MMDiT
    family: Family
    schedule: Schedule
    dtype: torch.dtype
    device: torch.device
    weights_format: str
    latent_mean: Tensor  # [1,16,1,1]
    latent_std: Tensor
    source: Weights
    names: Mapping[str, str]  # our key -> the file's key
    path: Path
    preview: Tensor | None = None  # [17,3], see sampling/preview.py
    found: Mapping[str, Found] = field(default_factory=dict, repr=False)  # packed weights
    weights: Residency | None = field(default=None, repr=False)  # None = always in memory
    budget: int | None = None  # bytes for the whole process; None = what is free
    adapters: tuple[Fitted, ...] = ()
    variant: Variant | None = None  # None = neither the file nor the user says
    # shared with all copies of this model
    _tables: Recent[Modulation] = field(default_factory=lambda: Recent(_KEPT_TABLES), repr=False)
    _loras: deque[Lora] = field(default_factory=lambda: deque(maxlen=_KEPT_LORAS), repr=False)

    def ready(self, working: int, beside: Sequence[Residency] = ()) -> None:
        """Sees to it that the weights are in place for work that needs `working` bytes itself, and
        those of controls that work in the same steps.
        """
        working += lora_stack.copied_bytes(self.adapters, self.device, self.dtype)
        settle_together(self.weights, beside, self.budget, working)

    def with_loras(self, adapters: Sequence[Adapter]) -> DiffusionModel:
        """A light copy that draws with these too; this model and the shared network stay as they
        are. InkstoneError when one does not fit at all.
        """
        layout = mmdit_layout(self.network.config)
        fitted = (*self.adapters, *(lora_stack.fit(a, "model", layout) for a in adapters))
        self._loras.extend(a.lora for a in adapters if a.lora not in self._loras)
        lora_stack.warn_of_fp8(fitted, self.weights_format)
        own = self.family.schedule if self.distilled else self.schedule
        schedule = lora_stack.schedule_with(fitted, own, self.family.schedule)
        return replace(self, adapters=fitted, schedule=schedule)

    def adapted(self) -> AbstractContextManager[None]:
        """Within it the network has the side branches of this model's LoRAs."""
        found = lora_stack.branches(self.adapters, self.network, self.device, self.dtype)
        return attached(self.network, found)

    @property
    def distilled(self) -> Distilled | None:
        """Set where a LoRA makes this a few-step model."""
        return next((f.distilled for f in self.adapters if f.distilled), None)

    def modulation(self, sigmas: Tensor) -> Modulation:
        """The rows for sigmas [n], and those of references where they have a time of their own (0).

        The last tables are kept, so a new seed costs nothing.
        """
        layers = self.network.config.layers
        names = (key.rpartition(".")[0] for key in modulation_keys(layers))
        loras = lora_stack.TableBranches(self.adapters, names)

        def table() -> Modulation:
            branches = loras.at(self.read, self.device)
            levels = torch.cat([sigmas, sigmas.new_zeros(1)]) if self.apart else sigmas
            made = modulation(
                self.read,
                levels.to(self.device),
                layers,
                self.dtype,
                0 if self.layered else None,
                branches,
            )
            return made.with_references() if self.apart else made

        return self._tables.get((tuple(sigmas.tolist()), loras.key), table)

    def time(self, sigmas: Tensor) -> Tensor:
        """Embedded timesteps [n,D] float32, for a control that has no embedding of its own."""
        names = (key.rpartition(".")[0] for key in modulation_keys(0))
        loras = lora_stack.TableBranches(self.adapters, names)
        levels = sigmas.to(self.device)
        return time_embedding(self.read, levels, branches=loras.at(self.read, self.device))

    @property
    def edit(self) -> EditTemplate | None:
        """How this model's edits are encoded; None where it has none or the variant is not said."""
        name = self.variant.edit if self.variant else None
        return None if name is None else self.family.edit(name)

    def preset(self, pictures: int = 0) -> Preset:
        """Settings of the model card, for a drawing or for an edit of so many pictures."""
        preset = self.family.preset
        if not pictures or self.edit is None:
            return preset
        return replace(preset, steps=self.edit.steps, cfg=self.edit.cfg)

    @property
    def apart(self) -> bool:
        """References have a time of their own (zero_cond_t)."""
        return self.variant is not None and self.variant.zero_cond_t

    @property
    def layered(self) -> bool:
        """Draws layers of one picture."""
        return self.variant is not None and self.variant.layered

    @property
    def modulation_bytes(self) -> int:
        """Bytes of modulation weights, which stay in the file."""
        keys = modulation_keys(self.network.config.layers, self.layered)
        plain = [self.source.entries[self.names[k]] for k in keys if k in self.names]
        return sum(getattr(e, "nbytes", e.numel * e.dtype.itemsize) for e in plain)

    def read(self, name: str) -> Tensor | Storage:
        """One weight from the file, by our name: packed as it is, else as the file has it."""
        return read_weight(self.source, self.names, self.found, name).to(self.device)


@dataclass
class TextEncoderModel:
    """A loaded language model with its tokenizer and template."""

    network: TextEncoder
    tokenizer: Tokenizer
    family: Family
    dtype: torch.dtype
    device: torch.device
    path: Path
    weights: Residency | None = field(default=None, repr=False)  # None = always in memory
    budget: int | None = None  # bytes for the whole process; None = what is free
    adapters: tuple[Fitted, ...] = ()
    vision: TowerPlace | None = field(default=None, repr=False)  # asked only by edits
    _prefix: dict[tuple[int, ...], Past] = field(default_factory=dict, repr=False)
    _texts: Recent[Tensor] = field(default_factory=lambda: Recent(_KEPT_TEXTS), repr=False)

    def with_loras(self, adapters: Sequence[Adapter]) -> TextEncoderModel:
        """A light copy that encodes with these too, with a prefix of its own."""
        layout = text_layout(self.network.config)
        fitted = tuple(lora_stack.fit(a, "text", layout) for a in adapters)
        own = dict(_prefix={}, _texts=Recent(_KEPT_TEXTS))
        return replace(self, adapters=(*self.adapters, *fitted), **own)

    def adapted(self) -> AbstractContextManager[None]:
        """Within it the network has the side branches of this model's LoRAs."""
        found = lora_stack.branches(self.adapters, self.network, self.device, self.dtype)
        return attached(self.network, found)

    def encode(self, prompt: str) -> Tensor:
        """Prompt -> [1,L,J] states without the template's head, which is encoded once and kept.

        Kept by content: the same words are not encoded again.
        """
        return self._texts.get(prompt, lambda: self._encode(prompt))

    def _encode(self, prompt: str) -> Tensor:
        f = self.family
        ids = self._ids(f.template.format(prompt), f.drop)
        kept = len(ids) - f.drop
        if kept > f.most_tokens:
            log.warning(
                "the prompt has %d tokens, this model takes %d: the last %d are not used, "
                "shorten it",
                kept,
                f.most_tokens,
                kept - f.most_tokens,
            )
            ids = ids[: f.drop + f.most_tokens]
        strangers = f.grammar.strangers(prompt) if f.grammar else []
        if strangers:
            log.warning(
                "the %s model was never taught %s; it knows %s, and words in double quotes that "
                "match %s",
                f.name,
                ", ".join(strangers[:5]),
                " ".join(f.grammar.words),
                f.grammar.written,
            )
        self._ready(len(ids))
        with self.adapted(), torch.inference_mode():
            return self._states(ids, f.drop)

    def _states(self, ids: list[int], drop: int) -> Tensor:
        """States behind the head. The first prompt encodes the head with itself, in one pass over
        the weights, and its keys and values are kept for all later ones.
        """
        if drop and tuple(ids[:drop]) not in self._prefix:
            states, past = self.network(torch.tensor([ids], device=self.device))
            self._keep(ids[:drop], [tuple(x[:, :, :drop].clone() for x in kv) for kv in past])
            return states[:, drop:]
        past = self._past(ids[:drop])
        return self.network(torch.tensor([ids[drop:]], device=self.device), past)[0]

    def encode_edit(self, prompt: str, pictures: Sequence[Tensor], edit: EditTemplate) -> Tensor:
        """Prompt and pictures [H,W,C] in 0..1, in order -> [1,L,J] states, without the head.

        Kept by content: the same words and pictures are not encoded again.
        """
        edit.check(len(pictures))
        if not edit.sees:
            return self.encode(prompt)
        if len(pictures) > edit.usual:
            log.warning("%d pictures: the model was tried with up to %d", len(pictures), edit.usual)
        if self.vision is None:
            raise InkstoneError(f"{self.path}: this text encoder was loaded without vision tower.")
        tower = self.vision.open()
        pad, places = self.tokenizer.token_id(PICTURE_PAD), edit.text(prompt, len(pictures))
        if places.count(PICTURE_PAD) != len(pictures):
            raise InkstoneError(
                f"The prompt contains {PICTURE_PAD}, which stands for a picture. "
                "Take it out of the prompt."
            )
        seen = [tower.encode(picture, edit.area) for picture in pictures]
        key = (edit.name, prompt, *(picture.digest for picture in seen))

        def states() -> Tensor:
            ids = with_pictures(self._ids(places, edit.drop), pad, [s.grid for s in seen])
            return self._seen_states(ids, pad, seen, edit.drop)

        return self._texts.get(key, states)

    def _seen_states(self, ids: list[int], pad: int, seen: Sequence[Seen], drop: int) -> Tensor:
        """States of ids [L] behind the head, with the rows of pictures at `pad`."""
        positions = picture_positions(ids, pad, [picture.grid for picture in seen])
        self._ready(len(ids))
        with self.adapted(), torch.inference_mode():
            past = self._past(ids[:drop])
            tail = torch.tensor([ids[drop:]], device=self.device)
            embeds = self.network.embed(tail)
            embeds[tail == pad] = torch.cat([s.rows for s in seen]).to(embeds)
            return self.network(tail, past, embeds, positions[:, drop:])[0]

    def _ids(self, text: str, drop: int) -> list[int]:
        """Tokens of a prompt in its template, checked."""
        ids = self.tokenizer.encode(text)
        if len(ids) <= drop:
            raise InkstoneError(
                f"The prompt has {len(ids)} tokens with its template; {drop} of them belong to "
                "the template's head, so nothing is left. The tokenizer is not the one of this "
                "model: use the folder `tokenizer` that came with the text encoder."
            )
        self._check_vocabulary(ids)
        return ids

    def _ready(self, tokens: int) -> None:
        if self.weights is not None:
            self.weights.settle(self.budget, self.working_bytes(tokens))

    def working_bytes(self, tokens: int) -> int:
        """Bytes of activations (streams, q, k, v, scores, gated hidden state of one layer), and of
        LoRAs beside the layers."""
        c = self.network.config
        floats = tokens * (8 * c.width + 3 * c.ff + 2 * c.heads * tokens)
        copied = lora_stack.copied_bytes(self.adapters, self.device, self.dtype)
        return floats * torch.float32.itemsize + copied

    def _past(self, head: list[int]) -> Past | None:
        if not head:
            return None
        if tuple(head) not in self._prefix:
            self._keep(head, self.network(torch.tensor([head], device=self.device))[1])
        return self._prefix[tuple(head)]

    def _keep(self, head: list[int], past: Past) -> None:
        while len(self._prefix) >= _KEPT_HEADS:
            del self._prefix[next(iter(self._prefix))]
        self._prefix[tuple(head)] = past

    def _check_vocabulary(self, ids: list[int]) -> None:
        rows = self.network.config.vocab
        if max(ids) >= rows:
            raise InkstoneError(
                f"The tokenizer gives token {max(ids)}, the text encoder has only {rows} tokens: "
                "they belong to different models. Use the tokenizer folder that came with the "
                "text encoder."
            )


@dataclass
class Bundle:
    """The three models of one folder. A plan can be made of fewer: then some are None."""

    model: DiffusionModel
    text_encoder: TextEncoderModel | None
    vae: VAEModel | None
