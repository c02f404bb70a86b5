"""Memory estimates of the denoise nodes of a graph, for `inkstone check --memory` and for the plan
of a drawing.

Read from the graph and file headers alone. Canvases come from empty latents, or from the headers of
input pictures. A canvas that is unknown before the run (a picture that another node makes) is
planned at the model's own size, and the line says so.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict, TypeGuard

from ...host.memory import torch_device
from ...host.model_folders import model_path
from ...loaders.models import load
from ...loaders.models.bundle import Bundle
from ...loaders.models.weight_file import LoadOptions
from ...nodes.canvas import size_given
from ...nodes.control import ApplyControlNet
from ...nodes.decode import Decode
from ...nodes.edit import EncodeEdit, EncodeLayers, ImageToLatent
from ...nodes.inpaint import Inpaint
from ...nodes.load import EMBEDDED, LoadAll, LoadDiffusionModel, LoadTextEncoder, LoadVAE
from ...nodes.regions import RegionalPrompts
from ...nodes.sample import Denoise
from ...nodes.sockets import GROWN
from ...nodes.upscale import UpscalePicture
from ...pipeline.ask_plan import plan_answer
from ...pipeline.edit import area_for
from ...pipeline.edit_choices import AUTO, LAYER_AREAS, WORK_SIZES
from ...pipeline.memory_plan import PlanRequest, plan
from ...pipeline.upscale import enlarged_size, tiles_for
from ...sampling.pixel_lock import lock
from ..core_nodes.load_save import LoadFirstFrame
from ..graph.api_graph import Graph, Node
from .answer_estimate import picture_size, planned_answer, prompt_writer, source
from .model_files import LoaderNode

if TYPE_CHECKING:
    from ...controlnet.in_context import InContextModel
    from ...loaders.models.control import ControlModel
    from ...loaders.models.diffusion_model import DiffusionModel
    from ...loaders.models.text_encoder import TextEncoderModel

# class -> the input whose picture gives the canvas
_CANVASES = {node.ID: node.CANVAS for node in (EncodeEdit, ImageToLatent, EncodeLayers, Inpaint)}
# classes that keep the size of a picture -> its input
_SAME_SIZE = {
    "JoinImageWithAlpha": "image",
    "ImageFromBatch": "image",
    "RepeatImageBatch": "image",
    "SplitImageWithAlpha": "image",
}


_DRAWS = (Denoise.ID, UpscalePicture.ID)


class _Fields(TypedDict, total=False):
    """The fields of PlanRequest that a graph can tell."""

    size: tuple[int, int] | None
    steps: int
    strength: float
    cfg: float
    batch: int
    pictures: int
    layers: int
    regions: int


def memory_lines(graph: Graph) -> list[str]:
    """A line with the plan of each denoise node, with the prompt that is written for it, and of
    each question about pictures. Raises InkstoneError.
    """
    bundle, text = _models(graph)
    draws = [node for node in graph.values() if node.class_type in _DRAWS and bundle]
    writers = [prompt_writer(graph, _encode(graph, node)[0]) for node in draws]
    lines: list[str] = []
    for node, writer in zip(draws, writers):
        assert bundle is not None  # else nothing draws
        request_of = _tiled if node.class_type == UpscalePicture.ID else _request
        label, request = request_of(graph, node, bundle.model)
        written = planned_answer(graph, writer, text)
        label += ", with a prompt that is enhanced" if written else ""
        lines.append(f"{label}: {plan(bundle, request, written).sentence()}")
    if bundle is not None and not draws:
        lines.append(f"the model's own size: {plan(bundle).sentence()}")
    for node in graph.values():
        answer = None if node in writers else planned_answer(graph, node, text)
        if answer is not None:
            lines.append(f"node {node.id} ({node.title}): {plan_answer(answer).sentence()}")
    lines = lines or ["no plan: the graph has no Inkstone diffusion model"]
    return list(dict.fromkeys(lines))


def _models(graph: Graph) -> tuple[Bundle | None, TextEncoderModel | None]:
    """The models of the graph's first loaders, headers only, and its text encoder."""
    options = LoadOptions(device=torch_device(), wait=True)
    by_class = {node.class_type: node for node in reversed(graph.values())}
    whole = by_class.get(LoadAll.ID)
    if whole is not None:
        folder = str(whole.inputs.get("folder"))
        path_of = None if folder == EMBEDDED else model_path("checkpoints", folder)
        bundle = load.load_all(path_of, options)
        return bundle, bundle.text_encoder

    def path(loader: LoaderNode) -> Path | None:
        ((name, (folder, _)),) = loader.FILES.items()
        value = by_class[loader.ID].inputs.get(name) if loader.ID in by_class else None
        if value == EMBEDDED:
            return load.EMBEDDED_FOLDER
        return model_path(folder, value) if isinstance(value, str) else None

    model, encoder, vae = path(LoadDiffusionModel), path(LoadTextEncoder), path(LoadVAE)
    text = load.load_text_encoder(encoder, options) if encoder else None
    if model is None:
        return None, text
    own = load.load_diffusion_model(model, options)
    return Bundle(own, text, load.load_vae(vae, options) if vae else None), text


