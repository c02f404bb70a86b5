"""What core calls as the network of our MODEL (model_patcher.py): our MMDiT.

Modulation is read once for the sigmas of a whole run, which core hands over beforehand. What is
added behind a block (ControlNet, DiffSynth's patches) is added to ours. Other patches that reach
into core's network cannot be had and are refused by name, never dropped.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ...errors import InkstoneError
from ...host import progress
from ...kernels.forward import ForwardHooks, Inputs
from ...kernels.lora import attached
from ...kernels.modulation import Modulation
from ...kernels.references import ReferenceContext, References
from ...loaders.lora.adapters import branches
from ...sampling.geometry import LATENT, even, pack, token_grid, unpack
from ...sampling.request import Request, reference_grid
from ...sampling.sampler import working_bytes
from ..conditioning import INDEX, INDEX_ZERO, NEGATIVE
from .control_adapter import CoreStreams

if TYPE_CHECKING:
    from ...loaders.lora.adapters import Adapter
    from ...loaders.models.diffusion_model import DiffusionModel

log = logging.getLogger(__name__)

LORAS = "inkstone_loras"  # attachment of a patcher: adapters of core's LoRA loaders
_SAME = 1e-6  # two timesteps that differ by less are one
_BEHIND = "double_block"  # patches of the image stream behind a block


class CoreNetwork(CoreStreams):
    """What core calls as its network: (x, timestep, context, ...) -> velocity."""

    def __init__(self, core: Any, model: DiffusionModel) -> None:
        super().__init__()
        # not registered: their weights are not this module's
        object.__setattr__(self, "_core", core)
        object.__setattr__(self, "_model", model)
        self._dressed: tuple[tuple[Adapter, ...], DiffusionModel] = (), model
        self._told = False
        self.default_ref_method = _method(model)  # as core's network has it; nodes may patch it
        self.rest()

    def rest(self) -> None:
        """The end of a run: lets go of what is the same in all its steps."""
        self._beside: ReferenceContext | None = None
        self._branches: Mapping[str, Any] | None = None  # of LoRAs
        self._working = 0  # bytes that room was made for

    @property
    def dtype(self) -> torch.dtype:
        """What core casts its inputs to."""
        return self._model.dtype

    def forward(
        self,
        x: Tensor,
        timesteps: Tensor,
        context: Tensor,
        attention_mask: Tensor | None = None,
        ref_latents: Sequence[Tensor] | None = None,
        ref_latents_method: str | None = None,
        control: Mapping[str, Any] | None = None,
        transformer_options: Mapping[str, Any] | None = None,
        **other: Any,
    ) -> Tensor:
        """x [B,16,F,h,w] or [B,16,h,w] normalised; timesteps [B] in 0..1; context [B,L,J].

        F: 1, of Qwen-Image-Layered its layers and before them their sum.
        """
        options = transformer_options or {}
        behind = _block_patches(options, x)
        model, frames = self._with_loras(), x.dim() == 5
        z, drawn = _as_frames(x, model.layered)
        h, w = z.shape[-2:]
        z = even(z)
        references = self._references(ref_latents or (), ref_latents_method)
        size = z.shape[-1] * LATENT, z.shape[-2] * LATENT
        request = Request(
            *size,
            self._levels(options, timesteps),
            batch=len(x),
            references=references,
            layers=drawn - 1,
        )
        self._ready(model, working_bytes(model, request, {"positive": context}))
        mask = None
        if attention_mask is not None and not bool(attention_mask.bool().all()):
            mask = attention_mask.bool().expand(len(x), -1)
        with attached(model.network, self._sides(model)), torch.inference_mode():
            mod = self._rows(model, request.sigmas[:-1], timesteps)
            beside = self._kept_beside(model, references, drawn)
            grids = [token_grid(*size)] * drawn + [reference_grid(r) for r in references]
            tokens = pack(z).reshape(len(x), -1, model.network.config.channels)
            after = [*behind, *_core_control(control)]
            inputs = Inputs(
                img=tokens.to(model.device, model.dtype),
                txt=context.to(model.device, model.dtype),
                modulation=mod,
                grids=grids,
                mask=mask,
                references=beside,
            )
            hooks = ForwardHooks(lambda _: progress.throw_if_interrupted(), after=after)
            v = model.network(inputs, hooks)
        rows, columns = z.shape[-2] // 2, z.shape[-1] // 2
        out = unpack(v.float().reshape(len(z), rows * columns, -1), rows, columns)[..., :h, :w]
        if not frames:
            return out.to(x.device)
        return out.unflatten(0, (len(x), drawn)).transpose(1, 2).to(x.device)

    def _with_loras(self) -> DiffusionModel:
        patcher = getattr(self._core, "current_patcher", None)
        adapters = getattr(patcher, "attachments", {}).get(LORAS, ())
        if adapters != self._dressed[0]:
            self.rest()
            dressed = self._model.with_loras(adapters) if adapters else self._model
            self._dressed = adapters, dressed
        return self._dressed[1]

    @contextmanager
    def entered(self) -> Iterator[DiffusionModel]:
        """For controls of core, which work before this network does."""
        model = self._with_loras()
        self._ready(model, self._working)
        with attached(model.network, self._sides(model)), torch.inference_mode():
            yield model

    def _ready(self, model: DiffusionModel, working: int) -> None:
        """Once per run, again where more is asked or where core took the weights away meanwhile."""
        gone = model.weights is not None and model.weights.placement is None
        if gone or working > self._working:
            model.ready(working)
            self._working = working

    def _sides(self, model: DiffusionModel) -> Mapping[str, Any]:
        """The branches of LoRAs, on the device once per run."""
        if self._branches is None:
            self._branches = branches(model.adapters, model.network, model.device, model.dtype)
        return self._branches

    def _levels(self, options: Mapping[str, Any], timesteps: Tensor) -> Tensor:
        """Timesteps of the whole run, as core tells them beforehand; else of this call."""
        sigmas = options.get("sample_sigmas")
        if sigmas is None:
            return torch.cat([timesteps[:1].float().cpu(), torch.zeros(1)])
        return self._core.model_sampling.timestep(sigmas).float().cpu()

    def _rows(self, model: DiffusionModel, levels: Tensor, timesteps: Tensor) -> Modulation:
        """The modulation of each row of a batch."""
        known = levels[levels > 0]
        table = model.modulation(known) if len(known) else None
        wanted = timesteps.float().cpu()
        if table is not None:
            off = (wanted[:, None] - known[None]).abs()
            if float(off.min(dim=1).values.max()) < _SAME:
                return _picked(table, off.argmin(dim=1))
        if not self._told and len(levels) > 1:
            self._told = True
            log.info(
                "this sampler asks for sigmas between its steps: the modulation is read once more "
                "for each"
            )
        distinct, index = wanted.unique(return_inverse=True)
        return _picked(model.modulation(distinct), index)

    def _references(self, latents: Sequence[Tensor], method: str | None) -> tuple[Tensor, ...]:
        """[1,16,1,h,w] each, normalised as core hands them over."""
        own = _method(self._model)
        method = method or self.default_ref_method
        if latents and method != own:
            raise InkstoneError(
                f"The conditioning places its reference pictures by {method!r}, this model by "
                f"{own!r}. Choose the variant that the file is where the model is loaded, or take "
                "out the reference method node."
            )
        found = [z if z.dim() == 5 else z[:, :, None] for z in latents]
        # both halves of CFG may come in one batch, each with its own pictures
        same = all(torch.equal(z, z[:1].expand_as(z)) for z in found)
        return tuple(z[:1] if same else z for z in found)

    def _kept_beside(
        self, model: DiffusionModel, references: Sequence[Tensor], drawn: int
    ) -> ReferenceContext:
        """The references as tokens; the same object while they are the same."""
        if not references:
            return ReferenceContext()
        tokens = [pack(even(z[:, :, 0])) for z in references]
        found = torch.cat(tokens, dim=1).to(model.device, model.dtype)
        held = self._beside.references if self._beside else None
        if held is None or held.tokens.shape != found.shape or not torch.equal(held.tokens, found):
            layers = drawn if model.layered else 0
            self._beside = ReferenceContext(References(found, fixed=False), layers)
        if model.apart:  # keys and values are kept for one batch size only: a fresh object
            return ReferenceContext(References(found, fixed=True))
        return self._beside


def _method(model: DiffusionModel) -> str:
    """How a model places its reference pictures, in core's words."""
    return NEGATIVE if model.layered else INDEX_ZERO if model.apart else INDEX


