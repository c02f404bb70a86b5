"""The output head of a text encoder: what turns its states into the next token of an answer.

It is opened when something is to be generated, never for encoding, and its weights are read then.
It lies in the text encoder's file (`lm_head`, GGUF `output`), or it is the table of embeddings
where the file ties the two. A `HeadPlace` knows which, or why there is none: files that were made
for drawing only often lack it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from ...errors import InkstoneError
from ...kernels.configs import TextConfig
from ...kernels.text_encoder import OutputHead, TextEncoder
from ..arch.dims import Shapes
from ..arch.encoder_models import encoder_model
from ..arch.header_view import HeaderView
from ..arch.key_maps import HEAD, KeyMap, head_names
from ..formats.weight_reader import WeightReader
from ..memory.residency import FreeMemory, Residency, free_after_asking
from .few_tokens import FormOptions, LoadedForms, forms_of
from .weight_file import LoadOptions, WeightFile, weight_file

log = logging.getLogger(__name__)

WEIGHT = "lm_head.weight"


@dataclass(frozen=True)
class HeadModel:
    """A head that is open. weights: its own; None where it is the table of embeddings."""

    scores: Callable[[Tensor], Tensor]  # states of the text encoder [...,W] -> [...,vocab]
    weights: Residency | None = field(repr=False)
    format: str
    forms: LoadedForms | None = field(default=None, repr=False)  # for single tokens

    @property
    def nbytes(self) -> int:
        """Bytes in addition to the text encoder's."""
        return 0 if self.weights is None else self.weights.nbytes


@dataclass
class HeadPlace:
    """The head of a text encoder, opened lazily, or the reason why there is none."""

    missing: str = ""
    make: Callable[[], HeadModel] | None = field(default=None, repr=False)
    _model: HeadModel | None = field(default=None, repr=False)

    def open(self) -> HeadModel:
        """The head: headers are read at the first call, weights when it is used."""
        if self._model is None:
            if self.make is None:
                raise InkstoneError(self.missing)
            self._model = self.make()
        return self._model


@dataclass(frozen=True)
class HeadOptions:
    """What a text encoder gives its head."""

    network: TextEncoder
    dtype: torch.dtype
    device: torch.device
    free: FreeMemory = free_after_asking


def head_place(source: WeightReader, view: HeaderView, options: HeadOptions) -> HeadPlace:
    """Locates the head of an open text encoder. Reads no weights."""
    names = view.names(head_names)
    if any(name.startswith(HEAD) for name in names.table):

        def make() -> HeadModel:
            file = weight_file(source, view, names, lambda name: name.startswith(HEAD))
            return _open(file, options)

        return HeadPlace(make=make)
    model = encoder_model(options.network.config)
    published = options.network.config.width == model.config.width
    if _tied(names, view.config, published):
        words = options.network

        def scores(states: Tensor) -> Tensor:
            return words.embed_tokens.scores(words.for_scores(states))

        return HeadPlace(make=lambda: HeadModel(scores, None, "the table of embeddings"))
    return HeadPlace(
        f"{source.path}: this file can encode prompts, but not write text: its output head "
        f"(lm_head.weight) was left out. Use a text encoder that has it: {model.folder}, or a GGUF "
        f"file of {model.full}-Instruct such as {model.gguf}."
    )


def _tied(names: KeyMap, config: Mapping[str, object], published: bool) -> bool:
    """True where the head is the table of embeddings: config.json says it; GGUF files of converters
    leave the head out only then. published: of the size that drawing needs, which has a head of its
    own: there a file without it was made for drawing, as `inkstone quantize` makes them.
    """
    inner = config.get("text_config")
    says = (c.get("tie_word_embeddings") for c in (config, inner) if isinstance(c, Mapping))
    return (names.layout == "gguf" and not published) or any(value is True for value in says)


def _open(file: WeightFile, options: HeadOptions) -> HeadModel:
    config, path = options.network.config, Path(file.source.path)
    _check(file.shapes, config, path)
    with torch.device("meta"):
        network = OutputHead(config)
    loaded = file.load_into(
        network,
        torch.nn.ModuleList(),
        LoadOptions(options.dtype, options.device, wait=True, free=options.free),
    )
    log.info("output head of %s: %s", path.name, loaded.summary)
    forms = forms_of(network, file.packed, FormOptions(options.dtype, options.device, options.free))
    network.eval()

    def scores(states: Tensor) -> Tensor:
        return network(options.network.for_scores(states))

    return HeadModel(scores, loaded.weights, file.formats, forms)


def _check(shapes: Shapes, config: TextConfig, path: Path) -> None:
    """Raises where the head is of another model."""
    want = {WEIGHT: (config.vocab, config.width)}
    if dict(shapes) != want:
        got = ", ".join(f"{name} {list(shape)}" for name, shape in sorted(shapes.items())[:3])
        raise InkstoneError(
            f"{path}: the output head has {got}, expected {WEIGHT} {list(want[WEIGHT])}. The file "
            "mixes models or is damaged: download it again."
        )