def plan_requests(graph: Graph, model: DiffusionModel) -> list[tuple[str, PlanRequest]]:
    """(label, request) of each denoise node of ours, equal ones once."""
    requests: dict[str, PlanRequest] = {}
    for node in graph.values():
        if node.class_type == Denoise.ID:
            label, request = _request(graph, node, model)
            requests.setdefault(label, request)
    return list(requests.items())


def plan_request(
    graph: Graph,
    denoise: str,
    model: DiffusionModel,
    controls: Sequence[ControlModel | InContextModel],
) -> PlanRequest:
    """The request of the denoise node with this id, with its loaded controls that act."""
    from ...loaders.models.control import ControlModel

    request = _request(graph, graph[denoise], model)[1]
    branches = tuple(control for control in controls if isinstance(control, ControlModel))
    loras = tuple(one.lora for one in controls if not isinstance(one, ControlModel))
    return replace(request, in_context=loras, controls=branches)


def _request(graph: Graph, node: Node, model: DiffusionModel) -> tuple[str, PlanRequest]:
    latent = source(graph, node, "latent")
    schedule = source(graph, node, "sigmas") or node
    encode, controlled, regions = _encode(graph, node)
    batch = latent.inputs.get("batch_size") if latent is not None else None
    if latent is not None and latent.class_type == "RepeatLatentBatch":
        batch, latent = latent.inputs.get("amount"), source(graph, latent, "samples")
    size, why = _canvas(graph, latent, model)
    fields: _Fields = {"size": size}
    words = [f"{size[0]}x{size[1]}" if size else "the model's own size"]
    if _is_whole(schedule.inputs.get("steps")) and schedule.inputs["steps"]:
        fields["steps"] = schedule.inputs["steps"]
        words.append(f"{fields['steps']} steps")
    strength, cfg = schedule.inputs.get("strength"), node.inputs.get("cfg")
    if isinstance(strength, float) and 0 < strength < 1:
        fields["strength"] = strength
        words.append(f"denoising strength {strength:g}")
    if isinstance(cfg, int | float) and cfg:
        fields["cfg"] = float(cfg)
    if _is_whole(batch):
        fields["batch"] = batch
        words += [f"batch of {fields['batch']}"] if fields["batch"] > 1 else []
    if encode is not None and encode.class_type == EncodeEdit.ID:
        fields["pictures"] = sum(name.startswith(f"{GROWN}.") for name in encode.inputs)
        words.append(f"{fields['pictures']} reference picture{'s' * (fields['pictures'] > 1)}")
    if latent is not None and latent.class_type == EncodeLayers.ID:
        if _is_whole(latent.inputs.get("layers")):
            fields["layers"] = latent.inputs["layers"]
            words.append(f"{fields['layers']} layers")
    if regions:
        fields["regions"] = regions
        words.append(f"{regions} region{'s' * (regions > 1)}")
    words += ["controls not counted"] if controlled else []
    return ", ".join(words) + (f" ({why})" if why else ""), PlanRequest(**fields)


