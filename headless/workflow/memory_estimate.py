"""What each drawing of a graph will take, for `inkstone check --memory`: read from the graph alone.

Canvases come from empty latents, or from pictures whose headers are read where they are at hand.
What cannot be known before the run (a picture that another node makes) is planned at the model's
own size, and the line says so.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ...errors import InkstoneError
from ...files.images import glance
from ...host.directories import input_directory
from ...nodes.control import ApplyControlNet
from ...nodes.edit import EncodeEdit, EncodeLayers, ImageToLatent
from ...nodes.sample import Denoise, EmptyLatent, sizes
from ...nodes.sockets import GROWN
from ..graph.api_graph import Graph, Link, Node

if TYPE_CHECKING:
    from ...loaders.models.diffusion_model import DiffusionModel
    from ...pipeline.memory_plan import PlanRequest

# node -> the input whose picture gives the canvas
_CANVASES = {node.ID: node.CANVAS for node in (EncodeEdit, ImageToLatent, EncodeLayers)}


def drawings(graph: Graph, model: DiffusionModel) -> list[tuple[str, PlanRequest]]:
    """(what it is, what is wanted) of each denoise node of ours, equal ones once."""
    found = {}
    for node in graph.values():
        if node.class_type == Denoise.ID:
            said, wanted = _drawing(graph, node, model)
            found.setdefault(said, wanted)
    return list(found.items())


def _drawing(graph: Graph, node: Node, model: DiffusionModel) -> tuple[str, PlanRequest]:
    from ...pipeline.memory_plan import PlanRequest

    latent = _behind(graph, node, "latent")
    schedule = _behind(graph, node, "sigmas")
    encode = _behind(graph, node, "positive")
    controlled = False
    while encode is not None and encode.class_type == ApplyControlNet.ID:
        controlled, encode = True, _behind(graph, encode, "positive")
    size, why = _canvas(graph, latent, model)
    more: dict[str, Any] = {"size": size}
    words = [f"{size[0]}x{size[1]}" if size else "the model's own size"]
    if schedule is not None and _whole(schedule.inputs.get("steps")):
        more["steps"] = schedule.inputs["steps"]
        words.append(f"{more['steps']} steps")
    if latent is not None and _whole(latent.inputs.get("batch_size")):
        more["batch"] = latent.inputs["batch_size"]
        words += [f"batch of {more['batch']}"] if more["batch"] > 1 else []
    if encode is not None and encode.class_type == EncodeEdit.ID:
        more["pictures"] = sum(name.startswith(f"{GROWN}.") for name in encode.inputs)
        words.append(f"{more['pictures']} reference picture{'s' * (more['pictures'] > 1)}")
    layers = latent.inputs.get("layers") if latent is not None else None
    if latent is not None and latent.class_type == EncodeLayers.ID and _whole(layers):
        more["layers"] = layers
        words.append(f"{more['layers']} layers")
    words += ["controls not counted"] if controlled else []
    return ", ".join(words) + (f" ({why})" if why else ""), PlanRequest(**more)


def _canvas(
    graph: Graph, latent: Node | None, model: DiffusionModel
) -> tuple[tuple[int, int] | None, str]:
    """(width and height in pixels or None, where they come from)."""
    from ...sampling.geometry import LATENT

    if latent is None:
        return None, "what gives the latent is not in the graph"
    sides = latent.inputs.get("width"), latent.inputs.get("height")
    if latent.class_type == EmptyLatent.ID:
        preset = sizes().get(latent.inputs.get("size"))
        sides = preset or sides
    if all(map(_whole, sides)):
        return (sides[0] // LATENT * LATENT, sides[1] // LATENT * LATENT), ""
    if latent.class_type not in _CANVASES:
        return None, f"{latent.class_type} decides its canvas while it runs"
    picture = _behind(graph, latent, _CANVASES[latent.class_type])
    if picture is None or picture.class_type != "LoadImage":
        maker = "nothing" if picture is None else picture.class_type
        return None, f"its picture comes from {maker}"
    file = str(picture.inputs.get("image")).removesuffix(" [input]")
    size = _size(file)
    if size is None:
        return None, f"{file} is not in the input folder"
    if latent.class_type == EncodeLayers.ID:
        return None, f"of {file}"
    return _locked(model, size, str(latent.inputs.get("work_size", "auto"))), f"of {file}"


def _locked(model: DiffusionModel, size: tuple[int, int], work: str) -> tuple[int, int]:
    """The canvas that a picture of this size is drawn on."""
    from ...pipeline.edit import AUTO, WORK_SIZES, area_for
    from ...sampling.pixel_lock import lock

    work = work if work in WORK_SIZES else AUTO
    return lock(*size, area_for(model.family, work, size)).canvas


def _size(file: str) -> tuple[int, int] | None:
    """Width and height of an input picture; None where none can be read."""
    try:
        return glance(input_directory() / file).size
    except InkstoneError:
        return None


def _behind(graph: Graph, node: Node, name: str) -> Node | None:
    link = node.inputs.get(name)
    return graph.get(link.node) if isinstance(link, Link) else None


def _whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
