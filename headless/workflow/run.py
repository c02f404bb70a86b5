"""`inkstone run`: a graph file, executed without a server."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from ...errors import CallError, InkstoneError
from ...files.hashes import model_hash
from ...host.headless import HeadlessHost, using
from ...host.model_folders import model_path
from ...nodes import load
from ..core_nodes.registry import node_classes
from ..graph.api_graph import Graph
from ..graph.executor import Event, Executor
from .load import GraphFile, apply_settings, read_graph_file, runnable
from .model_files import OURS, require_models


def graph_of(file: Path | GraphFile, settings: Sequence[str], nodes: Mapping[str, type]) -> Graph:
    """The graph of a file (API, UI or PNG) with `NODE.INPUT=VALUE` settings.

    Seeds are those of the file: "control after generate" is what the page does when it queues.
    """
    file = file if isinstance(file, GraphFile) else read_graph_file(file)
    graph = runnable(file, nodes)
    for setting in settings:
        try:
            graph = apply_settings(graph, [setting], nodes, file.ui)
        except InkstoneError as error:
            raise CallError(f"--set {setting}: {error}") from error
    return graph


def run_file(
    path: Path,
    settings: Sequence[str],
    host: HeadlessHost,
    progress: Callable[[int, int], None],
    executor: Executor | None = None,
) -> dict:
    """Runs a graph file with `NODE.INPUT=VALUE` settings; returns files, outputs and seconds.

    executor: keeps models and results from run to run.
    """
    executor = executor or Executor(node_classes())
    file = read_graph_file(path)
    graph = graph_of(file, settings, executor.nodes)

    def on_event(event: Event) -> None:
        if event.kind == "progress":
            progress(event.data["value"], event.data["max"])

    with using(host):
        require_models(graph, file.ui)
        carried: dict = {"inkstone_models": model_hashes(graph)}
    if file.ui is not None and not settings:
        carried["workflow"] = file.ui  # with settings it would not be what ran
    result = executor.run(graph, host, on_event, carried)
    files = [
        str(
            Path(host.output if entry.get("type") == "output" else host.temp)
            / entry.get("subfolder", "")
            / entry["filename"]
        )
        for ui in result.outputs.values()
        for entry in ui.get("images", [])
    ]
    return {"files": files, "outputs": result.outputs, "seconds": round(result.seconds, 3)}


def model_hashes(graph: Graph) -> dict[str, str]:
    """Name -> hash of every model that the graph's loaders name and that is here."""
    from ...loaders.models.load import EMBEDDED_FOLDER

    found = {}
    for node in graph.values():
        for key, (kind, _) in OURS.get(node.class_type, {}).items():
            name = node.inputs.get(key)
            if name == load.EMBEDDED:
                found[name] = model_hash(EMBEDDED_FOLDER)
            elif isinstance(name, str):
                found[name] = model_hash(model_path(kind, name))
    return found
