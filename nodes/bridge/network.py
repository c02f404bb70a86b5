"""The network of our core MODEL (model_patcher.py): our MMDiT.

Modulation is read once for the sigmas of a whole run, which core passes in advance. Residuals added
after a block (ControlNet, DiffSynth's patches) are added to ours. Other patches of core's network
are not supported and are refused by name, never dropped.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Protocol, TypedDict

import torch
from torch import Tensor

from ...errors import InkstoneError
from ...host.page_text import for_page
from ...host.progress import throw_if_interrupted
from ...kernels.forward import ForwardHooks, Inputs
from ...kernels.lora import attached
from ...kernels.modulation import Modulation
from ...kernels.references import ReferenceContext, References
from ...loaders.lora.adapters import branches
from ...sampling.geometry import token_grid
from ...sampling.request import Request
from ...sampling.sampler import working_bytes
from ..conditioning import INDEX, INDEX_ZERO, NEGATIVE
from .control_adapter import CoreStreams

if TYPE_CHECKING:
    from ...kernels.forward import After
    from ...kernels.lora import Branch
    from ...loaders.lora.adapters import Adapter
    from ...loaders.models.diffusion_model import DiffusionModel

log = logging.getLogger(__name__)

LORAS = "inkstone_loras"  # attachment of a patcher: adapters of core's LoRA loaders
_SAME = 1e-6  # two timesteps that differ by less are the same
_AFTER = "double_block"  # patches of the image stream after a block


class _ModelSampling(Protocol):
    def timestep(self, sigma: Tensor) -> Tensor: ...


class CoreModel(Protocol):
    """The parts of core's model that the network reads."""

    model_sampling: _ModelSampling


class CorePatches(TypedDict, total=False):
    """core's transformer_options: the keys that the network reads."""

    sample_sigmas: Tensor
    patches: Mapping[str, Sequence[Callable[[dict[str, object]], dict[str, Tensor]]]]
    patches_replace: Mapping[str, object]


CoreControl = Mapping[str, Sequence[Tensor | None]]
"""Residuals of core's ControlNet by the place where they are added."""


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
        control: CoreControl | None = None,
        transformer_options: CorePatches | None = None,
        **other: object,
    ) -> Tensor:
        """x [B,C,F,h,w] or [B,C,h,w] normalised; timesteps [B] in 0..1; context [B,L,J].

        F: 1, or for Qwen-Image-Layered its layers and before them their sum. core's signature.
        """
        options: CorePatches = transformer_options or {}
        patches = _block_patches(options, x)
        model = self._with_loras()
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
            layers=frames - 1,
        )
        self._ready(model, working_bytes(model, request, {"positive": context}))
        mask = None
        if attention_mask is not None and not bool(attention_mask.bool().all()):
            mask = attention_mask.bool().expand(len(x), -1)
        with attached(model.network, self._side_branches(model)), torch.inference_mode():
            hooks = ForwardHooks(
                lambda _: throw_if_interrupted(), after=[*patches, *_core_control(control)]
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
            txt=context.to(model.device, model.dtype),
            modulation=self._rows(model, request.sigmas[:-1], timesteps),
            grids=grids + [model.latents.grid(r) for r in request.references],
            references=self._reference_context(model, request.references, frames),
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

    def _rows(self, model: DiffusionModel, levels: Tensor, timesteps: Tensor) -> Modulation:
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
        """[1,16,1,h,w] each, normalised as core passes them."""
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
    """core's latents as ([B*F,16,h,w], F)."""
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


def _picked(table: Modulation, index: Tensor) -> Modulation:
    """Rows of a table; one row if all are the same."""
    if len(index) == 1 or bool((index == index[0]).all()):
        return table.step(int(index[0]))
    img, txt = ([rows[index] for rows in part] for part in (table.img, table.txt))
    return Modulation(img, txt, table.out[index], table.ref)


def _core_control(control: CoreControl | None) -> list[After]:
    """Residuals of core's ControlNet for the image stream after each block."""
    samples = list((control or {}).get("input", ()))
    rest = [name for name, values in (control or {}).items() if name != "input" and values]
    if rest:
        raise InkstoneError(
            f"The ControlNet gives residuals for {', '.join(rest)}: Qwen-Image takes those for "
            "'input' only. It was made for another model: use a ControlNet for Qwen-Image."
        )

    def add(index: int, layers: int, x: Tensor) -> Tensor:
        sample = samples[index] if index < len(samples) else None
        if sample is not None:
            x[:, : sample.shape[1]] += sample.to(x)
        return x

    return [add] if samples else []


def _block_patches(options: CorePatches, x: Tensor) -> list[After]:
    """Patches after core's double blocks, for our image stream. Raises for patches of other kinds.

    x: the latent as core passes it. Patches do not get the text stream: DiffSynth's do not use it.
    """
    patches = dict(options.get("patches") or {})
    after = patches.pop(_AFTER, ())
    others = {"patches": patches, "patches_replace": options.get("patches_replace")}
    names = [f"{part}: {', '.join(map(str, keys))}" for part, keys in others.items() if keys]
    if names:
        raise InkstoneError(
            f"Another node patches the inside of core's network ({'; '.join(names)}), which this "
            "model does not have. Remove that node."
        )

    def patched(index: int, layers: int, img: Tensor) -> Tensor:
        facts = {"txt": None, "x": x, "block_index": index, "transformer_options": options}
        for patch in after:
            img = patch({"img": img, **facts})["img"]
        return img

    return [patched] if after else []
