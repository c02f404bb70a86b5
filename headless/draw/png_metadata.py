"""What the PNG of a draw carries of its graph: `prompt` and `workflow`, as ComfyUI's page and
`inkstone run` read them, and the hashes of its models.

A fault here must never cost the picture: it is told, and the picture is saved without a graph.
"""

from __future__ import annotations

import json
import logging
from typing import TYPE_CHECKING, Any

from ...errors import InkstoneError

if TYPE_CHECKING:
    from ...loaders.models.bundle import Bundle
    from .controls import Controls
    from .request import DrawCall, Settings
    from .task import Task
    from .to_graph import CallGraph, Drawn

log = logging.getLogger(__name__)

_NOTE = """## Drawn by `inkstone draw`

This graph draws the same picture, once its files are there. What it cannot say itself:

"""


def drawn_as(
    call: DrawCall, settings: Settings, prompt: str, task: Task, controls: Controls, bundle: Bundle
) -> Drawn:
    """What a call became; prompt: as it was encoded."""
    from .file_names import held_of
    from .to_graph import Drawn

    given = [*call.image, *(asked.path for asked in call.control)]
    framed = task.kind == "text" and bool(task.locks)
    return Drawn(
        settings,
        task.kind,
        prompt,
        task.layers,
        framed and task.locks[0].picture != task.locks[0].canvas,
        controls.shown(task),
        held_of(given, call.mask),
        _own_statistics(bundle),
    )


def _own_statistics(bundle: Bundle) -> bool:
    """True where the diffusion model, opened alone, would take the same latents."""
    from ...loaders.arch.folder_config import ModelFolder

    alone = ModelFolder(bundle.model.path).latent_statistics(bundle.model.family)
    return all(bool((a == b).all()) for a, b in zip(alone, (bundle.vae.mean, bundle.vae.std)))


def graph_chunks(call: DrawCall, drawn: Drawn, seed: int, told: bool = True) -> dict[str, str]:
    """The chunks of one picture. told: what the graph cannot say is logged."""
    from .to_graph import call_graph

    try:
        made = call_graph(call, drawn, seed)
        if made.notes and told:
            log.info("the graph in the picture: %s", "; ".join(made.notes))
        return {key: json.dumps(value) for key, value in _forms(made).items()}
    except InkstoneError as error:
        log.warning("the picture carries no graph: %s", error)
        return {}


def _forms(made: CallGraph) -> dict[str, Any]:
    """The graph as it ran, as the page shows it, and its models."""
    from ..core_nodes.registry import node_classes
    from ..graph.api_graph import parse_graph, to_api, with_defaults
    from ..workflow.to_ui import Layout, Note, full_graph, ui_from_api

    classes, models = node_classes(), made.names.models()
    hashes = {name: entry["hash"] for name, entry in models.items()} | _embedded(made)
    if made.grown:  # the stand-ins have not so many sockets: the page lays it out
        api = to_api(with_defaults(parse_graph(made.api), classes))
        return {"prompt": api, "inkstone_models": hashes}
    api = to_api(full_graph(made.api, classes))
    said = _NOTE + "".join(f"- {note}\n" for note in made.notes)
    notes = (Note(said, "Read me"),) if made.notes else ()
    ui = ui_from_api(api, classes, Layout(notes=notes, pack="inkstone"))
    if models:
        ui["extra"]["inkstone"] = {"models": models}
    return {"prompt": api, "workflow": ui, "inkstone_models": hashes}


def _embedded(made: CallGraph) -> dict[str, str]:
    """The hash of the model that ships, where the graph uses it."""
    from ...files.hashes import model_hash
    from ...loaders.models.load import EMBEDDED_FOLDER
    from ...nodes.load import EMBEDDED

    used = any(EMBEDDED in node["inputs"].values() for node in made.api.values())
    return {EMBEDDED: model_hash(EMBEDDED_FOLDER)} if used else {}
