"""Stand-ins for ComfyUI's loaders and for its nodes that change a MODEL, with our own models.

MODEL is a `CoreModel` here, CLIP and VAE are those of our bridges. Files of other models than ours
are refused by the loaders, as by Inkstone's own.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ...host import model_folders
from ...host.api import io
from ...nodes import ToCLIP, ToVAE
from ...nodes.load import LoadDiffusionModel, LoadTextEncoder, LoadVAE
from ...nodes.sockets import Model, require_models
from ...sampling.prefix_choices import core_keep
from ..node_types import SchemaOutput, Value
from .factory import by_name, node

if TYPE_CHECKING:
    from ...loaders.models.diffusion_model import DiffusionModel

_DTYPES = ["default", "fp8_e4m3fn", "fp8_e4m3fn_fast", "fp8_e5m2"]
_FLUX, _FLOW = 10000, 1000  # sigmas that core's two kinds of model sampling have


@dataclass(frozen=True)
class CoreModel:
    """A MODEL: ours, and the sigmas of core's schedulers on it.

    factor: a of sigma = a t / (1 + (a - 1) t); points: number of its t, evenly spaced up to 1.
    """

    model: DiffusionModel
    factor: float
    points: int = _FLUX

    def sigma(self, point: int) -> float:
        """The sigma of one of the points, from 1."""
        t = point / self.points
        return self.factor * t / (1 + (self.factor - 1) * t)


def core_model(model: DiffusionModel) -> CoreModel:
    """The MODEL of a loaded diffusion model, with core's own shift of its family."""
    return CoreModel(model, math.exp(model.family.core.shift))


def load_model(unet_name: str, weight_dtype: str = "default") -> CoreModel:
    """Load a diffusion model; packed weights stay as they are, whatever the weight type."""
    return core_model(LoadDiffusionModel.execute(unet_name, "auto")[0])


def load_clip(clip_name: str, type: str = "qwen_image", device: str = "default") -> Value:
    """Load a text encoder; its file says of which model it is."""
    return ToCLIP.execute(LoadTextEncoder.execute(clip_name, "auto")[0])[0]


def load_vae(vae_name: str) -> Value:
    """Load a VAE."""
    return ToVAE.execute(LoadVAE.execute(vae_name, "auto")[0])[0]


def to_model(model: DiffusionModel) -> CoreModel:
    """The diffusion model for the stand-ins of core's samplers."""
    require_models(model=model)
    return core_model(model)


def with_lora(model: CoreModel, lora_name: str, strength_model: float) -> CoreModel:
    """Apply a LoRA to the model."""
    from ...loaders.lora.adapters import Adapter, apply_loras
    from ...loaders.lora.file import load_lora

    lora = load_lora(model_folders.model_path("loras", lora_name))
    adapted, _, _ = apply_loras(model.model, None, [Adapter(lora, strength_model)])
    return replace(model, model=adapted)


def shifted(model: CoreModel, shift: float) -> CoreModel:
    """Shift the sigmas by this factor."""
    return replace(model, factor=shift, points=_FLOW)


def with_cache(model: CoreModel, device: str, dtype: str) -> CoreModel:
    """Keep keys and values of prompt and references where this says, exactly in any case."""
    return replace(model, model=model.model.with_prefix_kept(core_keep(device, dtype)))


def _model_output() -> list[SchemaOutput]:
    return [io.Model.Output()]


def _file(name: str, folder: str) -> io.Input:
    return io.Combo.Input(name, options=model_folders.model_files(folder))


MODEL_NODES = by_name(
    node(
        "UNETLoader",
        load_model,
        lambda: [
            _file("unet_name", "diffusion_models"),
            io.Combo.Input("weight_dtype", options=_DTYPES),
        ],
        _model_output,
        display_name="Load Diffusion Model",
        category="advanced/loaders",
    ),
    node(
        "CLIPLoader",
        load_clip,
        lambda: [
            _file("clip_name", "text_encoders"),
            io.Combo.Input("type", options=["qwen_image", "stable_diffusion"]),
            io.Combo.Input("device", options=["default", "cpu"], optional=True),
        ],
        lambda: [io.Clip.Output()],
        display_name="Load CLIP",
        category="advanced/loaders",
    ),
    node(
        "VAELoader",
        load_vae,
        lambda: [_file("vae_name", "vae")],
        lambda: [io.Vae.Output()],
        display_name="Load VAE",
        category="loaders",
    ),
    node(
        "LoraLoaderModelOnly",
        with_lora,
        lambda: [
            io.Model.Input("model"),
            _file("lora_name", "loras"),
            io.Float.Input("strength_model", default=1.0, min=-100.0, max=100.0, step=0.01),
        ],
        _model_output,
        category="loaders",
    ),
    node(
        "ModelSamplingAuraFlow",
        shifted,
        lambda: [
            io.Model.Input("model"),
            io.Float.Input("shift", default=1.73, min=0.0, max=100.0, step=0.01),
        ],
        _model_output,
        category="advanced/model",
    ),
    node(
        "QwenImage21Cache",
        with_cache,
        lambda: [
            io.Model.Input("model"),
            io.Combo.Input("device", options=["auto", "gpu", "cpu", "off"], default="auto"),
            io.Combo.Input("dtype", options=["default", "int8", "int4"], default="default"),
        ],
        _model_output,
        display_name="Qwen Image 2.1 Cache",
        category="model/conditioning/qwen image",
    ),
)
# our own nodes whose output is an object of ComfyUI's: here one of the stand-ins'
BRIDGE_NODES = by_name(
    node(
        "InkstoneToModel",
        to_model,
        lambda: [Model.Input("model")],
        lambda: [io.Model.Output("core_model", display_name="MODEL")],
        display_name="Inkstone to MODEL",
        category="inkstone/bridge",
    )
)
