"""The models of a draw call: the loader nodes of its graph, and what they load."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ...errors import InkstoneError
from ...files.paths import kind_of
from ...loaders.arch.identify import BESIDE
from ...nodes.control import LoadControlNet
from ...nodes.load import (
    AUTO,
    EMBEDDED,
    INT8,
    LoadAll,
    LoadDiffusionModel,
    LoadTextEncoder,
    LoadVAE,
)
from ...nodes.lora import ROWS, LoraLoader, row
from ...nodes.reference_cache import ReferenceCache
from ...nodes.step_cache import StepCacheNode
from ...nodes.variety import VarietyNode
from ...sampling.variety_choices import variety_of
from .api_builder import ApiBuilder, Ref
from .file_names import is_embedded
from .request import DrawCall, model_folder, parts_held

if TYPE_CHECKING:
    from ...controlnet.in_context import InContextModel
    from ...loaders.models.bundle import Bundle
    from ...loaders.models.control import ControlModel
    from ...loaders.models.text_encoder import TextEncoderModel
    from ...loaders.models.vae import VAEModel
    from ...sampling.step_cache_choices import StepCache


# the nodes that a call's models come from
MODEL_NODES = tuple(
    node.ID
    for node in (LoadAll, LoadDiffusionModel, LoadTextEncoder, LoadVAE, LoraLoader, LoadControlNet)
)


@dataclass(frozen=True)
class ModelRefs:
    """The outputs of a graph that give its models; None = not named (in a plan for one file)."""

    model: Ref
    text_encoder: Ref | None
    vae: Ref | None
    controls: tuple[Ref, ...] = ()  # one for each control of the call

    def present(self) -> list[Ref]:
        """All that are named."""
        parts = (self.model, self.text_encoder, self.vae, *self.controls)
        return [ref for ref in parts if ref is not None]


@dataclass(frozen=True)
class CallModels:
    """The loaded models of a call, LoRAs included, and the model of each control."""

    bundle: Bundle
    controls: tuple[ControlModel | InContextModel, ...] = ()

    @property
    def text_encoder(self) -> TextEncoderModel:
        """The text encoder; raises without one, which only a plan can do without."""
        if self.bundle.text_encoder is None:
            raise InkstoneError("No text encoder is given: add --text-encoder F.")
        return self.bundle.text_encoder

    @property
    def vae(self) -> VAEModel:
        """The VAE; raises without one, which only a plan can do without."""
        if self.bundle.vae is None:
            raise InkstoneError("No VAE is given: add --vae F.")
        return self.bundle.vae


def add_models(graph: ApiBuilder, call: DrawCall) -> ModelRefs:
    """Adds the loader nodes of a call: diffusion model, text encoder, VAE, LoRAs, controls."""
    model, text, vae = _parts(graph, call)
    model, text = _with_loras(graph, call, model, text)
    if call.reference_cache is not None:
        model = graph.add(ReferenceCache.ID, {"model": model, "keep": call.reference_cache})
    if call.cache is not None and call.cache.threshold:  # at 0 nothing is ever skipped
        model = graph.add(StepCacheNode.ID, {"model": model, **_cache_inputs(call.cache)})
    variety = variety_of(call.variety)
    if variety:
        model = graph.add(VarietyNode.ID, {"model": model, **vars(variety)})
    return ModelRefs(model, text, vae, _controls(graph, call))


def _cache_inputs(cache: StepCache) -> dict[str, object]:
    return {
        "method": cache.method,
        "threshold": cache.threshold,
        "start": cache.start,
        "end": cache.end,
        "force": cache.forced,
    }


def _float_dtype(call: DrawCall) -> dict[str, object]:
    """The dtype of models that are no diffusion model, which alone computes in int8."""
    return {"dtype": AUTO if call.dtype in (None, INT8) else call.dtype}


def _parts(graph: ApiBuilder, call: DrawCall) -> tuple[Ref, Ref | None, Ref | None]:
    """Model, text encoder and VAE: from one folder or checkpoint, or each from its own file."""
    names, dtype = graph.names, _float_dtype(call)
    options = {"dtype": call.dtype or AUTO, "variant": call.variant or AUTO}
    embedded = is_embedded(call.model)
    file, held = model_folder(call), parts_held(call)
    whole = call.text_encoder is None and call.vae is None and held == {*BESIDE}
    text: Ref | None = None
    vae: Ref | None = None
    if embedded or whole:
        kind = "checkpoints" if kind_of(file) == "a file" else "diffusers"
        name = EMBEDDED if embedded else names.of(kind, file)
        key = graph.add(LoadAll.ID, {"folder": name, **options})[0]
        model, text, vae = Ref(key, 0), Ref(key, 1), Ref(key, 2)
    else:
        name = names.of("diffusion_models", file)
        model = graph.add(LoadDiffusionModel.ID, {"model": name, **options})
    text_file = call.text_encoder or (file if text is None and "text_encoder" in held else None)
    if text_file is not None:
        name = names.of("text_encoders", text_file)
        text = graph.add(LoadTextEncoder.ID, {"text_encoder": name, **dtype})
    vae_file = call.vae or (file if vae is None and "vae" in held else None)
    if vae_file is not None:
        vae = graph.add(LoadVAE.ID, {"vae": names.of("vae", vae_file), **dtype})
    return model, text, vae


def _with_loras(
    graph: ApiBuilder, call: DrawCall, model: Ref, text: Ref | None
) -> tuple[Ref, Ref | None]:
    """LoRA loaders of `ROWS` files each, one behind the other."""
    for start in range(0, len(call.lora), ROWS):
        inputs: dict[str, object] = {"model": model}
        if text is not None:
            inputs["text_encoder"] = text
        for n, (path, strength) in enumerate(call.lora[start : start + ROWS], 1):
            inputs |= row(n, graph.names.of("loras", path), strength)
        key = graph.add(LoraLoader.ID, inputs).node
        model, text = Ref(key, 0), Ref(key, 1) if text else None
    return model, text


def _controls(graph: ApiBuilder, call: DrawCall) -> tuple[Ref, ...]:
    """The loader of each control; a file that serves several is loaded once."""
    paths, count = list(call.control_model), len(call.control)
    names = [graph.names.of("controlnet", path) for path in paths]
    if count and not paths:  # the control in the model's own folder
        own = is_embedded(call.model)
        names = [EMBEDDED if own else graph.names.of("controlnet", model_folder(call))]
    dtype = _float_dtype(call)
    loaders = {
        name: graph.add(LoadControlNet.ID, {"control": name, **dtype})
        for name in dict.fromkeys(names)
    }
    return tuple(loaders[name] for name in (names * count if len(names) == 1 else names))
