"""Our network as a core MODEL: a real ModelPatcher around core's own Qwen-Image model, whose
network is ours (network.py), of any family.

So every sampler, scheduler and guider of core works, and so do the core nodes that change schedule
and guidance. Unusual: the weights are not the patcher's (our residency holds them, packed), so it
cannot move, merge or save them; LoRAs of core's loader become side branches.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ...errors import InkstoneError
from ...host.memory import guest_of
from ...loaders.arch.key_maps import FUSED_ROWS
from ..conditioning import SLOTS
from .core_patches import refuse_regions
from .network import LORAS, CoreNetwork

if TYPE_CHECKING:
    from comfy.latent_formats import LatentFormat
    from comfy.model_base import QwenImage
    from comfy.model_patcher import ModelPatcher

    from ...loaders.lora.adapters import Adapter
    from ...loaders.models.diffusion_model import DiffusionModel

Patches = Mapping[str | tuple[str, ...], object]  # core: a key, or key and part -> its change
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
            adapter = _adapter(patches, strength_patch, strength_model)
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


def _unfused(layer: str, up: Tensor) -> dict[str, Tensor]:
    """The layers of ours that a LoRA's layer is, each with its rows of the second matrix."""
    for fused, parts in FUSED_ROWS.items():
        if layer.endswith(f".{fused}"):
            names = (layer.removesuffix(fused) + part for part in parts)
            return dict(zip(names, up.chunk(len(parts)), strict=True))
    return {layer: up}


def _adapter(patches: Patches, strength: float, weight_scale: float) -> Adapter | None:
    """Core's LoRA patches as an adapter of ours; None if there are none."""
    from ...kernels.lora import Change
    from ...kernels.lora_delta import LowRank
    from ...loaders.lora.adapters import Adapter
    from ...loaders.lora.file import Lora
    from ...loaders.lora.layer import LoraLayer

    layers = {}
    for key, patch in patches.items():
        name = key if isinstance(key, str) else key[0]
        parts = tuple(getattr(patch, "weights", ()))
        plain = type(patch).__name__ == "LoRAAdapter" and len(parts) >= 2
        if not plain or not isinstance(key, str) or any(p is not None for p in parts[3:]):
            raise InkstoneError(
                f"A core LoRA node changes {name} by {type(patch).__name__}: packed weights take "
                "only plain LoRAs here. Connect Inkstone Load LoRA before the bridge, it also "
                "reads LoKr, LoHa and DoRA."
            )
        up, down, alpha = parts[0], parts[1], parts[2] if len(parts) > 2 else None
        up, down = up.flatten(1), down.flatten(1)
        scale = 1.0 if alpha is None else float(alpha) / down.shape[0]
        layer = name.removeprefix(_START).removesuffix(".weight")
        for ours, rows in _unfused(layer, up).items():
            change, shape = Change(LowRank(down, rows, scale)), (rows.shape[0], down.shape[1])
            layers[ours] = LoraLayer(change, "LoRA", shape, down.shape[0], alpha)
    if weight_scale != 1.0 and layers:
        raise InkstoneError(
            f"A node scales the weights of the model by {weight_scale:g}: packed weights cannot "
            "be changed. Remove that node."
        )
    return Adapter(Lora(Path("LoRA of a core node"), layers, {}), strength) if layers else None
