"""The graph in the PNG of a drawing: `prompt` and `workflow`, as ComfyUI's page and `inkstone run`
read them, and the hashes of its models.

A fault here must never cost the picture: it is logged, and the picture is saved without a graph.
"""

from __future__ import annotations

import json
import logging
from typing import Any

from ...errors import InkstoneError
from ...files.hashes import model_hash
from ...loaders.models.load import EMBEDDED_FOLDER
from ...nodes.load import EMBEDDED
from ..core_nodes.registry import node_classes
from ..graph.api_graph import parse_graph, to_api, with_defaults
from ..workflow.layout import Layout, Note
from ..workflow.to_ui import full_graph, ui_from_api
from .api_builder import ApiGraph
from .decide import Drawing
from .file_names import FileNames
from .graph import DrawGraph, draw_graph
from .request import DrawCall

log = logging.getLogger(__name__)

_NOTE = """## Drawn by `inkstone draw`

This graph draws the same picture, once its files are in place. What it cannot say itself:

"""


def graph_chunks(
    call: DrawCall, drawing: Drawing, seed: int, log_notes: bool = True
) -> dict[str, str]:
    """The text chunks of one picture, the one with this seed. log_notes: what the graph cannot say
    is logged.
    """
    names = FileNames()
    try:
        graph = draw_graph(call, drawing, names, seed, save=True)
        if graph.notes and log_notes:
            log.info("the graph in the picture: %s", "; ".join(graph.notes))
        return {key: json.dumps(value) for key, value in _forms(graph, names).items()}
    except InkstoneError as error:
        log.warning("the picture carries no graph: %s", error)
        return {}


def _forms(graph: DrawGraph, names: FileNames) -> dict[str, Any]:
    """The graph as it ran, as the page shows it, and its models."""
    classes, models = node_classes(), names.models()
    hashes = {name: entry["hash"] for name, entry in models.items()} | _embedded(graph.api)
    if graph.grown:  # the classes here have not that many sockets: the page lays it out
        api = to_api(with_defaults(parse_graph(graph.api), classes))
        return {"prompt": api, "inkstone_models": hashes}
    api = to_api(full_graph(graph.api, classes))
    text = _NOTE + "".join(f"- {note}\n" for note in graph.notes)
    notes = (Note(text, "Read me"),) if graph.notes else ()
    ui = ui_from_api(api, classes, Layout(notes=notes, pack="inkstone"))
    if models:
        ui["extra"]["inkstone"] = {"models": models}
    return {"prompt": api, "workflow": ui, "inkstone_models": hashes}


def _embedded(api: ApiGraph) -> dict[str, str]:
    """The hash of the model that ships, where the graph uses it."""
    used = any(EMBEDDED in node["inputs"].values() for node in api.values())
    return {EMBEDDED: model_hash(EMBEDDED_FOLDER)} if used else {}
