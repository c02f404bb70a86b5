"""The network of our core MODEL (model_patcher.py): ours, of any family.

Modulation is read once for the sigmas of a whole run, which core passes in advance. What other
nodes add to core's network is in core_patches.py.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor

from ...errors import InkstoneError
from ...host.page_text import for_page
from ...host.progress import throw_if_interrupted
from ...kernels.forward import ForwardHooks, Inputs
from ...kernels.lora import attached
from ...kernels.modulation import Modulation
from ...kernels.prefix_store import PrefixStore
from ...kernels.references import ReferenceContext, References
from ...kernels.shared_modulation import SharedModulation
from ...loaders.lora.adapters import branches
from ...sampling.geometry import token_grid
from ...sampling.prefix_choices import Keep, core_keep
from ...sampling.request import Request, placed
from ...sampling.run_memory import prefix_place, working_bytes
from ...sampling.sampler import prefixes_of
from ..conditioning import INDEX, INDEX_ZERO, NEGATIVE
from .control_adapter import CoreStreams
from .core_patches import CACHE, CoreCache, CoreControl, CorePatches, block_patches, core_control

if TYPE_CHECKING:
    from ...kernels.lora import Branch
    from ...loaders.lora.adapters import Adapter
    from ...loaders.models.diffusion_model import DiffusionModel

log = logging.getLogger(__name__)

LORAS = "inkstone_loras"  # attachment of a patcher: adapters of core's LoRA loaders
_SAME = 1e-6  # two timesteps that differ by less are the same
_HALVES = 2  # of CFG: prompts whose keys and values are kept during a run


class _ModelSampling(Protocol):
    def timestep(self, sigma: Tensor) -> Tensor: ...


class CoreModel(Protocol):
    """The parts of core's model that the network reads."""

    model_sampling: _ModelSampling


@dataclass(frozen=True)
class _Prefix:
    """The store of one half of CFG, and what it belongs to."""

    context: Tensor
    references: Sequence[Tensor]
    slots: tuple[int, ...]
    store: PrefixStore | None

    def is_of(self, context: Tensor, request: Request) -> bool:
        """True for the prompt and references of this store."""
        same = self.slots == request.slots and len(self.references) == len(request.references)
        pairs = zip((self.context, *self.references), (context, *request.references))
        return same and all(_same(a, b) for a, b in pairs)