def _as_frames(x: Tensor, layered: bool) -> tuple[Tensor, int]:
    """([B*F,16,h,w], F) of what core hands over."""
    drawn = x.shape[2] if x.dim() == 5 else 1
    if drawn != 1 and not layered:
        raise InkstoneError(
            f"The latent has {drawn} frames, this model draws one picture: use an empty latent of "
            "one frame."
        )
    if layered and drawn < 2:
        raise InkstoneError(
            "Qwen-Image-Layered draws layers and, before them, their sum: the latent has one "
            "frame. Use core's Empty Qwen Image Layered Latent with 1 layer or more."
        )
    return (x.transpose(1, 2).flatten(0, 1) if x.dim() == 5 else x), drawn


def _picked(table: Modulation, index: Tensor) -> Modulation:
    """Rows of a table, one where all are the same."""
    if len(index) == 1 or bool((index == index[0]).all()):
        return table.step(int(index[0]))
    img, txt = ([rows[index] for rows in part] for part in (table.img, table.txt))
    return Modulation(img, txt, table.out[index], table.ref)


def _core_control(control: Mapping[str, Any] | None) -> list[Any]:
    """Residuals of core's ControlNet for the image stream behind each block."""
    samples = list((control or {}).get("input", ()))
    rest = [name for name, found in (control or {}).items() if name != "input" and found]
    if rest:
        raise InkstoneError(
            f"The control gives residuals for {', '.join(rest)}: Qwen-Image's blocks take those of "
            "'input' only. It was made for another model."
        )

    def add(index: int, layers: int, x: Tensor) -> Tensor:
        if index < len(samples) and samples[index] is not None:
            sample = samples[index]
            x[:, : sample.shape[1]] += sample.to(x)
        return x

    return [add] if samples else []


def _block_patches(options: Mapping[str, Any], x: Tensor) -> list[Any]:
    """Patches behind core's double blocks, for our image stream. Raises for patches of other kinds.

    x: the latent as core hands it over. The text stream is not shown: DiffSynth's do not ask.
    """
    patches = dict(options.get("patches") or {})
    behind = patches.pop(_BEHIND, ())
    held = {"patches": patches, "patches_replace": options.get("patches_replace")}
    found = [f"{part}: {', '.join(map(str, names))}" for part, names in held.items() if names]
    if found:
        raise InkstoneError(
            f"Another node patches the inside of core's network ({'; '.join(found)}), which this "
            "model does not have. Take out that node."
        )

    def patched(index: int, layers: int, img: Tensor) -> Tensor:
        said = {"txt": None, "x": x, "block_index": index, "transformer_options": options}
        for patch in behind:
            img = patch({"img": img, **said})["img"]
        return img

    return [patched] if behind else []
