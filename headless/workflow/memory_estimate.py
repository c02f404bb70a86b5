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

from ...errors import InkstoneError
from ...files.images import glance
from ...host.memory import torch_device
from ...host.model_folders import model_path
from ...loaders.models import load
from ...loaders.models.bundle import Bundle
from ...loaders.models.weight_file import LoadOptions
from ...nodes.canvas import MODELS_SIZE, EmptyLatent, sizes
from ...nodes.control import ApplyControlNet
from ...nodes.edit import EncodeEdit, EncodeLayers, ImageToLatent
from ...nodes.inpaint import Inpaint
from ...nodes.load import EMBEDDED, LoadAll, LoadDiffusionModel, LoadTextEncoder, LoadVAE
from ...nodes.sample import Denoise
from ...nodes.sockets import GROWN
from ...pipeline.edit import area_for
from ...pipeline.edit_choices import AUTO, LAYER_AREAS, WORK_SIZES
from ...pipeline.memory_plan import PlanRequest, plan
from ...sampling.pixel_lock import lock
from ..core_nodes.load_save import LoadFirstFrame, picture_path
from ..graph.api_graph import Graph, Link, Node
from .model_files import LoaderNode

if TYPE_CHECKING:
    from ...controlnet.in_context import InContextModel
    from ...loaders.models.control import ControlModel
    from ...loaders.models.diffusion_model import DiffusionModel

# class -> the input whose picture gives the canvas
_CANVASES = {node.ID: node.CANVAS for node in (EncodeEdit, ImageToLatent, EncodeLayers, Inpaint)}
# classes that keep the size of a picture -> its input
_SAME_SIZE = {"JoinImageWithAlpha": "image", "ImageFromBatch": "image"}


class _Fields(TypedDict, total=False):
    """The fields of PlanRequest that a graph can tell."""

    size: tuple[int, int] | None
    steps: int
    strength: float
    cfg: float
    batch: int
    pictures: int
    layers: int


def memory_lines(graph: Graph) -> list[str]:
    """A line with the plan of each denoise node. Raises InkstoneError."""
    bundle = _bundle(graph)
    if bundle is None:
        return ["no plan: the graph has no Inkstone diffusion model"]
    requests = plan_requests(graph, bundle.model) or [("the model's own size", PlanRequest())]
    return [f"{label}: {plan(bundle, request).sentence()}" for label, request in requests]


def _bundle(graph: Graph) -> Bundle | None:
    """The models of the graph's first loaders, headers only."""
    options = LoadOptions(device=torch_device(), wait=True)
    by_class = {node.class_type: node for node in reversed(graph.values())}
    whole = by_class.get(LoadAll.ID)
    if whole is not None:
        folder = str(whole.inputs.get("folder"))
        return load.load_all(
            None if folder == EMBEDDED else model_path("checkpoints", folder), options
        )

    def path(loader: LoaderNode) -> Path | None:
        ((name, (folder, _)),) = loader.FILES.items()
        value = by_class[loader.ID].inputs.get(name) if loader.ID in by_class else None
        if value == EMBEDDED:
            return load.EMBEDDED_FOLDER
        return model_path(folder, value) if isinstance(value, str) else None

    model, text, vae = path(LoadDiffusionModel), path(LoadTextEncoder), path(LoadVAE)
    if model is None:
        return None
    return Bundle(
        load.load_diffusion_model(model, options),
        load.load_text_encoder(text, options) if text else None,
        load.load_vae(vae, options) if vae else None,
    )


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
    latent = _source(graph, node, "latent")
    schedule = _source(graph, node, "sigmas") or node
    encode = _source(graph, node, "positive")
    controlled = False
    while encode is not None and encode.class_type == ApplyControlNet.ID:
        controlled, encode = True, _source(graph, encode, "positive")
    batch = latent.inputs.get("batch_size") if latent is not None else None
    if latent is not None and latent.class_type == "RepeatLatentBatch":
        batch, latent = latent.inputs.get("amount"), _source(graph, latent, "samples")
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
    words += ["controls not counted"] if controlled else []
    return ", ".join(words) + (f" ({why})" if why else ""), PlanRequest(**fields)


def _canvas(
    graph: Graph, latent: Node | None, model: DiffusionModel
) -> tuple[tuple[int, int] | None, str]:
    """(width and height in pixels or None, where they come from)."""
    if latent is None or latent.inputs.get("size") == MODELS_SIZE:
        return None, ""
    width, height = latent.inputs.get("width"), latent.inputs.get("height")
    if latent.class_type == EmptyLatent.ID:
        width, height = sizes().get(str(latent.inputs.get("size"))) or (width, height)
    if _is_whole(width) and _is_whole(height):
        step = model.latents.scale
        return (width // step * step, height // step * step), ""
    if latent.class_type not in _CANVASES:
        return None, f"{latent.class_type} decides its canvas during the run"
    picture = _source(graph, latent, _CANVASES[latent.class_type])
    while picture is not None and picture.class_type in _SAME_SIZE:
        picture = _source(graph, picture, _SAME_SIZE[picture.class_type])
    if picture is None or picture.class_type not in ("LoadImage", LoadFirstFrame.ID):
        maker = "nothing" if picture is None else picture.class_type
        return None, f"its picture comes from {maker}"
    file = str(picture.inputs.get("image")).removesuffix(" [input]")
    size = _picture_size(file)
    if size is None:
        return None, f"{file} is not in the input folder"
    if latent.class_type == EncodeLayers.ID:
        return _layer_canvas(size, str(latent.inputs.get("area"))), f"of {file}"
    return _locked(model, size, str(latent.inputs.get("work_size", "auto"))), f"of {file}"


def _layer_canvas(size: tuple[int, int], area: str) -> tuple[int, int] | None:
    """The canvas on which a picture of this size is taken apart."""
    return lock(*size, LAYER_AREAS[area]).canvas if area in LAYER_AREAS else None


def _locked(model: DiffusionModel, size: tuple[int, int], work: str) -> tuple[int, int]:
    """The canvas for a picture of this size."""
    work = work if work in WORK_SIZES else AUTO
    return lock(*size, area_for(model.family, work, size), latents=model.latents).canvas


def _picture_size(file: str) -> tuple[int, int] | None:
    """Width and height of an input picture; None if it cannot be read."""
    try:
        return glance(picture_path(file)).size
    except InkstoneError:
        return None


def _source(graph: Graph, node: Node, name: str) -> Node | None:
    """The node that an input is linked to."""
    link = node.inputs.get(name)
    return graph.get(link.node) if isinstance(link, Link) else None


def _is_whole(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool)