class CoreNetwork(CoreStreams):
    """The network of our MODEL: (x, timestep, context, ...) -> velocity."""

    _core: CoreModel
    _model: DiffusionModel

    def __init__(self, core: CoreModel, model: DiffusionModel) -> None:
        super().__init__()
        # not registered: their weights are not this module's
        object.__setattr__(self, "_core", core)
        object.__setattr__(self, "_model", model)
        self._adapted: tuple[Sequence[Adapter], DiffusionModel] = (), model
        self._warned = False
        self.default_ref_method = _method(model)  # as core's network has it; nodes may patch it
        self.rest()

    def rest(self) -> None:
        """Ends a run: frees what is the same in all its steps."""
        self._context: ReferenceContext | None = None
        self._branches: Mapping[str, Branch] | None = None  # of LoRAs
        self._working = 0  # bytes of activations that memory was freed for
        self._prefixes: list[_Prefix] = []  # of the halves of CFG

    @property
    def dtype(self) -> torch.dtype:
        """The type that core casts its inputs to."""
        return self._model.dtype

    @for_page
    def forward(
        self,
        x: Tensor,
        timesteps: Tensor,
        context: Tensor,
        attention_mask: Tensor | None = None,
        ref_latents: Sequence[Tensor] | None = None,
        ref_latents_method: str | None = None,
        image_slots: Sequence[int] | None = None,
        control: CoreControl | None = None,
        transformer_options: CorePatches | None = None,
        **other: object,
    ) -> Tensor:
        """x [B,C,F,h,w] or [B,C,h,w] normalised; timesteps [B] in 0..1; context [B,L,J].

        F: 1, or for Qwen-Image-Layered its layers and before them their sum. core's signature.
        """
        options: CorePatches = transformer_options or {}
        patches = block_patches(options, x)
        model = self._with_loras()
        if CACHE in options:
            model = replace(model, keep_prefix=_keep(options[CACHE]))
        z, frames = _as_frames(x, model.layered)
        h, w = z.shape[-2:]
        latents = model.latents
        z = latents.whole(z)
        request = Request(
            width=z.shape[-1] * latents.scale,
            height=z.shape[-2] * latents.scale,
            sigmas=self._levels(options, timesteps),
            batch=len(x),
            references=self._references(ref_latents or (), ref_latents_method),
            slots=placed(image_slots or (), len(ref_latents or ()), context.shape[1]),
            layers=frames - 1,
        )
        others = [k for k in self._prefixes if k.store and not k.is_of(context, request)]
        kept = sum(k.store.bytes_on(model.device) for k in others if k.store)
        text = {"positive": _shared(context)}
        self._ready(model, working_bytes(model, request, text) + kept)
        mask = None
        if attention_mask is not None and not bool(attention_mask.bool().all()):
            mask = attention_mask.bool().expand(len(x), -1)
        with attached(model.network, self._side_branches(model)), torch.inference_mode():
            hooks = ForwardHooks(
                lambda _: throw_if_interrupted(), after=[*patches, *core_control(control)]
            )
            inputs = self._inputs(model, request, z, context, timesteps)
            v = model.network(replace(inputs, mask=mask), hooks)
        _, rows, columns = latents.grid(z)
        tokens = v.float().reshape(len(z), rows * columns, -1)
        out = latents.unpack(tokens, rows, columns)[..., :h, :w]
        if x.dim() == 4:
            return out.to(x.device)
        return out.unflatten(0, (len(x), frames)).transpose(1, 2).to(x.device)

    def _inputs(
        self, model: DiffusionModel, request: Request, z: Tensor, context: Tensor, timesteps: Tensor
    ) -> Inputs:
        """The inputs of our network for latents [B*F,C,h,w] whose sides are whole tokens."""
        frames = request.layers + 1
        tokens = model.latents.pack(z).reshape(request.batch, -1, model.network.config.channels)
        grids = [token_grid(request.width, request.height)] * frames
        return Inputs(
            img=tokens.to(model.device, model.dtype),
            txt=_shared(context).to(model.device, model.dtype),
            modulation=self._rows(model, request.sigmas[:-1], timesteps),
            grids=grids + [model.latents.grid(r) for r in request.references],
            references=self._reference_context(model, request.references, frames),
            slots=request.slots,
            prefix=self._prefix(model, request, context),
        )

    def _with_loras(self) -> DiffusionModel:
        patcher = getattr(self._core, "current_patcher", None)
        adapters = getattr(patcher, "attachments", {}).get(LORAS, ())
        if adapters != self._adapted[0]:
            self.rest()
            adapted = self._model.with_loras(adapters) if adapters else self._model
            self._adapted = adapters, adapted
        return self._adapted[1]

    @contextmanager
    def entered(self) -> Iterator[DiffusionModel]:
        """The model ready for controls of core, which run before this network does."""
        model = self._with_loras()
        self._ready(model, self._working)
        with attached(model.network, self._side_branches(model)), torch.inference_mode():
            yield model

    def _ready(self, model: DiffusionModel, working: int) -> None:
        """Once per run; again if more memory is needed or core unloaded the weights meanwhile."""
        gone = model.weights is not None and model.weights.placement is None
        if gone or working > self._working:
            model.ready(working)
            self._working = working

    def _side_branches(self, model: DiffusionModel) -> Mapping[str, Branch]:
        """The branches of LoRAs, copied to the device once per run."""
        if self._branches is None:
            self._branches = branches(model.adapters, model.network, model.device, model.dtype)
        return self._branches

    def _levels(self, options: CorePatches, timesteps: Tensor) -> Tensor:
        """Timesteps of the whole run if core passes them in advance; else those of this call."""
        sigmas = options.get("sample_sigmas")
        if sigmas is None:
            return torch.cat([timesteps[:1].float().cpu(), torch.zeros(1)])
        return self._core.model_sampling.timestep(sigmas).float().cpu()

    def _rows(
        self, model: DiffusionModel, levels: Tensor, timesteps: Tensor
    ) -> Modulation | SharedModulation:
        """The modulation of each row of a batch."""
        known = levels[levels > 0]
        table = model.modulation(known) if len(known) else None
        levels_now = timesteps.float().cpu()
        if table is not None:
            off = (levels_now[:, None] - known[None]).abs()
            if float(off.min(dim=1).values.max()) < _SAME:
                return _picked(table, off.argmin(dim=1))
        if not self._warned and len(levels) > 1:
            self._warned = True
            log.info(
                "this sampler evaluates sigmas between its steps: the modulation is read again for "
                "each of them"
            )
        distinct, index = levels_now.unique(return_inverse=True)
        return _picked(model.modulation(distinct), index)

    def _references(self, latents: Sequence[Tensor], method: str | None) -> tuple[Tensor, ...]:
        """[1,C,1,h,w] each, normalised as core passes them."""
        own = _method(self._model)
        method = method or self.default_ref_method
        if latents and method != own:
            raise InkstoneError(
                f"The reference latents method of the conditioning is {method!r}: this model needs "
                f"{own!r}. Choose the file's variant in the model loader, or remove the reference "
                "method node."
            )
        references = [z if z.dim() == 5 else z[:, :, None] for z in latents]
        # both halves of CFG may come in one batch, each with its own pictures
        same = all(torch.equal(z, z[:1].expand_as(z)) for z in references)
        return tuple(z[:1] if same else z for z in references)

    def _prefix(
        self, model: DiffusionModel, request: Request, context: Tensor
    ) -> PrefixStore | None:
        """The keys and values of prompt and references, the same store while they are the same;
        None where they are computed in every step.
        """
        if not model.network.keeps_prefix:
            return None
        for kept in self._prefixes:
            if kept.is_of(context, request):
                return kept.store
        half = {"positive": _shared(context)}
        place = prefix_place(model, request, half)
        besides = [kept.store for kept in self._prefixes]
        store = prefixes_of(model, request, half, place, besides)["positive"]
        kept = _Prefix(context, request.references, request.slots, store)
        self._prefixes = [*self._prefixes, kept][-_HALVES:]
        return store

    def _reference_context(
        self, model: DiffusionModel, references: Sequence[Tensor], frames: int
    ) -> ReferenceContext:
        """The references as tokens; the same object while they are the same."""
        if not references:
            return ReferenceContext()
        latents = model.latents
        parts = [latents.pack(latents.whole(z[:, :, 0])) for z in references]
        tokens = torch.cat(parts, dim=1).to(model.device, model.dtype)
        if model.apart:  # keys and values are cached for one batch size only: a new object
            return ReferenceContext(References(tokens, fixed=True))
        context = self._context
        cached = context.references.tokens if context and context.references else None
        if context is None or cached is None or not _same(cached, tokens):
            layers = frames if model.layered else 0
            context = ReferenceContext(References(tokens, fixed=False), layers)
            self._context = context
        return context


