"""Our network as a core MODEL: a real ModelPatcher around core's own Qwen-Image model, whose
network is ours (network.py), of any family.

So every sampler, scheduler and guider of core works, and so do the core nodes that change schedule
and guidance. Unusual: the weights are not the patcher's (our residency holds them, packed), so it
cannot move, merge or save them; LoRAs of core's loader become side branches.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ...errors import InkstoneError
from ...host.memory import guest_of
from ...loaders.arch.key_maps import FUSED_ROWS
from ..conditioning import SLOTS
from .core_loras import Patches, adapter_of
from .core_patches import refuse_regions
from .network import LORAS, CoreNetwork

if TYPE_CHECKING:
    from comfy.latent_formats import LatentFormat
    from comfy.model_base import QwenImage
    from comfy.model_patcher import ModelPatcher

    from ...loaders.models.diffusion_model import DiffusionModel

_START = "diffusion_model."
_NO_WEIGHTS = (
    "{} needs the weights of the model, which Inkstone keeps packed. Remove that node; LoRAs work "
    "through LoraLoaderModelOnly or Inkstone Load LoRA."
)


def core_model(model: DiffusionModel) -> ModelPatcher:
    """The MODEL of a loaded diffusion model."""
    from comfy import model_management as devices

    core = _core(model)
    return _patcher_class(model)(
        core, devices.get_torch_device(), devices.unet_offload_device(), size=1
    )


def _core(model: DiffusionModel) -> QwenImage:
    """Core's model around our network."""
    from comfy import conds, model_base, supported_models

    config = supported_models.QwenImage(
        {"image_model": "qwen_image", "disable_unet_model_creation": True}
    )
    config.latent_format = _latent_format(model)
    config.sampling_settings = {**config.sampling_settings, "shift": model.family.core.shift}
    config.set_inference_dtype(model.dtype, None)

    class Core(model_base.QwenImage):
        """Core's model; lists our layers as its weights, because LoRA loaders look for them. Core's
        own model of a later family need not exist: what it adds for its prompts is here.
        """

        def extra_conds(self, **prompt: object) -> dict[str, object]:
            refuse_regions(prompt)
            found: dict[str, object] = super().extra_conds(**prompt)
            places = prompt.get(SLOTS)
            return found | ({SLOTS: conds.CONDConstant(places)} if places else {})

        def state_dict(self, *args: object, **kwargs: object) -> dict[str, Tensor]:
            return {_START + name: x for name, x in _weights(model).items()}

    core = Core(config, device=model.device)
    core.diffusion_model = CoreNetwork(core, model)
    return core


def _patcher_class(model: DiffusionModel) -> type[ModelPatcher]:
    """The class of the patcher of core's model: it changes nothing but our network's branches."""
    from comfy import model_patcher

    class Patcher(model_patcher.ModelPatcher):
        """Adds LoRAs as side branches of our network."""

        def __repr__(self) -> str:
            return "CoreModel()"  # without the module, which is a path in ComfyUI

        def add_patches(
            self, patches: Patches, strength_patch: float = 1.0, strength_model: float = 1.0
        ) -> list[object]:
            adapter = adapter_of(patches, strength_patch, strength_model)
            if adapter is not None:
                model.with_loras([adapter])  # refuses a LoRA that does not fit
                adapters = self.attachments.get(LORAS, ())
                self.attachments[LORAS] = (*adapters, adapter)
                self.patches_uuid = object()
            return list(patches)

        def add_hook_patches(self, *_: object, **__: object) -> None:
            raise InkstoneError(_NO_WEIGHTS.format("A LoRA hook (a LoRA by steps)"))

        def get_key_patches(self, *_: object, **__: object) -> None:
            raise InkstoneError(_NO_WEIGHTS.format("A node that merges or saves models"))

        def memory_required(self, input_shape: Sequence[int]) -> int:
            return 0  # our own plan asks the host for memory

        def model_patches_models(self) -> list[object]:
            """Models that stay loaded during a run of this one: its own weights."""
            own = [] if model.weights is None else [guest_of(model.weights)]
            return [*super().model_patches_models(), *own]

        def cleanup(self) -> None:
            super().cleanup()
            self.model.diffusion_model.rest()

    return Patcher


def _latent_format(model: DiffusionModel) -> LatentFormat:
    """Core's format of the model's latents with the model's own statistics; a new one where this
    core has none of that name.
    """
    from comfy import latent_formats

    facts, spec = model.family.core, model.latents
    base: type[LatentFormat] = getattr(latent_formats, facts.latents, latent_formats.LatentFormat)

    def shaped(values: Tensor, latent: Tensor) -> Tensor:
        return values.reshape(1, -1, *[1] * (latent.dim() - 2)).to(latent)

    class Format(base):
        """Latents of 4 or 5 dimensions: references of other nodes may have either."""

        def process_in(self, latent: Tensor) -> Tensor:
            mean, std = (shaped(x, latent) for x in (model.latent_mean, model.latent_std))
            return (latent - mean) / std

        def process_out(self, latent: Tensor) -> Tensor:
            mean, std = (shaped(x, latent) for x in (model.latent_mean, model.latent_std))
            return latent * std + mean

    own = Format()
    own.latent_channels = spec.channels
    own.latent_dimensions = 3 if facts.frames else 2
    own.spacial_downscale_ratio = spec.scale
    return own


def _weights(model: DiffusionModel) -> dict[str, Tensor]:
    """Every layer name with an empty tensor of its shape on the meta device; layers that files may
    hold fused have that name too, since LoRAs may.
    """
    layout = model.architecture.layout(model.network.config, model.layered)
    shapes = dict(layout)
    for name, shape in layout.items():
        for fused, parts in FUSED_ROWS.items():
            if name.endswith(f".{parts[0]}.weight"):
                own = name.replace(f".{parts[0]}.", f".{fused}.")
                shapes[own] = (shape[0] * len(parts), *shape[1:])
    return {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}
