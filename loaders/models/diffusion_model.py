"""A loaded diffusion model."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor

from ...kernels.lora import attached
from ...kernels.memory import free_bytes
from ...kernels.modulation import NONE, Branches, Modulation, time_embedding
from ...kernels.prefix_store import Place, PrefixStore, PrefixStores
from ...kernels.spread import apart
from ...quant.storage import Storage
from ...sampling.geometry import LatentSpec
from ...sampling.lightning import Distilled
from ...sampling.prefix_choices import AUTO, Keep
from ...sampling.request import Network
from ...sampling.schedule import Schedule
from ...sampling.step_cache_choices import StepCache
from ...sampling.variety_choices import Variety
from ..arch.family import EditTemplate, Family, Preset
from ..arch.variant import Variant
from ..lora import adapters as lora_stack
from ..lora.adapters import Adapter, FittedAdapter
from ..lora.file import Lora
from ..lora.hints import warn_of_distilled, warn_of_fp8
from ..memory.lru import Recent
from ..memory.residency import Residency, settle_together
from .architecture import ARCHITECTURES, Architecture, TableOptions
from .merged import merged
from .weight_file import WeightFile

log = logging.getLogger(__name__)

_KEPT_TABLES = 2  # one wire with LoRAs, one without
_KEPT_LORAS = 4  # files that stay in memory while their strengths are tried


@dataclass(kw_only=True)
class DiffusionModel:
    """A loaded MMDiT. Its modulation weights are read from the file when a table is computed."""

    network: Network = field(repr=False)
    family: Family
    variant: Variant | None  # None = neither the file shows it nor the user chose it
    schedule: Schedule
    dtype: torch.dtype
    device: torch.device
    latent_mean: Tensor  # [1,C,1,1]
    latent_std: Tensor
    path: Path = field(repr=False)  # not for the page: ComfyUI shows what a wire carries
    file: WeightFile = field(repr=False)
    weights: Residency = field(repr=False)
    budget: int | None = None  # bytes for the whole process; None = what is free
    preview: Tensor | None = None  # [C+1,3], see sampling/preview.py
    adapters: tuple[FittedAdapter, ...] = ()
    keep_prefix: Keep = AUTO
    step_cache: StepCache | None = None
    variety: Variety = Variety()
    # shared with all copies of this model
    _prefixes: PrefixStores = field(default_factory=PrefixStores, repr=False)
    _tables: Recent[Modulation] = field(default_factory=lambda: Recent(_KEPT_TABLES), repr=False)
    _loras: deque[Lora] = field(default_factory=lambda: deque(maxlen=_KEPT_LORAS), repr=False)

    def __post_init__(self) -> None:
        self.weights.beside = self._prefixes

    def ready(self, working: int, controls: Sequence[object] = (), together: int = 0) -> bool:
        """Makes room for activations and loads the weights. controls: the residency of the
        controls' weights, which run in the same steps; working, together: bytes of activations
        where the passes of a step go one after the other, and where they go through each layer
        together (0 = they do not). True: together.
        """
        copied = lora_stack.copied_bytes(self.adapters, self.device, self.dtype)
        others = [weights for weights in controls if isinstance(weights, Residency)]
        both = together + copied if together else 0
        return settle_together(self.weights, others, self.budget, working + copied, both)

    @property
    def packed(self) -> bool:
        """Weights of its blocks are unpacked whenever they are multiplied."""
        return any(name.startswith("transformer_blocks.") for name in self.file.packed)

    def with_loras(self, adapters: Sequence[Adapter]) -> DiffusionModel:
        """A light copy with these LoRAs too; this model and the shared network are not changed.
        Raises InkstoneError when one does not fit at all.
        """
        layout = self.architecture.layout(self.network.config, self.layered)
        fitted = (*self.adapters, *(lora_stack.fit(a, "model", layout) for a in adapters))
        self._loras.extend(a.lora for a in adapters if a.lora not in self._loras)
        warn_of_fp8(fitted, self.weights_format)
        warn_of_distilled(fitted, self.schedule, self.family.schedule)
        return replace(self, adapters=fitted)

    def adapted(self) -> AbstractContextManager[None]:
        """A context in which the network has the side branches of this model's LoRAs."""
        branches = lora_stack.branches(self.adapters, self.network, self.device, self.dtype)
        return attached(self.network, branches)

    def with_prefix_kept(self, keep: Keep) -> DiffusionModel:
        """A light copy that keeps what serves all steps there; one line where it has no such."""
        if not self.network.keeps_prefix:
            log.info(
                "%s computes prompt and references again in every step: there is nothing to keep",
                self.path.name,
            )
        return replace(self, keep_prefix=keep)

    def prefix_place(self, nbytes: int) -> Place:
        """Where this many bytes of keys and values that serve all steps are kept. auto: on the
        device where they take no more than half of what the weights leave, else in main memory by
        the same rule, else nowhere.
        """
        if self.keep_prefix != AUTO:
            return self.keep_prefix
        if nbytes <= self.weights.spare(self.budget) // 2:
            return "device"
        host = torch.device("cpu")
        free = free_bytes(host) + self._prefixes.bytes_on(host)
        return "host" if self.device.type != "cpu" and nbytes <= free // 2 else "off"

    def prefix_stores(
        self, keys: Sequence[str], place: Place, besides: Sequence[PrefixStore | None] = ()
    ) -> list[PrefixStore | None]:
        """The stores of prompts with these LoRAs. keys: of their states, their references and their
        places; besides: stores that stay too.
        """
        used = (fitted.adapter for fitted in self.adapters)
        loras = [(one.lora.serial, one.strength, one.blocks) for one in used]
        layers = self.network.config.layers
        return self._prefixes.of([f"{key} {loras!r}" for key in keys], layers, place, besides)

    @property
    def distilled(self) -> Distilled | None:
        """Set where a LoRA makes this a few-step model."""
        return next((f.distilled for f in self.adapters if f.distilled), None)

    @property
    def trained_for(self) -> Distilled | None:
        """Set where a LoRA, the variant, or what was merged into it makes this a few-step model."""
        if self.distilled is not None:
            return self.distilled
        if self.variant is not None and self.variant.distilled:
            steps = len(self.schedule.levels)
            return Distilled(steps, "its variant", self.schedule, "this model")
        return merged(self.path, self.schedule, self.family)

    def modulation(self, sigmas: Tensor) -> Modulation:
        """Modulation rows for sigmas [n], and for references where they have a time of their own
        (0). The last tables are kept, so a new seed costs nothing.
        """
        keys = self.architecture.table_keys(self.network.config.layers, False)
        loras = lora_stack.TableBranches(self.adapters, keys)
        return self._tables.get(
            (tuple(sigmas.tolist()), loras.key),
            lambda: self.new_table(sigmas, loras.at(self.read, self.device)),
        )

    def new_table(self, sigmas: Tensor, branches: Branches = NONE) -> Modulation:
        """Modulation rows for sigmas [n], which are not kept. branches: of LoRAs."""
        config = self.network.config
        options = TableOptions(self.dtype, self.layered, self.apart, branches)
        with apart(self.device):
            return self.architecture.table(self.read, sigmas.to(self.device), config, options)

    def time(self, sigmas: Tensor) -> Tensor:
        """Embedded timesteps [n,D] float32, for a control that has no embedding of its own."""
        loras = lora_stack.TableBranches(self.adapters, self.architecture.table_keys(0, False))
        levels = sigmas.to(self.device)
        return time_embedding(self.read, levels, branches=loras.at(self.read, self.device))

    @property
    def architecture(self) -> Architecture:
        """The record of its network."""
        return ARCHITECTURES[self.family.network]

    @property
    def latents(self) -> LatentSpec:
        """How pictures become latents and tokens."""
        return self.family.latents

    @property
    def rescales(self) -> bool:
        """CFG keeps the length of the positive velocity."""
        return self.family.rescales and not self.layered

    @property
    def edit(self) -> EditTemplate | None:
        """The template that encodes this model's edits; None without edits or a known variant."""
        name = self.variant.edit if self.variant else None
        return None if name is None else self.family.edit(name)

    def preset(self, pictures: int = 0) -> Preset:
        """Settings of the model card. pictures: of an edit; 0 = text to image."""
        preset = self.family.preset
        if self.variant and self.variant.distilled:
            return replace(preset, steps=len(self.schedule.levels), cfg=1.0)
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
    def weights_format(self) -> str:
        """Storage formats of the file, for people."""
        return self.file.formats

    @property
    def modulation_bytes(self) -> int:
        """Bytes of modulation weights, which stay in the file."""
        names, entries = self.file.names, self.file.source.entries
        keys = self.architecture.table_keys(self.network.config.layers, self.layered)
        plain = [entries[names[key]] for key in keys if key in names]
        return sum(entry.nbytes for entry in plain)

    def read(self, name: str) -> Tensor | Storage:
        """One weight from the file, by our name: packed as it is, else as the file has it."""
        return self.file.read(name).to(self.device)