def _same(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and torch.equal(a, b)


def _method(model: DiffusionModel) -> str:
    """The reference latents method of a model, by core's names."""
    return NEGATIVE if model.layered else INDEX_ZERO if model.apart else INDEX


def _as_frames(x: Tensor, layered: bool) -> tuple[Tensor, int]:
    """core's latents as ([B*F,C,h,w], F)."""
    frames = x.shape[2] if x.dim() == 5 else 1
    if frames != 1 and not layered:
        raise InkstoneError(
            f"The latent has {frames} frames: this model expects 1. Use an empty latent of one "
            "frame."
        )
    if layered and frames < 2:
        raise InkstoneError(
            "The latent has 1 frame: Qwen-Image-Layered expects the composite and at least 1 "
            "layer. Use core's Empty Qwen Image Layered Latent."
        )
    return (x.transpose(1, 2).flatten(0, 1) if x.dim() == 5 else x), frames


def _picked(table: Modulation | SharedModulation, index: Tensor) -> Modulation | SharedModulation:
    """Rows of a table; one row if all are the same."""
    if len(index) == 1 or bool((index == index[0]).all()):
        return table.step(int(index[0]))
    return table.rows(index)


def _keep(cache: CoreCache) -> Keep:
    """Where core's cache node has keys and values of prompt and references kept."""
    return core_keep(cache.get("device", "auto"), cache.get("dtype", "default"))


def _shared(context: Tensor) -> Tensor:
    """Prompts [B,L,J]; as one expanded prompt where all rows are the same, which networks read
    once.
    """
    same = len(context) > 1 and bool((context == context[:1]).all())
    return context[:1].expand(len(context), -1, -1) if same else context
