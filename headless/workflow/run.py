"""A graph file, executed without a server: `inkstone run`, and graph jobs of a queue."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from ...files.hashes import model_hash
from ...host.headless import HeadlessHost, using
from ...host.model_folders import model_path
from ...loaders.models.load import EMBEDDED_FOLDER
from ...nodes.load import EMBEDDED
from ..core_nodes.registry import node_classes
from ..graph.api_graph import Graph
from ..graph.events import Event
from ..graph.executor import Executor
from ..node_types import Json, NodeClasses
from .load import GraphFile, read_graph_file, runnable
from .model_files import OURS, require_models
from .set_inputs import apply_settings
from .switches import settle_switches


def graph_of(file: Path | GraphFile, settings: Sequence[str], nodes: NodeClasses) -> Graph:
    """The graph of a file (API, UI or PNG) with `NODE.INPUT=VALUE` settings applied, without the
    branches that its switches do not choose.

    Seeds are those in the file: "control after generate" happens only when the page queues it.
    """
    file = file if isinstance(file, GraphFile) else read_graph_file(file)
    graph = apply_settings(runnable(file, nodes), settings, nodes, file.ui)
    return settle_switches(graph, nodes)


def run_file(
    path: Path,
    settings: Sequence[str],
    host: HeadlessHost,
    progress: Callable[[int, int], None],
    executor: Executor | None = None,
) -> dict[str, Json]:
    """Run a graph file with `NODE.INPUT=VALUE` settings; return files, outputs and seconds.

    executor: keeps models and results from run to run.
    """
    last = executor is None
    executor = executor or Executor(node_classes())
    file = read_graph_file(path)
    graph = graph_of(file, settings, executor.nodes)

    def on_event(event: Event) -> None:
        if event.kind == "progress":
            progress(event.data["value"], event.data["max"])

    with using(host):
        require_models(graph, file.ui)
        chunks: dict[str, Json] = {"inkstone_models": model_hashes(graph)}
    if file.ui is not None and not settings:
        chunks["workflow"] = file.ui  # with settings it would not be the graph that ran
    result = executor.run(graph, host, on_event, chunks, last)
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
    """Name -> hash of every model that the graph's Inkstone loaders name."""
    hashes = {}
    for node in graph.values():
        for key, (kind, _) in OURS.get(node.class_type, {}).items():
            name = node.inputs.get(key)
            if name == EMBEDDED:
                hashes[name] = model_hash(EMBEDDED_FOLDER)
            elif isinstance(name, str):
                hashes[name] = model_hash(model_path(kind, name))
    return hashes