def _tiled(graph: Graph, node: Node, model: DiffusionModel) -> tuple[str, PlanRequest]:
    """Of a node that enlarges: its tiles, one after the other."""
    inputs, (size, why) = node.inputs, _picture(graph, node, "image", model)
    factor, side = inputs.get("factor"), inputs.get("tile")
    if size is not None and _is_number(factor):
        size = enlarged_size(size, factor)
    tiles = tiles_for(model, size or model.preset().size, side if _is_whole(side) else 0)
    steps, cfg, strength = inputs.get("steps"), inputs.get("cfg"), inputs.get("strength")
    request = PlanRequest(
        size=tiles.size,
        steps=steps if _is_whole(steps) and steps else None,
        cfg=float(cfg) if _is_number(cfg) and cfg else None,
        strength=strength if _is_number(strength) and strength else 1.0,
        tiles=len(tiles) if size else 1,
    )
    words = f"{len(tiles)} tiles of an enlarged {size[0]}x{size[1]}" if size else "enlarged tiles"
    return words + (f" ({why})" if why else ""), request


def _picture(
    graph: Graph, node: Node, name: str, model: DiffusionModel
) -> tuple[tuple[int, int] | None, str]:
    """(size of the picture at an input, or None; why it is not known): of a file, or drawn."""
    picture = source(graph, node, name)
    while picture is not None and picture.class_type in _SAME_SIZE:
        picture = source(graph, picture, _SAME_SIZE[picture.class_type])
    if picture is not None and picture.class_type == Decode.ID:
        sampler = source(graph, picture, "latent")
        latent = None if sampler is None else source(graph, sampler, "latent")
        if sampler is None or sampler.class_type != Denoise.ID:
            return None, "its latent is another node's"
        if latent is not None and latent.class_type in _CANVASES:
            return _picture(graph, latent, _CANVASES[latent.class_type], model)
        size, words = _canvas(graph, latent, model)
        return (size, words) if size or words else (model.preset().size, "")
    if picture is None or picture.class_type not in ("LoadImage", LoadFirstFrame.ID):
        maker = "nothing" if picture is None else picture.class_type
        return None, f"its picture comes from {maker}"
    file = str(picture.inputs.get("image")).removesuffix(" [input]")
    size = picture_size(file)
    return size, f"of {file}" if size else f"{file} is not in the input folder"


def _encode(graph: Graph, node: Node) -> tuple[Node | None, bool, int]:
    """(the node that encodes the prompt of a denoise node, whether controls are applied to it, how
    many regions it has)
    """
    encode, controlled, regions = source(graph, node, "positive"), False, 0
    while encode is not None and encode.class_type in (ApplyControlNet.ID, RegionalPrompts.ID):
        controlled |= encode.class_type == ApplyControlNet.ID
        rows = [text for name, text in encode.inputs.items() if name.startswith("prompt_")]
        regions += sum(text != "" for text in rows)
        encode = source(graph, encode, "positive")
    return encode, controlled, regions


def _canvas(
    graph: Graph, latent: Node | None, model: DiffusionModel
) -> tuple[tuple[int, int] | None, str]:
    """(width and height in pixels or None, where they come from)."""
    given = None if latent is None else size_given(latent.inputs)
    if latent is None or given is None:
        return None, ""
    width, height = given
    if _is_whole(width) and _is_whole(height):
        step = model.latents.scale
        return (width // step * step, height // step * step), ""
    if latent.class_type not in _CANVASES:
        return None, f"{latent.class_type} decides its canvas during the run"
    size, words = _picture(graph, latent, _CANVASES[latent.class_type], model)
    if size is None:
        return None, words
    if latent.class_type == EncodeLayers.ID:
        return _layer_canvas(size, str(latent.inputs.get("area"))), words
    return _locked(model, size, str(latent.inputs.get("work_size", "auto"))), words


def _layer_canvas(size: tuple[int, int], area: str) -> tuple[int, int] | None:
    """The canvas on which a picture of this size is taken apart."""
    return lock(*size, LAYER_AREAS[area]).canvas if area in LAYER_AREAS else None


def _locked(model: DiffusionModel, size: tuple[int, int], work: str) -> tuple[int, int]:
    """The canvas for a picture of this size."""
    work = work if work in WORK_SIZES else AUTO
    return lock(*size, area_for(model.family, work, size), latents=model.latents).canvas


def _is_number(value: object) -> TypeGuard[int | float]:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_whole(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool)
